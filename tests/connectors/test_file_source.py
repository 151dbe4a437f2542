"""The file source: every record of every range once, from any position, in every format."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars
import pytest
import zstandard
from file_reading import drain, read_all, read_interrupted, write
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.connectors import lines as lines_module
from checkdam.connectors.file_source import FileSource, csv_files, json_lines, parquet_files, text_files
from checkdam.connectors.formats import Text
from checkdam.connectors.line_reader import BadRecord
from checkdam.core.errors import RecordError, StorageError


def expected_lines(data: bytes) -> list[str]:
    lines = data.decode().split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


line_texts = st.lists(st.text(st.sampled_from("ab \r\u2028\x0céž\x85"), max_size=6), max_size=12)


@settings(max_examples=120, deadline=None)
@given(line_texts, st.booleans(), st.integers(1, 20), st.integers(1, 5), st.integers(1, 3))
def test_every_line_belongs_to_exactly_one_range_and_no_position_loses_or_repeats_one(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    ends_with_line_end: bool,
    split_bytes: int,
    max_records: int,
    every: int,
) -> None:
    data = ("\n".join(texts) + ("\n" if ends_with_line_end and texts else "")).encode()
    path = write(tmp_path_factory.mktemp("text") / "a.txt", data)
    source = text_files(path, split_bytes=split_bytes)
    assert read_all(source, max_records) == expected_lines(data)
    assert read_interrupted(source, max_records, every) == expected_lines(data)


@settings(max_examples=60, deadline=None)
@given(line_texts, st.lists(st.integers(0, 80), max_size=6), st.integers(1, 4))
def test_readers_from_reserved_positions_with_limits_read_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cuts: list[int], max_records: int
) -> None:
    data = "\n".join(texts).encode()
    path = write(tmp_path_factory.mktemp("text") / "a.txt", data)
    for source in (text_files(path), text_files(write(path.with_suffix(".gz"), gzip.compress(data)))):
        (split,) = source.splits(1)
        edges: list[int | None] = [None, *sorted(cuts), None]
        values: list[Any] = []
        for start, stop in pairwise(edges):
            values += drain(source.open(split, start), max_records, stop)
        assert values == expected_lines(data)


def test_a_reader_at_its_limit_goes_on_when_the_limit_moves(tmp_path: Path) -> None:
    source = text_files(write(tmp_path / "a.txt", b"a\nbb\nccc\n"))
    (split,) = source.splits(1)
    reader = source.open(split, None)
    first = reader.read(10, 2)
    assert first is not None
    assert first.values == ["a"]
    waiting = reader.read(10, 2)
    assert waiting is not None
    assert waiting.values == []
    assert reader.wait_hint_ms() > 0
    assert reader.position() == 2
    rest = reader.read(10, 100)
    assert rest is not None
    assert rest.values == ["bb", "ccc"]
    assert reader.read(10, 100) is None
    assert reader.read(10) is None
    reader.close()


def test_a_reservation_is_about_as_many_records_away_as_was_asked(tmp_path: Path) -> None:
    source = text_files(write(tmp_path / "a.txt", b"".join(b"%09d\n" % n for n in range(10_000))))
    (split,) = source.splits(1)
    reader = source.open(split, None)
    reader.read(1000)
    assert reader.reserve(reader.position(), 100) - reader.position() == pytest.approx(1000, rel=0.05)
    reader.close()


@pytest.mark.parametrize("block_bytes", [1, 7, 64])
def test_lines_longer_than_what_is_read_at_once_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(lines_module, "READ_BYTES", block_bytes)
    monkeypatch.setattr(lines_module, "_SKIP_BYTES", 5)
    texts = ["x" * n for n in (0, 1, 100, 3, 50, 0)]
    source = text_files(write(tmp_path / "a.gz", gzip.compress("\n".join(texts).encode() + b"\n")))
    assert read_all(source) == texts
    assert read_interrupted(source, 2, 1) == texts


def test_a_line_that_is_too_long_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "READ_BYTES", 8)
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 32)
    with pytest.raises(RecordError, match=r"a\.txt, byte 2: a line is longer than"):
        read_all(text_files(write(tmp_path / "a.txt", b"a\n" + b"x" * 200)))


def zip_bytes(tmp_path: Path, *members: bytes) -> bytes:
    path = tmp_path / "made.zip.tmp"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, member in enumerate(members):
            archive.writestr(f"m{index}", member)
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "zip"])
def test_compressed_files_are_read_whole_and_resumed_forward(tmp_path: Path, suffix: str) -> None:
    data = b"".join(b"line %d\n" % n for n in range(500))
    compress: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": zstandard.ZstdCompressor().compress,
        "zip": lambda plain: zip_bytes(tmp_path, plain),
    }
    source = text_files(write(tmp_path / f"a.txt.{suffix}", compress[suffix](data)), split_bytes=10)
    assert len(source.splits(4)) == 1
    assert read_interrupted(source, 100, 2) == expected_lines(data)


def test_an_archive_of_several_files_is_refused(tmp_path: Path) -> None:
    source = text_files(write(tmp_path / "a.zip", zip_bytes(tmp_path, b"1", b"2")))
    with pytest.raises(StorageError, match=r"exactly one file \(got 2\)"):
        read_all(source)


@pytest.mark.parametrize("suffix", ["gz", "zst", "zip", "xz"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, suffix: str) -> None:
    source = text_files(write(tmp_path / f"a.{suffix}", b"this is no archive, is it? " * 9))
    with pytest.raises(StorageError, match=rf"a\.{suffix}: its compressed data is damaged"):
        read_all(source)


def test_a_compressed_file_cut_short_is_named(tmp_path: Path) -> None:
    data = gzip.compress(bytes(range(256)) * 1000)
    with pytest.raises(StorageError, match="damaged or cut short"):
        read_all(text_files(write(tmp_path / "a.gz", data[:-100]), encoding="latin-1"))


def test_a_folder_is_read_in_the_order_of_names_without_files_in_the_making(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "_c.txt", ".d.txt", "sub/e.txt", ".pending/f.txt", "_tmp/g.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name + "\n")
    assert read_all(text_files(tmp_path)) == ["a.txt", "b.txt", "sub/e.txt"]
    assert read_all(text_files(str(tmp_path / "**" / "*.txt"))) == ["a.txt", "b.txt", "sub/e.txt"]
    assert read_all(text_files([tmp_path / "b.txt", tmp_path / "a.txt", tmp_path / "b.txt"])) == ["b.txt", "a.txt"]


def test_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing\.txt: there is no such file"):
        text_files(tmp_path / "nothing.txt").splits(1)
    with pytest.raises(StorageError, match="there is no input file"):
        text_files(tmp_path / "*.txt").splits(1)
    with pytest.raises(StorageError, match="there is no input file"):
        text_files(tmp_path).splits(1)


def test_a_watched_folder_offers_each_file_once_under_one_id(tmp_path: Path) -> None:
    source = text_files(tmp_path, watch="250ms", split_bytes=2)
    assert not source.bounded
    assert source.discovery_interval_ms == 250
    assert source.splits(2) == []
    path = write(tmp_path / "a.txt", b"one\ntwo\n")
    (first,) = source.splits(2)
    path.write_bytes(b"one\ntwo\nthree\n")
    write(tmp_path / "b.txt", b"x\n")
    assert source.splits(2)[0].id == first.id
    assert len(source.splits(2)) == 2
    assert drain(source.open(first, None)) == ["one", "two"]


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\ntwo\n")
    source = text_files(path)
    (split,) = source.splits(1)
    path.write_bytes(b"one\n")
    with pytest.raises(StorageError, match="had 8 bytes when it was found and has 4 now"):
        source.open(split, None)


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\ntwo\n")
    source = text_files(path)
    (split,) = source.splits(1)
    reader = source.open(split, None)
    path.write_bytes(b"one\n")
    with pytest.raises(StorageError, match="it ends at byte 4"):
        drain(reader)


def test_split_ids_name_path_and_start_and_do_not_depend_on_the_parallelism(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"x\n" * 50)
    source = text_files(path, split_bytes=25)
    ids = [split.id for split in source.splits(1)]
    assert ids == [split.id for split in source.splits(8)] == [f"{path}@{start}" for start in (0, 25, 50, 75)]


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert read_interrupted(text_files(write(tmp_path / "a.txt", mark + b"a\nb\n")), 1, 1) == ["a", "b"]
    rows = [{"x": "1"}, {"x": "2"}]
    assert read_interrupted(csv_files(write(tmp_path / "a.csv", mark + b"x\n1\n2\n")), 1, 1) == rows


def test_text_in_another_encoding_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "é\nž\n".encode("iso8859-2"))
    assert read_all(text_files(path, encoding="iso8859-2")) == ["é", "ž"]
    with pytest.raises(ValueError, match="`encoding` must be"):
        text_files(path, encoding="utf-16")


# ---- JSON lines


class Event(msgspec.Struct):
    user: str
    amount: int


def test_json_lines_are_any_json_or_the_declared_type(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"user":"u","amount":1}\n\n{"user":"v","amount":2}\r\n')
    assert read_interrupted(json_lines(path), 1, 1) == [{"user": "u", "amount": 1}, {"user": "v", "amount": 2}]
    assert read_interrupted(json_lines(path, type=Event), 5, 1) == [Event("u", 1), Event("v", 2)]
    assert json_lines(path, type=Event).value_type is Event


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([b'{"a": 1}', b"[1,2]", b"", b"  ", b"bad", b"{", b"3"]), max_size=12),
    st.integers(1, 4),
    st.integers(1, 30),
)
def test_bad_lines_go_to_the_side_output_once_and_in_step_with_the_positions(
    tmp_path_factory: pytest.TempPathFactory, raw_lines: list[bytes], max_records: int, split_bytes: int
) -> None:
    path = write(tmp_path_factory.mktemp("json") / "a.jsonl", b"\n".join(raw_lines))
    source = json_lines(path, on_error="side", split_bytes=split_bytes)
    good: list[Any] = []
    bad: list[str] = []
    for split in source.splits(1):
        position, ended = None, False
        while not ended:
            reader = source.open(split, position)
            batch = reader.read(max_records)
            ended = batch is None
            good += [] if batch is None else batch.values
            bad += [record.text for _, record in reader.side_output()]
            position = reader.position()
            reader.close()
    full = [line for line in raw_lines if line.strip()]
    assert bad == [line.decode() for line in full if line in (b"bad", b"{")]
    assert good == [json.loads(line) for line in full if line not in (b"bad", b"{")]


def test_a_bad_line_fails_with_file_and_line_or_is_counted_or_goes_aside(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"user":"u","amount":1}\n' * 5 + b'{"user":"u","amount":"x"}\n' + b"[]\n")
    for split_bytes in (1000, 60):
        with pytest.raises(RecordError, match=r"a\.jsonl, line 6: Expected `int`, got `str`.*amount"):
            read_all(json_lines(path, type=Event, split_bytes=split_bytes))
    source = json_lines(path, type=Event, on_error="skip")
    reader = source.open(source.splits(1)[0], None)
    assert drain(reader) == [Event("u", 1)] * 5
    assert reader.skipped() == 2
    source = json_lines(path, type=Event, on_error="side")
    reader = source.open(source.splits(1)[0], None)
    drain(reader)
    (tag, record), _ = reader.side_output()
    assert tag == "parse-errors"
    assert record == BadRecord(str(path), 120, '{"user":"u","amount":"x"}', record.error)
    assert reader.side_output() == []


def test_a_bad_line_behind_the_limit_is_left_to_the_next_reader(tmp_path: Path) -> None:
    source = json_lines(write(tmp_path / "a.jsonl", b"1\nbad\n2\n"), on_error="side")
    (split,) = source.splits(1)
    reader = source.open(split, None)
    assert drain(reader, 10, 2) == [1]
    assert reader.side_output() == []


def test_text_that_is_not_utf8_is_a_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"ok\n\xff\xfe\nfine\n")
    with pytest.raises(RecordError, match=r"a\.txt, line 2: .*can't decode.*\\\\xff"):
        read_all(text_files(path))
    assert read_all(text_files(path, on_error="skip")) == ["ok", "fine"]


# ---- Parquet


class Trip(NamedTuple):
    fare: float
    city: str = "?"


def test_parquet_rows_come_from_ranges_and_positions_like_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    polars.DataFrame({"n": range(1000), "city": [f"c{n}" for n in range(1000)]}).write_parquet(path, row_group_size=128)
    source = parquet_files(path, split_bytes=path.stat().st_size // 3)
    assert len(source.splits(1)) > 2
    rows = [{"n": n, "city": f"c{n}"} for n in range(1000)]
    assert read_all(source, 77) == rows
    assert read_interrupted(source, 77, 2) == rows
    assert read_all(parquet_files(path, columns=["city"]), 500)[:2] == [{"city": "c0"}, {"city": "c1"}]
    (split,) = parquet_files(path).splits(1)
    reader = source.open(split, None)
    assert len(drain(reader, 300, 450)) == 450
    assert reader.reserve(450, 100) == 550
    assert len(drain(source.open(split, 450), 300, None)) == 550


def test_parquet_rows_are_the_declared_type_and_missing_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    polars.DataFrame({"fare": [1.5], "extra": [1]}).write_parquet(path)
    assert read_all(parquet_files(path, type=Trip)) == [Trip(1.5)]
    with pytest.raises(RecordError, match=r"t\.parquet has no column nope; it has fare, extra"):
        read_all(parquet_files(path, columns=["nope"]))
    with pytest.raises(StorageError, match="no Parquet file"):
        parquet_files(write(tmp_path / "x.parquet", b"no parquet")).splits(1)


def test_an_empty_file_has_no_records_in_any_format(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"")
    assert read_all(text_files(path)) == read_all(json_lines(path)) == read_all(csv_files(path)) == []


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`split_bytes` must be at least 1"):
        text_files(tmp_path, split_bytes=0)
    with pytest.raises(ValueError, match="`on_error` must be"):
        FileSource(tmp_path, Text(), on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`paths` must name"):
        text_files([])
    with pytest.raises(ValueError, match="`watch` must be"):
        text_files(tmp_path, watch=0)
