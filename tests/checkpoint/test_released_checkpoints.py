"""What earlier releases, and this one, have left in storage is restored: state, timers, positions, pending output, journal."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import released_job
from make_released import EXPECTED, PARALLELISM, RELEASED, RUN, lines_of, write_job

from checkdam.checkpoint.folders import SavepointFolder
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.checkpoint.opening import open_checkpoint, open_job
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.verification import verify_job
from checkdam.offline import open_savepoint
from checkdam.state.backends import BackendKind
from checkdam.testing import Harness, ManualClock

RELEASES = sorted(folder.name for folder in RELEASED.iterdir())
BACKENDS = get_args(BackendKind)

Job = tuple[str, str]
"""A release, and the backend that its job ran on."""


@pytest.fixture(params=[(release, backend) for release in RELEASES for backend in PARALLELISM], ids="-".join)
def job(request: pytest.FixtureRequest) -> Job:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def folder(job: Job, tmp_path: Path) -> Path:
    """The job's folder, as it lay in storage."""
    release, backend = job
    target = tmp_path / "state" / "default" / "released"
    shutil.unpack_archive(RELEASED / release / f"{backend}.tar.xz", target, filter="data")
    return target


def expected(job: Job) -> list[str]:
    lines: list[str] = json.loads((RELEASED / job[0] / EXPECTED).read_text())
    return lines


def savepoint_in(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if SavepointFolder.parse(path.name))


def inlined(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, or of a job's latest one, with all files in it."""
    store, name = open_checkpoint(folder.as_uri())
    manifest = store.read_manifest(name)
    subtasks = [
        msgspec.structs.replace(
            subtask,
            files=[
                msgspec.structs.replace(handle, path="", inline=store.storage.read(handle.path))
                if handle.path
                else handle
                for handle in subtask.files
            ],
        )
        for subtask in manifest.subtasks
    ]
    return msgspec.structs.replace(manifest, subtasks=subtasks)


def output_from(manifest: CheckpointManifest, backend: BackendKind, parallelism: int, folder: Path) -> list[str]:
    """What the job yields when it goes on from a checkpoint and reads to its end."""
    gate, out = folder / "gate", folder / "out"
    gate.write_text(str(released_job.GATE))
    clock = ManualClock(manifest.processing_time_ms)
    args = {"gate": str(gate), "out": str(out)}
    with Harness(released_job.build, args=args, backend=backend, parallelism=parallelism, clock=clock) as harness:
        harness.last_checkpoint = manifest
        harness.upgrade(released_job.build)
        harness.run()
        harness.advance(released_job.FAR_FUTURE_MS - clock.now_ms())
        gate.write_text(str(released_job.END))
        harness.finish()
    return sorted(lines_of(out))


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_checkpoint_is_restored_by_the_backend_that_wrote_it(
    job: Job, folder: Path, parallelism: int, tmp_path: Path
) -> None:
    backend: BackendKind = "rocksdb" if job[1] == "rocksdb" else "hashmap"
    assert output_from(inlined(folder), backend, parallelism, tmp_path) == expected(job)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_savepoint_is_restored_by_every_backend(job: Job, folder: Path, backend: BackendKind, tmp_path: Path) -> None:
    assert output_from(inlined(savepoint_in(folder)), backend, 1, tmp_path) == expected(job)


def test_everything_in_storage_is_whole_and_listed(folder: Path) -> None:
    store = open_job(folder.as_uri())
    found = verify_job(store)
    assert found.good
    assert [info.problem for info in store.list_checkpoints()] == ["", "", ""]
    assert [bool(SavepointFolder.parse(name)) for name in found.checkpoints] == [False, True, False]
    assert found.orphans == []


def test_the_checkpoints_of_rocksdb_share_a_file(job: Job, folder: Path) -> None:
    store = open_job(folder.as_uri())
    first, savepoint, second = [store.read_manifest(info.folder).paths() for info in store.list_checkpoints()]
    assert bool(first & second) == (job[1] == "rocksdb")
    assert not savepoint & (first | second)


def test_the_journal_is_taken_over(folder: Path) -> None:
    storage = open_job(folder.as_uri()).storage
    before = Journal(storage).tail()
    assert before is not None
    fence = Journal(storage).fence()
    assert (fence.seq, fence.follows, fence.retained) == (before.seq + 1, "checkpoint", before.retained)
    assert CheckpointStore(storage, "default/released").read_manifest(fence.checkpoint).id == before.checkpoint_id


def test_the_job_itself_goes_on(job: Job, folder: Path, tmp_path: Path) -> None:
    write_job(tmp_path, job[1])
    (tmp_path / "gate").write_text(str(released_job.END))
    done = subprocess.run(RUN, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    in_time = [line for line in expected(job) if str(released_job.FAR_FUTURE_MS) not in line]
    assert sorted(lines_of(tmp_path / "out")) == in_time


@pytest.mark.parametrize("what", ["checkpoint", "savepoint"])
def test_state_is_read_without_the_job(folder: Path, what: str) -> None:
    place = savepoint_in(folder) if what == "savepoint" else folder
    savepoint = open_savepoint(place.as_uri())
    numbers = {key: [n for n in range(released_job.GATE) if released_job.KEYS[n % 8] == key] for key in ("text", 7)}
    totals = {row.key: row.value for row in savepoint.read("everything", "total")}
    lasts = {row.key: row.value for row in savepoint.read("everything", "last", types=released_job.Order)}
    points = Counter(row.key for row in savepoint.read("everything", "points"))
    for key, own in numbers.items():
        assert totals[key] == sum(own)
        assert lasts[key] == released_job.Order(own[-1], released_job.Side.RIGHT, own[-1] / 2)
        assert points[key] == len(own)
    assert {row.key for row in savepoint.read("everything", "tree")} == set(released_job.KEYS)
    timers = {timer.time_ms for timer in savepoint.timers("everything")}
    assert released_job.FAR_FUTURE_MS in timers
    assert {split.position for split in savepoint.splits("orders")} == {released_job.GATE}
