"""`checkdam run`: a job on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from checkdam.cli.values import parse_pairs, storage_uri

TargetName = Annotated[
    str, typer.Argument(metavar="TARGET", help="A manifest (job.yaml), module:callable or path/module.py:callable.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, even if the job was interrupted before.")]
RestoreUri = Annotated[
    str | None, typer.Option("--restore-from", metavar="URI", help="Start from this checkpoint or savepoint.")
]
StorageUri = Annotated[
    str | None, typer.Option(metavar="URI", help="Where checkpoints go. Default for module:callable: .checkdam.")
]
Parallelism = Annotated[int | None, typer.Option(metavar="N", help="How many workers.")]
Interval = Annotated[str | None, typer.Option(metavar="DURATION", help="Time between checkpoints, such as 1s.")]
Mode = Annotated[str | None, typer.Option(metavar="MODE", help="ExactlyOnce, AtLeastOnce or AtMostOnce.")]
Backend = Annotated[str | None, typer.Option(metavar="TYPE", help="State backend: hashmap or rocksdb.")]
Args = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the entrypoint; JSON or text. Repeatable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any field below spec, such as restart.strategy=Never. Repeatable."
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Where logs and local state of this run go: a new folder, or that of an earlier run."
    ),
]
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Show live progress on a terminal.")]


def run(
    target: TargetName,
    fresh: Fresh = False,
    restore: RestoreUri = None,
    storage: StorageUri = None,
    parallelism: Parallelism = None,
    interval: Interval = None,
    mode: Mode = None,
    backend: Backend = None,
    args: Args = None,
    settings: Settings = None,
    run_dir: RunDir = None,
    progress: Progress = True,
) -> None:
    """Run a job on this machine until it finishes.

    A job that was interrupted goes on from its last checkpoint. Flags override the manifest. Ctrl-C once stops the job after a last
    checkpoint; twice kills it.
    """
    from checkdam.cli.target import Overrides, find_target

    if fresh and restore is not None:
        raise typer.BadParameter(
            "`--fresh` and `--restore-from` must not be given together: one starts over, the other from a checkpoint"
        )
    cwd = Path.cwd()
    fields = {
        "parallelism": parallelism,
        "checkpoint.interval": interval,
        "checkpoint.mode": mode,
        "stateBackend.type": backend,
    }
    overrides = Overrides(
        storage_uri=None if storage is None else storage_uri(storage, cwd),
        args=parse_pairs(args or (), "--arg"),
        fields={
            **parse_pairs(settings or (), "--set"),
            **{path: value for path, value in fields.items() if value is not None},
        },
    )
    found = find_target(target, overrides, cwd)
    if restore is not None:
        restore = storage_uri(restore, cwd)
    elif not fresh:
        fresh, restore = starting_point(found.job.spec.restore_from, target)

    from checkdam.local.runner import run_local

    code = run_local(
        found.job,
        found.base_folder,
        fresh=fresh,
        restore_from=restore,
        run_dir=run_dir,
        progress=progress,
    )
    raise typer.Exit(code)


def starting_point(restore_from: str, source: str) -> tuple[bool, str | None]:
    """What `spec.restoreFrom` means on one machine: whether to start over, and the checkpoint to start from.

    Raises:
        ManifestError: It names a Savepoint, which only a cluster can look up.
    """
    from checkdam.spec import FRESH, ManifestError

    if restore_from == FRESH:
        return True, None
    if restore_from and "://" not in restore_from:
        problem = (
            f"`spec.restoreFrom` must be the uri of a checkpoint or '{FRESH}' in a local run (got {restore_from!r})"
        )
        raise ManifestError([problem], source)
    return False, restore_from or None
