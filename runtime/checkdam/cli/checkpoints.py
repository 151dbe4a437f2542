"""`checkdam checkpoints`: what is in checkpoint storage, read without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from checkdam.cli.console import say, say_json, say_table, time_text
from checkdam.cli.exits import FAILED
from checkdam.cli.values import storage_uri
from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.core.sizes import format_bytes

if TYPE_CHECKING:
    from checkdam.checkpoint.manifest import CheckpointManifest
    from checkdam.checkpoint.store import CheckpointInfo
    from checkdam.checkpoint.verification import Verification, Watch

checkpoints = typer.Typer(help="Look at the checkpoints of a job.", no_args_is_help=True, rich_markup_mode=None)

JobUri = Annotated[str, typer.Argument(metavar="URI", help="A job's folder in checkpoint storage, as a uri or a path.")]
CheckpointUri = Annotated[
    str,
    typer.Argument(metavar="URI", help="A job's folder in checkpoint storage or a checkpoint's, as a uri or a path."),
]
_ORPHANS_SHOWN: Final = 10

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@checkpoints.command("list")
def list_checkpoints(uri: JobUri, as_json: AsJson = False) -> None:
    """List the checkpoints of a job, newest first."""
    from checkdam.checkpoint.opening import open_job

    store = open_job(storage_uri(uri, Path.cwd()))
    found = store.list_checkpoints()[::-1]
    if as_json:
        say_json(found)
    elif not found:
        say(f"{store.storage.uri} holds no checkpoints yet")
    else:
        rows = [
            (str(info.id), info.folder, _taken(info), format_bytes(info.size_bytes), _state(info)) for info in found
        ]
        say_table(store.storage.uri, ("id #", "folder", "taken", "size #", "state"), rows)


@checkpoints.command("show")
def show(uri: CheckpointUri, as_json: AsJson = False) -> None:
    """Show what a checkpoint holds; of a job's folder, the latest one."""
    from checkdam.checkpoint.opening import open_checkpoint

    store, folder = open_checkpoint(storage_uri(uri, Path.cwd()))
    manifest = store.read_manifest(folder)
    if as_json:
        say_json(manifest)
        return
    say(_summary(store.storage.uri, folder, manifest))
    say_table("operators", ("operator", "kind", "state"), _operator_rows(manifest))
    say_table("subtasks", ("stage", "subtask #", "key groups", "files #", "size #"), _subtask_rows(manifest))


@checkpoints.command("verify")
def verify(uri: CheckpointUri, as_json: AsJson = False) -> None:
    """Read every file of a checkpoint, or all that a job's folder holds, and compare sizes and checksums.

    Of a job's folder: its journal, the checkpoints that it retains, and its savepoints. Files that none of these names are
    listed, too; they are no fault. The exit code is 1 if anything is missing or damaged.
    """
    from checkdam.cli.progress import reading_progress

    with reading_progress(shown=not as_json) as watch:
        found = _verified(storage_uri(uri, Path.cwd()), watch)
    if as_json:
        say_json(found)
    else:
        say("\n".join(_verdict(found)))
    if not found.good:
        raise typer.Exit(FAILED)


def _verified(uri: str, watch: Watch) -> Verification:
    from checkdam.checkpoint.opening import open_checkpoint, open_job
    from checkdam.checkpoint.storage.locate import open_folder
    from checkdam.checkpoint.store import CheckpointStore
    from checkdam.checkpoint.verification import verify_checkpoint, verify_job

    try:
        store = open_job(uri)
    except CorruptCheckpointError:
        store = CheckpointStore(open_folder(uri))  # what is wrong with its journal is told beside all the rest
    except CheckpointError:
        return verify_checkpoint(*open_checkpoint(uri), watch)
    found = verify_job(store, watch)
    if found.good and not found.checkpoints:
        raise CheckpointError(f"{uri} holds no checkpoints yet, so there is nothing to verify")
    return found


def _verdict(found: Verification) -> list[str]:
    """What was found, line by line."""
    lines = [f"  - {problem}" for problem in found.journal]
    if lines:
        lines.insert(0, "the journal is damaged:")
    for folder, problems in found.checkpoints.items():
        lines += [f"{folder} is {'damaged:' if problems else 'good'}", *(f"  - {problem}" for problem in problems)]
    if found.orphans:
        size = format_bytes(sum(file.size_bytes for file in found.orphans))
        lines.append(
            f"{len(found.orphans)} files ({size}) belong to none of these; what of them is no longer written is swept:"
        )
        lines += [f"  - {file.path}" for file in found.orphans[:_ORPHANS_SHOWN]]
        if len(found.orphans) > _ORPHANS_SHOWN:
            lines.append(f"  - and {len(found.orphans) - _ORPHANS_SHOWN} more (all of them with --json)")
    return lines


def _taken(info: CheckpointInfo) -> str:
    return time_text(info.created_ms) if info.created_ms else ""


def _state(info: CheckpointInfo) -> str:
    if info.problem:
        return info.problem
    if info.kind == "savepoint":
        return "latest, savepoint" if info.latest else "savepoint"
    return "latest" if info.latest else "retained" if info.retained else "dropped"


def _summary(uri: str, folder: str, manifest: CheckpointManifest) -> str:
    from checkdam.checkpoint.uploads import uploaded_bytes

    new_bytes = uploaded_bytes(folder, [handle for subtask in manifest.subtasks for handle in subtask.files])
    facts = {
        manifest.kind: f"{uri}/{folder}",
        "id": f"{manifest.id}{', the final one' if manifest.final else ''}{', drained' if manifest.drained else ''}",
        "job": manifest.job_id,
        "taken": f"{time_text(manifest.created_ms)}, epoch {manifest.epoch}, attempt {manifest.attempt}",
        "mode": manifest.mode,
        "parallelism": f"{manifest.parallelism} of at most {manifest.max_parallelism}",
        "size": f"{format_bytes(manifest.size_bytes)}, of which {format_bytes(new_bytes)} were uploaded for it",
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
        rows.append((subtask.stage, str(subtask.subtask), groups, str(len(subtask.files)), format_bytes(size_bytes)))
    return rows
