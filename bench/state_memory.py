"""`make bench-memory`, its first half: does RocksDB state many times its memory stay within it?

One `RocksDbBackend` is filled with 5 GiB at `memory: 256Mi`, updated and read at random, and snapshotted while that goes
on, as a checkpoint and as a savepoint. Then each of the snapshots is restored, as the part that a subtask takes after a
rescale. Each step runs in a process of its own, as does the conversion of the savepoint: its highest resident memory is
printed against its memory before it had any state (the base) plus the bound.
"""

from __future__ import annotations

import random
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer

from checkdam.core.clock import SystemClock
from checkdam.core.keys import key_group_range
from checkdam.core.serde import serde_for
from checkdam.spec.fields import quantity_bytes
from checkdam.state.base import LocalFile, TableSpec
from checkdam.state.canonical import canonical_blocks
from checkdam.state.rocksdb import RocksDbBackend
from checkdam.testing.snapshots import LocalSnapshot

KEY_GROUPS = 128
BATCH = 2048
TABLE = TableSpec("op", "t", serde_for(bytes, "the benchmark's values"))


@dataclass(frozen=True)
class Load:
    """What is measured: sizes in bytes."""

    folder: Path
    memory: int
    state: int
    value: int
    random_batches: int

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return self.state // self.value


@dataclass(frozen=True)
class Found:
    """What a step has found.

    Attributes:
        base_bytes, peak_bytes: Resident memory of its process, before and at most.
        seconds: How long it took.
        snapshots: The files of those that it took.
    """

    base_bytes: int
    peak_bytes: int
    seconds: float
    snapshots: tuple[list[LocalFile], ...]


Work = Callable[..., tuple[list[LocalFile], ...]]


def _measured(work: Work, load: Load, *files: list[LocalFile]) -> Found:
    base_bytes = psutil.Process().memory_info().rss
    began = time.perf_counter()
    snapshots = work(load, *files)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Found(base_bytes, peak_bytes, time.perf_counter() - began, snapshots)


def _backend(load: Load, name: str, key_groups: range) -> RocksDbBackend:
    directory = load.folder / name
    directory.mkdir()
    return RocksDbBackend(key_groups, KEY_GROUPS, directory, clock=SystemClock(), memory_bytes=load.memory)


def _put(backend: RocksDbBackend, keys: list[int], value_bytes: int, rng: random.Random) -> None:
    table = backend.table(TABLE)
    cells = table.cells(0, keys)
    for key in keys:
        # Half of it compresses, as states do.
        cells[key] = rng.randbytes(value_bytes // 2) + bytes(value_bytes - value_bytes // 2)
    table.changed(0, keys)
    backend.maintain()


def _use(load: Load) -> tuple[list[LocalFile], ...]:
    """Fill it, then update and read at random, with both kinds of snapshots taken meanwhile."""
    rng = random.Random(1)
    backend = _backend(load, "used", range(KEY_GROUPS))
    for start in range(0, load.keys, BATCH):
        _put(backend, [key * 7919 % load.keys for key in range(start, min(start + BATCH, load.keys))], load.value, rng)
    taken: list[list[LocalFile]] = []
    for canonical in (False, True):
        backend.prepare()
        directory = load.folder / ("savepoint" if canonical else "checkpoint")
        directory.mkdir()
        writer = backend.snapshot(directory, canonical=canonical)
        writing = threading.Thread(target=lambda writer=writer: taken.append(writer.finish()))
        writing.start()
        for _ in range(load.random_batches):
            keys = [rng.randrange(load.keys) for _ in range(BATCH)]
            _put(backend, keys[: BATCH // 2], load.value, rng)
            cells = backend.table(TABLE).cells(0, keys[BATCH // 2 :])
            assert all(len(cells[key]) == load.value for key in keys[BATCH // 2 :])
        writing.join()
    backend.close()
    shutil.rmtree(load.folder / "used")
    return tuple(taken)


def _restore(load: Load, files: list[LocalFile]) -> tuple[list[LocalFile], ...]:
    """Restore two thirds, read some of it, and take a snapshot of it."""
    rng = random.Random(2)
    owned = range(key_group_range(KEY_GROUPS, 3, 0).stop, KEY_GROUPS)
    backend = _backend(load, "restored", owned)
    backend.restore([LocalSnapshot(files, range(KEY_GROUPS))])
    for _ in range(load.random_batches // 4):
        keys = [key for key in (rng.randrange(load.keys) for _ in range(BATCH)) if backend.key_group(key) in owned]
        cells = backend.table(TABLE).cells(0, keys)
        assert all(len(cells[key]) == load.value for key in keys)
    directory = load.folder / "again"
    directory.mkdir()
    backend.snapshot(directory).finish()
    backend.close()
    shutil.rmtree(load.folder / "restored")
    shutil.rmtree(directory)
    return ()


def _convert(load: Load, files: list[LocalFile]) -> tuple[list[LocalFile], ...]:
    """What a savepoint's own process does."""
    canonical_blocks(LocalSnapshot(files, range(KEY_GROUPS)), load.folder / "converted")
    shutil.rmtree(load.folder / "converted")
    return ()


def main(
    state: Annotated[str, typer.Option(help="Size of the state.")] = "5Gi",
    memory: Annotated[str, typer.Option(help="What RocksDB may use.")] = "256Mi",
    value: Annotated[str, typer.Option(help="Size of a value.")] = "1Ki",
    random_batches: Annotated[int, typer.Option(help="Batches of random keys after the fill, twice.")] = 100,
    folder: Annotated[Path | None, typer.Option(help="Where the state goes; a temporary folder by default.")] = None,
) -> None:
    """Measure, and print one line for each step; the exit code says whether all stayed within the bound."""
    bound = quantity_bytes(memory)
    context = get_context("spawn")
    with TemporaryDirectory(dir=folder) as place:
        load = Load(Path(place), bound, quantity_bytes(state), quantity_bytes(value), random_batches)

        within = True

        def run(name: str, work: Work, *files: list[LocalFile]) -> Found:
            nonlocal within
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found = pool.submit(_measured, work, load, *files).result()
            share = (found.peak_bytes - found.base_bytes) / bound
            within = within and share <= 1
            print(
                f"{name:22} base {found.base_bytes >> 20:4} MiB  peak {found.peak_bytes >> 20:4} MiB  "
                f"bound used {share:4.0%}  {found.seconds:5.1f} s",
                flush=True,
            )
            return found

        checkpoint, savepoint = run("fill, use, snapshot", _use).snapshots
        run("convert a savepoint", _convert, checkpoint)
        run("restore a checkpoint", _restore, checkpoint)
        run("restore a savepoint", _restore, savepoint)
    raise SystemExit(not within)


if __name__ == "__main__":
    typer.run(main)
