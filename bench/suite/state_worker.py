"""One worker of the state benchmark: a process that holds RocksDB state and moves it, with the parts that real workers use.

Functions here are called in worker processes, one after the other; what a process holds is in `_held`.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
from s3transfer.manager import TransferConfig, TransferManager

from checkdam.checkpoint.manifest import SubtaskSnapshot
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.checkpoint.stored import FetchedSnapshot
from checkdam.checkpoint.transfers import Transfers
from checkdam.core.clock import SystemClock
from checkdam.core.keys import key_group, key_group_range
from checkdam.core.serde import serde_for
from checkdam.spec.checkpoint import CheckpointStorage
from checkdam.state.backends import make_backend
from checkdam.state.base import KeyedBackend, LocalFile, TableSpec
from checkdam.testing.snapshots import LocalSnapshot
from checkdam.wire.messages import AttemptId, Trigger
from checkdam.worker.checkpoint_files import CheckpointFiles
from checkdam.worker.local_files import LocalFiles, open_local_files
from checkdam.worker.task import SWITCH_INTERVAL_S

KEY_GROUPS: Final = 128
VALUE_BYTES: Final = 1000
TRANSFERS: Final = 4
PART_BYTES: Final = 8 << 20
MEMORY_BYTES: Final = 256 << 20
STAGE: Final = "state"
RESTORING_SWITCH_INTERVAL_S: Final = sys.getswitchinterval()
QUIET_S: Final = 2.0
PASSING_S: Final = 0.5
PASSING_STEPS: Final = 20
_BATCH: Final = 4096
_SPEC: Final = TableSpec("bench", "value", serde_for(bytes, "the values of the benchmark"))


@dataclass(frozen=True)
class Site:
    """Where everything is.

    Attributes:
        folder: For local files of all workers.
        bucket: Of the S3 server.
        endpoint: Of the S3 server; its keys are in the environment.
        entries: Of all workers together.
    """

    folder: Path
    bucket: str
    endpoint: str
    entries: int

    def storage(self) -> Storage:
        """The job's checkpoint storage."""
        options = {"uri": f"s3://{self.bucket}/checkpoints", "s3": {"endpoint": self.endpoint, "region": "us-east-1"}}
        return open_storage(CheckpointStorage.model_validate({**options, "parallelTransfers": TRANSFERS}), "bench")


@dataclass(frozen=True)
class Spent:
    """What something cost a worker: time, and the processor time of its process and the children that it waited for."""

    wall_s: float
    cpu_s: float


class _Clock:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began_s, self._cpu_s = time.perf_counter(), _cpu_s()

    def spent(self) -> Spent:
        return Spent(time.perf_counter() - self._began_s, _cpu_s() - self._cpu_s)


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclass(frozen=True)
class Taken:
    """A checkpoint of one worker: how long the task thread stood still, what the whole of it cost, and what it is."""

    pause_s: float
    whole: Spent
    new_bytes: int
    snapshot: SubtaskSnapshot


@dataclass
class _Held:
    backend: KeyedBackend | None = None
    files: CheckpointFiles | None = None
    local: LocalFiles | None = None
    keys: list[int] = field(default_factory=list)
    named: dict[int, set[str]] = field(default_factory=dict)


_held = _Held()


def fill(site: Site, index: int, parallelism: int) -> int:
    """Make a worker's share of the state and leave a snapshot of it on the disk; returns its bytes."""
    folder = site.folder / f"filled-{index}"
    (folder / "database").mkdir(parents=True)
    (folder / "snapshot").mkdir()
    backend = _backend(folder / "database", index, parallelism)
    keys = _keys(site, index, parallelism)
    random.Random(index).shuffle(keys)
    _write(backend, keys, random.Random(index))
    _await_compactions(folder / "database")
    files = backend.snapshot(folder / "snapshot").finish()
    backend.close()
    shutil.rmtree(folder / "database")
    described = [(f.name, f.size_bytes, f.sha256, dict(f.key_group_offsets)) for f in files]
    (folder / "files.json").write_text(json.dumps(described))
    return sum(file.size_bytes for file in files)


def open_filled(site: Site, index: int, parallelism: int) -> None:
    """Hold a new backend with what `fill` has left; nothing of it is in storage yet, and no file has been hashed."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _close()
    groups = key_group_range(KEY_GROUPS, parallelism, index)
    folder = site.folder / f"filled-{index}"
    files = [
        LocalFile(name, folder / "snapshot" / name, size, sha256, {int(g): tuple(at) for g, at in offsets.items()})
        for name, size, sha256, offsets in json.loads((folder / "files.json").read_text())
    ]
    _held.backend = _backend(_new_folder(site, index), index, parallelism)
    _held.backend.restore([LocalSnapshot(files, groups)])
    _held.backend.table(_SPEC)
    _held.keys = _keys(site, index, parallelism)
    _held.local = open_local_files(_local(site, index), "bench", "bench")
    _held.files = CheckpointFiles(site.storage(), transfers=Transfers(TRANSFERS), local=_held.local)


def take(site: Site, index: int, checkpoint: int, base: int) -> Taken:
    """Take a checkpoint of what is held and store it, incrementally where there is a base."""
    backend, files = _held.backend, _held.files
    assert backend is not None
    assert files is not None
    directory = _new_folder(site, index)
    trigger = Trigger(AttemptId(1, 1), checkpoint, f"chk-{checkpoint}-1.1-0", base)
    clock = _Clock()
    files.begin(trigger)
    writer = backend.snapshot(directory)
    pause_s = clock.spent().wall_s
    handles = files.store(trigger, f"{STAGE}-{index}/", writer.finish(), threading.Event())
    whole = clock.spent()
    groups = backend.key_groups
    snapshot = SubtaskSnapshot(STAGE, index, (groups.start, groups.stop), files=handles)
    files.acknowledge(trigger, [snapshot])
    files.complete(checkpoint)
    files.tidy()
    new_bytes = sum(handle.size_bytes for handle in handles if handle.path not in _held.named.get(base, ()))
    _held.named = {checkpoint: {handle.path for handle in handles if handle.path}}
    shutil.rmtree(directory)
    return Taken(pause_s, whole, new_bytes, snapshot)


def touch(share: float, seed: int) -> int:
    """Change a share of the keys, drawn at random, as an operator would; returns how many.

    What the task loop does meanwhile is done as well: the steps between batches, and the word that a barrier is on its way.
    """
    backend = _held.backend
    assert backend is not None
    drawn = random.Random(seed)
    chosen = drawn.sample(_held.keys, int(len(_held.keys) * share))
    _write(backend, chosen, drawn)
    _let_time_pass(backend)
    backend.prepare()
    _let_time_pass(backend)
    return len(chosen)


def freeze(site: Site, index: int) -> float:
    """Take a snapshot and give it up; returns how long the task thread stood still."""
    assert _held.backend is not None
    directory = _new_folder(site, index)
    began = time.perf_counter()
    writer = _held.backend.snapshot(directory)
    paused = time.perf_counter() - began
    writer.finish()
    shutil.rmtree(directory)
    return paused


def restore(site: Site, index: int, parallelism: int, part: list[SubtaskSnapshot], *, local: bool) -> Spent:
    """Restore a worker from storage, or from local files where they are wanted; returns what it cost."""
    sys.setswitchinterval(RESTORING_SWITCH_INTERVAL_S)
    _close()
    groups = key_group_range(KEY_GROUPS, parallelism, index)
    folder = _new_folder(site, index)
    expected = [key for key in range(0, site.entries, site.entries // 512) if key_group(key, KEY_GROUPS) in groups]
    clock = _Clock()
    kept = open_local_files(_local(site, index), "bench", "bench") if local else None
    files = CheckpointFiles(site.storage(), transfers=Transfers(TRANSFERS), local=kept)
    backend = _backend(folder / "database", index, parallelism)
    stored = [FetchedSnapshot(s, folder / f"restore-{s.subtask}", files.fetch) for s in part]
    backend.restore(stored)
    found = backend.table(_SPEC).cells(0, expected)
    took = clock.spent()
    assert all(len(found[key]) == VALUE_BYTES for key in expected), "the restored state lacks entries"
    assert not (local and files.fetched_bytes), "a file was fetched although it is here"
    backend.close()
    if kept is not None:
        kept.close()
    shutil.rmtree(folder)
    return took


def move_up(site: Site, index: int, prefix: str) -> Spent:
    """Upload the files that `fill` has left by boto3's transfer manager alone; returns what it cost."""
    root = site.folder / f"filled-{index}" / "snapshot"
    paths = [path for path in root.rglob("*") if path.is_file()]
    clock = _Clock()
    manager = _bare(site)
    for upload in [manager.upload(str(p), site.bucket, f"{prefix}/{index}/{p.relative_to(root)}") for p in paths]:
        upload.result()
    took = clock.spent()
    manager.shutdown()
    return took


def move_down(site: Site, index: int, prefix: str) -> Spent:
    """Download what `move_up` has stored, by boto3's transfer manager alone; returns what it cost."""
    client = _client(site)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=site.bucket, Prefix=f"{prefix}/{index}/")
    keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
    folder = _new_folder(site, index)
    clock = _Clock()
    manager = _bare(site)
    downloads = [manager.download(site.bucket, key, str(folder / str(n))) for n, key in enumerate(keys)]
    for download in downloads:
        download.result()
    took = clock.spent()
    manager.shutdown()
    shutil.rmtree(folder)
    return took


def forget_local(site: Site, index: int) -> None:
    """Delete what is kept for local recovery."""
    _close()
    shutil.rmtree(_local(site, index), ignore_errors=True)


def _await_compactions(folder: Path) -> None:
    """Wait until nothing changes in a database any more: what is measured is not what the filling has left to do."""
    before: set[str] = set()
    while (now := {path.name for path in folder.rglob("*.sst")}) != before:
        before = now
        time.sleep(QUIET_S)


def _let_time_pass(backend: KeyedBackend) -> None:
    for _ in range(PASSING_STEPS):
        backend.maintain()
        time.sleep(PASSING_S / PASSING_STEPS)


def _close() -> None:
    if _held.backend is not None:
        _held.backend.close()
    if _held.local is not None:
        _held.local.close()
    _held.backend, _held.files, _held.local = None, None, None
    _held.keys, _held.named = [], {}


def _local(site: Site, index: int) -> Path:
    return site.folder / f"local-{index}"


def _new_folder(site: Site, index: int) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"worker-{index}-", dir=site.folder))


def _backend(folder: Path, index: int, parallelism: int) -> KeyedBackend:
    folder.mkdir(parents=True, exist_ok=True)
    groups = key_group_range(KEY_GROUPS, parallelism, index)
    return make_backend("rocksdb", groups, KEY_GROUPS, folder, SystemClock(), MEMORY_BYTES)


def _keys(site: Site, index: int, parallelism: int) -> list[int]:
    groups = key_group_range(KEY_GROUPS, parallelism, index)
    return [key for key in range(site.entries) if key_group(key, KEY_GROUPS) in groups]


def _write(backend: KeyedBackend, keys: list[int], drawn: random.Random) -> None:
    table = backend.table(_SPEC)
    for start in range(0, len(keys), _BATCH):
        portion = keys[start : start + _BATCH]
        cells = table.cells(0, portion)
        for key in portion:
            cells[key] = drawn.randbytes(VALUE_BYTES)
        table.changed(0, portion)


def _client(site: Site) -> Any:
    return boto3.client("s3", endpoint_url=site.endpoint, region_name="us-east-1")


def _bare(site: Site) -> TransferManager:
    config = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_request_concurrency=TRANSFERS
    )
    return TransferManager(_client(site), config)
