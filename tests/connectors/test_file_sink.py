"""The two-phase file sink: files appear whole, once, with their checkpoint, and a full disk loses nothing."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars
import pytest

from checkdam.connectors import file_sink as file_sink_module
from checkdam.connectors.base import SinkContext
from checkdam.connectors.file_sink import FileSink, csv_sink, json_lines_sink, parquet_sink
from checkdam.core.errors import StorageError, ValueTypeError

CONTEXT = SinkContext("sink", 0, "1.1", 2)


@dataclass
class Point:
    x: int
    y: float | None = None


class Tick(msgspec.Struct):
    at: datetime
    tags: list[str]


class Result(NamedTuple):
    key: str
    value: int


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and ".pending" not in path.parts)


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and ".pending" in path.parts]


def read_json(folder: Path) -> list[Any]:
    return [json.loads(line) for path in visible(folder) for line in path.read_text().splitlines()]


def read_numbers(path: Path) -> list[int]:
    """The column `n` of an output file of any format, which must be whole."""
    read: dict[str, Callable[[Path], polars.DataFrame]] = {
        ".jsonl": polars.read_ndjson,
        ".csv": polars.read_csv,
        ".parquet": polars.read_parquet,
    }
    return read[path.suffix](path)["n"].to_list()


def test_a_job_whose_history_was_lost_adds_to_the_output_of_its_former_life(tmp_path: Path) -> None:
    """Its attempts are numbered from 1 again: with storage in memory, or after somebody has deleted the checkpoints."""
    former = json_lines_sink(tmp_path)
    crashed = former.open(CONTEXT)
    crashed.write([1], None)
    former.commit(crashed.prepare(1))
    crashed.write([2], None)
    crashed.prepare(2)

    sink = json_lines_sink(tmp_path)
    writer = sink.open(CONTEXT)
    sink.discard(CONTEXT, [])
    for number in (3, 4):
        writer.write([number], None)
        sink.commit(writer.prepare(number))
    writer.close()
    assert sorted(read_json(tmp_path)) == [1, 3, 4]


def test_a_commit_never_overwrites_a_foreign_file_nor_takes_it_for_its_own(tmp_path: Path) -> None:
    sink = json_lines_sink(tmp_path)
    writer = sink.open(CONTEXT)
    writer.write([1], None)
    committables = writer.prepare(1)
    final = Path(committables[0]["final"])
    final.write_text("somebody else's")
    with pytest.raises(StorageError, match="another file has that name"):
        sink.commit(committables)
    assert final.read_text() == "somebody else's"
    final.unlink()
    sink.commit(committables)
    sink.commit(committables)
    assert read_json(tmp_path) == [1]


def write_once(sink: FileSink, values: list[Any]) -> None:
    writer = sink.open(CONTEXT)
    writer.write(values, None)
    sink.commit(json.loads(json.dumps(writer.prepare(1))))
    writer.close()


def test_output_becomes_visible_with_the_commit_and_not_before(tmp_path: Path) -> None:
    sink = json_lines_sink(tmp_path / "out")
    writer = sink.open(CONTEXT)
    writer.write([1, 2], None)
    committables = writer.prepare(1)
    writer.write([3], None)
    assert visible(tmp_path) == []
    sink.commit(committables)
    assert read_json(tmp_path / "out") == [1, 2]
    assert [path.name for path in visible(tmp_path)] == ["part-sink-0-1.1-00000.jsonl"]
    assert committables[0]["records"] == 2
    assert committables[0]["size_bytes"] == 4
    writer.close()
    assert list(tmp_path.rglob("*pending*")) == []


def test_a_checkpoint_without_records_makes_no_file(tmp_path: Path) -> None:
    writer = json_lines_sink(tmp_path / "out").open(CONTEXT)
    writer.write([], None)
    assert writer.prepare(1) == []
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_commit_can_be_repeated_at_every_stage(tmp_path: Path) -> None:
    sink = json_lines_sink(tmp_path)
    writer = sink.open(CONTEXT)
    writer.write([1], None)
    (committable,) = writer.prepare(1)
    os.link(committable["pending"], committable["final"])  # as after a crash between link and unlink
    sink.commit([committable])
    sink.commit([committable])
    assert read_json(tmp_path) == [1]
    os.unlink(committable["final"])
    with pytest.raises(StorageError, match=r"part-sink-0-1\.1-00000\.jsonl: neither it nor .* exists any more"):
        sink.commit([committable])


def test_without_hard_links_files_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    sink = json_lines_sink(tmp_path)
    writer = sink.open(CONTEXT)
    writer.write([1], None)
    committables = writer.prepare(1)
    sink.commit(committables)
    sink.commit(committables)
    assert read_json(tmp_path) == [1]
    assert hidden(tmp_path) == []


def test_uncommitted_output_of_aborted_checkpoints_stays_until_it_is_discarded(tmp_path: Path) -> None:
    sink = json_lines_sink(tmp_path)
    writer = sink.open(CONTEXT)
    writer.write([1], None)
    kept = writer.prepare(1)
    writer.write([2], None)
    writer.prepare(2)
    writer.write([3] * 500_000, None)  # on disk in part, and never prepared
    later = SinkContext("sink", 0, "1.2", 2)
    sink.discard(later, kept)
    assert [str(path) for path in hidden(tmp_path)] == [kept[0]["pending"]]
    sink.commit(kept)
    assert read_json(tmp_path) == [1]


@pytest.mark.parametrize("sleeper", ["1.9", "1.10", "2.1"])
def test_discarding_spares_the_same_and_later_attempts_and_other_subtasks(tmp_path: Path, sleeper: str) -> None:
    sink = json_lines_sink(tmp_path)
    for context in (
        SinkContext("sink", 0, "2.1", 2),
        SinkContext("sink", 0, "10.1", 2),
        SinkContext("sink", 1, "1.1", 2),
        SinkContext("sink-0", 0, "1.1", 2),
        SinkContext("../sink", 0, "1.1", 2),
    ):
        writer = sink.open(context)
        writer.write([1], None)
        writer.prepare(1)
    before = hidden(tmp_path)
    assert len(before) == 5
    sink.discard(SinkContext("sink", 0, sleeper, 2), [])
    assert hidden(tmp_path) == before
    sink.discard(SinkContext("sink", 0, "11.1", 2), [])
    assert len(hidden(tmp_path)) == 3


def test_closing_removes_only_what_no_checkpoint_can_name(tmp_path: Path) -> None:
    sink = json_lines_sink(tmp_path, roll_records=1)
    writer = sink.open(CONTEXT)
    writer.write([1], None)
    prepared = writer.prepare(1)
    writer.write([2, 3], None)
    writer.close()
    assert [str(path) for path in hidden(tmp_path)] == [prepared[0]["pending"]]


def test_files_are_rolled_by_records_and_by_size(tmp_path: Path) -> None:
    write_once(json_lines_sink(tmp_path / "a", roll_records=3), list(range(8)))
    assert [path.read_text() for path in visible(tmp_path / "a")] == ["0\n1\n2\n", "3\n4\n5\n", "6\n7\n"]
    sink = json_lines_sink(tmp_path / "b", roll_bytes=10)
    writer = sink.open(CONTEXT)
    for n in range(12):
        writer.write([n], None)
    sink.commit(writer.prepare(1))
    assert [path.read_text() for path in visible(tmp_path / "b")] == ["0\n1\n2\n3\n4\n", "5\n6\n7\n8\n9\n", "10\n11\n"]
    write_once(parquet_sink(tmp_path / "c", roll_bytes=1), [{"n": n} for n in range(3)])
    assert len(visible(tmp_path / "c")) == 1


# ---- formats


def test_json_lines_take_what_users_make(tmp_path: Path) -> None:
    at = datetime(2024, 1, 2, tzinfo=UTC)
    values = [{"a": 1}, Point(1), Tick(at, ["x"]), Result("k", 2), ("k", 3), "text", None, 1.5]
    write_once(json_lines_sink(tmp_path), values)
    assert read_json(tmp_path) == [
        {"a": 1},
        {"x": 1, "y": None},
        {"at": "2024-01-02T00:00:00Z", "tags": ["x"]},
        {"key": "k", "value": 2},
        ["k", 3],
        "text",
        None,
        1.5,
    ]
    with pytest.raises(ValueTypeError, match="cannot be written as JSON"):
        write_once(json_lines_sink(tmp_path), [object()])


def read_csv(folder: Path) -> list[list[list[str]]]:
    return [list(csv.reader(path.read_text().splitlines(keepends=True))) for path in visible(folder)]


def test_csv_files_each_have_a_header(tmp_path: Path) -> None:
    write_once(csv_sink(tmp_path / "a", roll_records=2), [Result("a,b", 1), Result('"', 2), Result("c\nd", 3)])
    assert read_csv(tmp_path / "a") == [
        [["key", "value"], ["a,b", "1"], ['"', "2"]],
        [["key", "value"], ["c\nd", "3"]],
    ]
    at = datetime(2024, 1, 2, tzinfo=UTC)
    values = [Point(1), {"y": True, "x": [1, "é"]}, {"x": at}]
    write_once(csv_sink(tmp_path / "b", fields=["x", "y"]), values)
    assert read_csv(tmp_path / "b") == [[["x", "y"], ["1", ""], ['[1,"é"]', "true"], ["2024-01-02T00:00:00Z", ""]]]
    write_once(csv_sink(tmp_path / "c"), [("k", 1)])
    write_once(csv_sink(tmp_path / "d"), [7])
    assert read_csv(tmp_path / "c") == [[["key", "value"], ["k", "1"]]]
    assert read_csv(tmp_path / "d") == [[["value"], ["7"]]]


def test_csv_records_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueTypeError, match=r"has the field z but the CSV file's columns are x, y"):
        write_once(csv_sink(tmp_path), [{"x": 1, "y": 2}, {"x": 1, "z": 2}])
    with pytest.raises(ValueTypeError, match="a tuple of 3 has no column names"):
        write_once(csv_sink(tmp_path), [(1, 2, 3)])


def test_parquet_files_hold_all_rows_with_columns_from_all_records(tmp_path: Path) -> None:
    rows: list[Any] = [{"n": n, "late": None} for n in range(9_000)] + [{"n": 0.5, "late": "x"}]
    sink = parquet_sink(tmp_path / "a")
    writer = sink.open(CONTEXT)
    writer.write(rows[:8_500], None)
    writer.write(rows[8_500:], None)
    sink.commit(writer.prepare(1))
    (path,) = visible(tmp_path / "a")
    frame = polars.read_parquet(path)
    assert frame["n"].to_list() == [row["n"] for row in rows]
    assert frame["late"].to_list()[-2:] == [None, "x"]
    write_once(parquet_sink(tmp_path / "b", schema={"x": float, "y": float}), [Point(1), Point(2, 3.0)])
    assert polars.read_parquet(visible(tmp_path / "b")).rows() == [(1.0, None), (2.0, 3.0)]
    with pytest.raises(ValueTypeError, match="cannot be written as Parquet columns"):
        write_once(parquet_sink(tmp_path / "c"), [{"x": 1}, {"x": object()}])


def test_wrong_arguments_of_a_file_sink_are_named(tmp_path: Path) -> None:
    for arguments, message in (
        ({"format": "xml"}, "`format` must be"),
        ({"roll_bytes": 0}, "`roll_bytes` and `roll_records` must be"),
        ({"prefix": "a/b"}, "`prefix` must be"),
        ({"fields": ["a"]}, "`fields` is for CSV only"),
        ({"schema": {}}, "`schema` is for Parquet only"),
    ):
        with pytest.raises(ValueError, match=message):
            FileSink(tmp_path, **arguments)


# ---- failures


class Disk:
    """Makes chosen calls of `os` fail while `full` holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
        self.full = True
        original: Callable[..., Any] = getattr(os, call)

        def fail(*args: Any, **kwargs: Any) -> Any:
            if self.full:
                raise OSError(number, os.strerror(number))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("fmt", ["json", "csv", "parquet"])
def test_a_full_disk_fails_the_checkpoint_and_the_next_one_holds_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: Any
) -> None:
    disk = Disk(monkeypatch, "write", errno.ENOSPC)
    sink = FileSink(tmp_path, fmt, roll_records=4)
    writer = sink.open(CONTEXT)
    writer.write([{"n": n} for n in range(10)], None)
    for checkpoint in (1, 2):
        with pytest.raises(StorageError, match=r"cannot write .*No space left on device; free space"):
            writer.prepare(checkpoint)
    writer.write([{"n": 10}], None)
    disk.full = False
    sink.commit(writer.prepare(3))
    assert sorted(n for path in visible(tmp_path) for n in read_numbers(path)) == list(range(11))
    assert hidden(tmp_path) == []


def test_a_write_that_stops_halfway_is_continued_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.write
    calls = 0

    def halting(file: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise OSError(errno.ENOSPC, "full")
        return original(file, bytes(data)[:7])

    monkeypatch.setattr(os, "write", halting)
    sink = json_lines_sink(tmp_path)
    writer = sink.open(CONTEXT)
    writer.write(list(range(10)), None)
    for checkpoint in range(10):
        try:
            committables = writer.prepare(checkpoint)
            break
        except StorageError:
            continue
    monkeypatch.setattr(os, "write", original)
    sink.commit(committables)
    assert read_json(tmp_path) == list(range(10))


def test_a_folder_that_cannot_be_made_fails_the_checkpoint_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, "mkdir", errno.EACCES)
    sink = json_lines_sink(tmp_path / "out")
    writer = sink.open(CONTEXT)
    writer.write([1], None)
    with pytest.raises(StorageError, match=r"out/\.pending.*: Permission denied; make the folder writable"):
        writer.prepare(1)
    disk.full = False
    sink.commit(writer.prepare(2))
    assert read_json(tmp_path / "out") == [1]


def test_a_disk_that_stays_full_fails_the_attempt_before_memory_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sink_module, "MOST_UNWRITTEN_BYTES", 7 << 19)
    Disk(monkeypatch, "write", errno.ENOSPC)
    writer = json_lines_sink(tmp_path).open(CONTEXT)
    for _ in range(3):
        writer.write(["x" * (1 << 20)], None)
    with pytest.raises(StorageError, match="No space left"):
        writer.write(["x" * (1 << 20)], None)


def test_a_failed_fsync_is_never_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".pending" / "sink.0").mkdir(parents=True)
    disk = Disk(monkeypatch, "fsync", errno.EIO)
    writer = json_lines_sink(tmp_path).open(CONTEXT)
    writer.write([1], None)
    with pytest.raises(StorageError, match="Input/output error"):
        writer.prepare(1)
    disk.full = False
    with pytest.raises(StorageError, match="an earlier fsync failed"):
        writer.prepare(2)
    with pytest.raises(StorageError, match="the attempt must start over"):
        writer.write([2], None)


def run_job(base: Path, fmt: str, kill_at: int) -> int:
    script = Path(__file__).with_name("sink_job.py")
    return subprocess.run([sys.executable, str(script), str(base), fmt, "300", str(kill_at)], timeout=30).returncode


def check_whole(base: Path) -> list[int]:
    """The numbers in all visible files, each of which must be whole: it parses, and ends at a boundary of files."""
    found: list[int] = []
    for path in visible(base / "out"):
        numbers = read_numbers(path)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert len(numbers) in (20, 40)
        found += numbers
    return found


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_call_the_sink_shows_every_record_once_in_whole_files(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    fmt = chance.choice(["json", "csv"])
    for _ in range(3):
        assert run_job(tmp_path, fmt, chance.randrange(1, 70)) in (0, -signal.SIGKILL)
        assert len(set(check_whole(tmp_path))) == len(check_whole(tmp_path))
    assert run_job(tmp_path, fmt, 0) == 0
    assert sorted(check_whole(tmp_path)) == list(range(300))
    assert hidden(tmp_path) == []
