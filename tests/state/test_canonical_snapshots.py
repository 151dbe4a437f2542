"""The canonical format out of RocksDB: by a process of its own, which can die, and without it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from state_backends import MAX_PARALLELISM, Workshop, content, spec, store
from test_rescaled_state import KEYS, PICKLED, PLAIN, Sensor

from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.core.keys import key_group, split_keys
from checkdam.state import canonical
from checkdam.state.base import LocalFile
from checkdam.state.blocks import find_blocks
from checkdam.state.columns import decode_values, split_values
from checkdam.state.record import read_record
from checkdam.state.rocksdb import RocksDbBackend
from checkdam.testing.snapshots import LocalSnapshot

DEADLINE_S = 20.0


@pytest.fixture
def kind() -> str:
    return "rocksdb"


@pytest.fixture
def backend(workshop: Workshop) -> RocksDbBackend:
    made = workshop.backend()
    assert isinstance(made, RocksDbBackend)
    store(made.table(PLAIN), dict.fromkeys(KEYS, 1))
    store(made.table(PICKLED), {key: Sensor("s", number) for number, key in enumerate(KEYS)})
    return made


def restored_in_memory(folder: Path, files: list[LocalFile]) -> dict[str, dict[Any, Any]]:
    memory = Workshop("hashmap", folder).restored(files)
    return {table.name: content(memory.table(table)) for table in (PLAIN, PICKLED)}


def test_a_savepoint_of_rocksdb_holds_what_was_there_at_its_barrier_and_nothing_but_blocks(
    workshop: Workshop, backend: RocksDbBackend, tmp_path: Path
) -> None:
    folder = workshop.new_folder()
    writer = backend.snapshot(folder, canonical=True)
    store(backend.table(PLAIN), dict.fromkeys(KEYS, 2))
    store(backend.table(PLAIN), {"new": 2})
    files = writer.finish()
    assert {path for path in folder.rglob("*") if path.is_file()} == {file.path for file in files}
    assert [file.name for file in files] == ["state.json", "state.blocks"]
    for file in files:
        data = file.path.read_bytes()
        assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert set(files[1].key_group_offsets) == {key_group(key, MAX_PARALLELISM) for key in KEYS}
    assert read_record(files[0].path).format == "blocks"
    found = restored_in_memory(tmp_path, files)
    assert found["plain"] == dict.fromkeys(KEYS, 1)
    assert found["pickled"] == {key: Sensor("s", number) for number, key in enumerate(KEYS)}
    # The job goes on, and its next checkpoint is as good as ever.
    again = workshop.reopened(backend)
    assert content(again.table(PLAIN)) == {**dict.fromkeys(KEYS, 2), "new": 2}


def test_a_savepoint_of_no_rows_is_a_description_alone(workshop: Workshop, tmp_path: Path) -> None:
    backend = workshop.backend()
    backend.table(PLAIN)
    files = backend.snapshot(workshop.new_folder(), canonical=True).finish()
    assert [file.name for file in files] == ["state.json"]
    assert restored_in_memory(tmp_path, files)["plain"] == {}


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_process_that_dies_fails_the_savepoint_and_not_the_task(
    workshop: Workshop, backend: RocksDbBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workshop.new_folder()
    with monkeypatch.context() as patch:
        patch.setattr(canonical.sys, "executable", program(tmp_path / "dies", "kill -9 $$"))
        with pytest.raises(CheckpointError, match=r"the process that wrote the snapshot .* ended with exit code -9"):
            backend.snapshot(folder, canonical=True).finish()
        patch.setattr(canonical.sys, "executable", str(tmp_path / "absent"))
        with pytest.raises(CheckpointError, match=r"cannot start the process that writes the snapshot"):
            backend.snapshot(workshop.new_folder(), canonical=True).finish()
    assert list(folder.iterdir()) == []
    files = backend.snapshot(workshop.new_folder(), canonical=True).finish()
    assert restored_in_memory(tmp_path, files)["plain"] == dict.fromkeys(KEYS, 1)


def test_a_full_disk_fails_the_savepoint_with_its_cause(workshop: Workshop, backend: RocksDbBackend) -> None:
    folder = workshop.new_folder()
    writer = backend.snapshot(folder, canonical=True)
    (folder / "state.blocks").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot write the snapshot in .*No space left on device"):
        writer.finish()
    assert list(folder.iterdir()) == []


def test_cancel_kills_the_process_that_converts(
    workshop: Workshop, backend: RocksDbBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        canonical.sys, "executable", program(tmp_path / "slow", f"echo $$ > {tmp_path / 'pid'}; exec sleep 600")
    )
    folder = workshop.new_folder()
    writer = backend.snapshot(folder, canonical=True)
    failures: list[Exception] = []

    def finish() -> None:
        try:
            writer.finish()
        except CheckpointError as error:
            failures.append(error)

    thread = threading.Thread(target=finish)
    thread.start()
    pid_file, deadline = tmp_path / "pid", time.monotonic() + DEADLINE_S
    while not (pid_file.exists() and pid_file.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.005)
    writer.cancel()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert ["cancelled" in str(failure) for failure in failures] == [True]
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()
    assert list(folder.iterdir()) == []


def test_a_savepoint_cancelled_before_it_is_written_starts_no_process(
    workshop: Workshop, backend: RocksDbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "start_converter", lambda *_: pytest.fail("it was started"))
    writer = backend.snapshot(workshop.new_folder(), canonical=True)
    writer.cancel()
    with pytest.raises(CheckpointError):
        writer.finish()


def test_a_converter_whose_parent_is_gone_does_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "checkdam.state.canonical", str(tmp_path), "1"]
    ended = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_snapshots_of_any_format_can_be_read_as_blocks_without_a_backend_or_the_users_classes(
    workshop: Workshop, backend: RocksDbBackend, tmp_path: Path
) -> None:
    files = backend.snapshot(workshop.new_folder()).finish()
    memory = Workshop("hashmap", tmp_path).backend()
    store(memory.table(PLAIN), dict.fromkeys(KEYS, 1))
    serdes = {table.name: table.serde for table in (PLAIN, PICKLED)}
    groups = range(4, 9)
    mine = [key for key in KEYS if key_group(key, MAX_PARALLELISM) in groups]
    for number, taken in enumerate((files, memory.snapshot(workshop.new_folder()).finish())):
        snapshot = LocalSnapshot(taken, range(MAX_PARALLELISM))
        before = {file.name: file.path.read_bytes() for file in taken}
        record, path = canonical.canonical_blocks(snapshot, tmp_path / f"read-{number}", groups)
        assert path is not None
        assert record.format == "blocks"
        keys: list[bytes] = []
        for stored in find_blocks(path, groups):
            table, block = record.tables[stored.section], stored.open("t")
            values = split_values(block, table.serde)
            assert values is not None
            serde = serdes[table.name]
            assert list(map(serde.decode, values)) == decode_values(block, serde)
            if table.name == "plain":
                keys += split_keys(block.keys)
        assert len(keys) == len(set(keys)) == len(mine)
        assert {file.name: file.path.read_bytes() for file in taken} == before


def test_damaged_changes_and_databases_are_refused_by_name(workshop: Workshop, tmp_path: Path) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {f"k{index}": index for index in range(100)})
    files = backend.snapshot(workshop.new_folder()).finish()
    (changes,) = [file.path for file in files if file.name.startswith("changes-")]
    (current,) = [file.path for file in files if file.name == "db/CURRENT"]
    whole = changes.read_bytes()
    changes.write_bytes(whole[:-1])
    with pytest.raises(CorruptCheckpointError, match=r"changes-\d+.blocks ends in the middle of a block"):
        canonical.canonical_blocks(LocalSnapshot(files, range(MAX_PARALLELISM)), tmp_path / "a")
    changes.write_bytes(whole)
    current.write_text("MANIFEST-999999\n")
    with pytest.raises(CheckpointError, match=r"cannot open the RocksDB database"):
        canonical.canonical_blocks(LocalSnapshot(files, range(MAX_PARALLELISM)), tmp_path / "b")
