"""`checkdam checkpoints`: what is in checkpoint storage, read without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkdam.cli.console import say, say_json, say_table, size_text, time_text
from checkdam.cli.exits import FAILED
from checkdam.cli.values import storage_uri
from checkdam.core.errors import CheckpointError

if TYPE_CHECKING:
    from checkdam.checkpoint.manifest import CheckpointManifest
    from checkdam.checkpoint.store import CheckpointInfo, CheckpointStore

checkpoints = typer.Typer(help="Look at the checkpoints of a job.", no_args_is_help=True, rich_markup_mode=None)

JobUri = Annotated[str, typer.Argument(metavar="URI", help="A job's folder in checkpoint storage, as a uri or a path.")]
CheckpointUri = Annotated[
    str,
    typer.Argument(metavar="URI", help="A job's folder in checkpoint storage or a checkpoint's, as a uri or a path."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@checkpoints.command("list")
def list_checkpoints(uri: JobUri, as_json: AsJson = False) -> None:
    """List the checkpoints of a job, newest first."""
    from checkdam.checkpoint.store import open_job

    store = open_job(storage_uri(uri, Path.cwd()))
    found = store.list_checkpoints()[::-1]
    if as_json:
        say_json(found)
    elif not found:
        say(f"{store.storage.uri} holds no checkpoints yet")
    else:
        rows = [(str(info.id), info.folder, _taken(info), size_text(info.size_bytes), _state(info)) for info in found]
        say_table(store.storage.uri, ("id #", "folder", "taken", "size #", "state"), rows)


@checkpoints.command("show")
def show(uri: CheckpointUri, as_json: AsJson = False) -> None:
    """Show what a checkpoint holds; of a job's folder, the latest one."""
    from checkdam.checkpoint.store import open_checkpoint

    store, folder = open_checkpoint(storage_uri(uri, Path.cwd()))
    manifest = store.read_manifest(folder)
    if as_json:
        say_json(manifest)
        return
    say(_summary(f"{store.storage.uri}/{folder}", manifest))
    say_table("operators", ("operator", "kind", "state"), _operator_rows(manifest))
    say_table("subtasks", ("stage", "subtask #", "key groups", "files #", "size #"), _subtask_rows(manifest))


@checkpoints.command("verify")
def verify(uri: CheckpointUri, as_json: AsJson = False) -> None:
    """Read every file of a checkpoint, or of all that a job retains, and compare sizes and checksums.

    The exit code is 1 if anything is missing or damaged.
    """
    store, folders = _to_verify(storage_uri(uri, Path.cwd()))
    found = {folder: store.verify(folder) for folder in folders}
    if as_json:
        say_json(found)
    else:
        for folder, problems in found.items():
            say("\n  - ".join([f"{folder} is {'damaged:' if problems else 'good'}", *problems]))
    if any(found.values()):
        raise typer.Exit(FAILED)


def _to_verify(uri: str) -> tuple[CheckpointStore, list[str]]:
    from checkdam.checkpoint.store import open_checkpoint, open_job

    try:
        store = open_job(uri)
    except CheckpointError:
        store, folder = open_checkpoint(uri)
        return store, [folder]
    folders = [info.folder for info in store.list_checkpoints() if info.retained]
    if not folders:
        raise CheckpointError(f"{uri} holds no checkpoints yet, so there is nothing to verify")
    return store, folders


def _taken(info: CheckpointInfo) -> str:
    return time_text(info.created_ms) if info.created_ms else ""


def _state(info: CheckpointInfo) -> str:
    if info.problem:
        return info.problem
    return "latest" if info.latest else "retained" if info.retained else "dropped"


def _summary(where: str, manifest: CheckpointManifest) -> str:
    facts = {
        "checkpoint": where,
        "id": f"{manifest.id}{', the final one' if manifest.final else ''}",
        "job": manifest.job_id,
        "taken": f"{time_text(manifest.created_ms)}, epoch {manifest.epoch}, attempt {manifest.attempt}",
        "mode": manifest.mode,
        "parallelism": f"{manifest.parallelism} of at most {manifest.max_parallelism}",
        "size": size_text(manifest.size_bytes),
    }
    return "\n".join(f"{name + ':':<13}{value}" for name, value in facts.items())


def _operator_rows(manifest: CheckpointManifest) -> list[tuple[str, ...]]:
    return [
        (operator.id, operator.kind, ", ".join(f"{table}: {serde}" for table, serde in operator.state.items()))
        for operator in manifest.operators
    ]


def _subtask_rows(manifest: CheckpointManifest) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for subtask in manifest.subtasks:
        groups = f"{subtask.key_groups[0]} to {subtask.key_groups[1] - 1}" if subtask.key_groups else ""
        size_bytes = sum(file.size_bytes for file in subtask.files)
        rows.append((subtask.stage, str(subtask.subtask), groups, str(len(subtask.files)), size_text(size_bytes)))
    return rows
