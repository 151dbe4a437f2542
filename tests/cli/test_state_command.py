"""`checkdam state`, over savepoints in files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars
import pytest
from cli_calls import Outcome, call

import checkdam as cd
from checkdam.offline import new_savepoint
from checkdam.testing import ScriptedSource

PIPELINE = """\
import checkdam as cd


class Opaque:
    def __init__(self, number):
        self.number = number


class Keep(cd.ProcessFunction):
    opaque = cd.ValueState("opaque")

    def process(self, record, ctx):
        self.opaque.update(Opaque(record))


def build(pipeline, args):
    pipeline.from_items("in", [1] * args["n"]).key_by(lambda n: n).process(Keep, name="keep").sink("out", cd.CollectSink("c"))
"""


@dataclass
class Visit:
    """Values of several fields."""

    at: datetime
    page: bytes
    seconds: float | None


class Visits(cd.ProcessFunction):
    """Keeps visits and, by page, how many there were."""

    last = cd.ValueState("last", Visit)
    pages = cd.MapState("pages", str, int)
    anything = cd.ValueState("anything")

    def process(self, value: Any, ctx: cd.ProcessContext) -> None:
        return None


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Visits, and a count in windows."""
    source = pipeline.source("in", ScriptedSource([("a", 1)]), cd.monotonous(timestamp=lambda record: record[1]))
    keyed = source.key_by(lambda record: record[0])
    keyed.process(Visits, name="visits").sink("out", cd.CollectSink("cli-out"))
    keyed.window(cd.Tumbling(100)).count(name="per-100").sink("windows", cd.CollectSink("cli-windows"))


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def savepoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A savepoint with values of many types."""
    path = tmp_path_factory.mktemp("state") / "visits"
    with new_savepoint(str(path), pipeline=build, job_id="default/visits", max_parallelism=16) as made:
        visits = [
            ("a", Visit(NOON, b"\xff\x00", 1.5)),
            (7, Visit(NOON, b"", None)),
            (("x", 1), Visit(NOON, b"", math.nan)),
        ]
        made.add("visits", visits, state="last")
        made.add("visits", [("a", "home", 3), ("a", "about", 1), ("7", "home", 2)], state="pages")
        made.add("visits", [("n", math.nan), ("i", -math.inf), ("t", {(1, 2): {3}}), ("z", None)], state="anything")
        made.add("per-100", [("a", 200, 4)])
        made.add_timers("visits", [("a", 99)])
        made.set_positions("in", {"0": 1})
    return path


def lines(outcome: Outcome) -> list[Any]:
    """The rows that were printed."""
    assert (outcome.code, outcome.err) == (0, "")
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_a_list_shows_every_operator_with_its_states(
    savepoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")

    outcome = call(capsys, "state", "list", savepoint)

    assert outcome.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in outcome.out.splitlines() if "│" in line]
    assert ["visits", "process", "last", "value of msgpack:test_state_command.Visit"] in rows
    assert ["", "", "pages", "map of msgpack:int"] in rows
    assert ["", "", "timers/event", ""] in rows
    assert ["per-100", "window", "panes", "value of msgpack:int"] in rows
    assert ["in", "source", "splits", ""] in rows


def test_a_list_as_json_is_for_programs(savepoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {each["name"]: each for each in json.loads(call(capsys, "state", "list", savepoint, "--json").out)}

    assert found["per-100"]["states"] == [{"name": "panes", "kind": "value", "type": "msgpack:int", "ttl_ms": 0}]
    assert found["visits"]["timers"] == ["event"]


def test_rows_are_json_lines_with_what_applies_to_them(savepoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    windows = lines(call(capsys, "state", "read", savepoint.as_uri(), "--operator", "per-100"))
    pages = lines(call(capsys, "state", "read", savepoint, "--operator", "visits", "--state", "pages", "--key", "a"))

    assert windows == [{"key": "a", "window_start_ms": 200, "value": 4, "key_group": windows[0]["key_group"]}]
    assert sorted((row["subkey"], row["value"]) for row in pages) == [("about", 1), ("home", 3)]
    assert "updated_ms" not in pages[0]


def test_json_has_no_bytes_times_or_nan_of_its_own(savepoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = lines(call(capsys, "state", "read", savepoint, "--operator", "visits", "--state", "last"))
    anything = lines(call(capsys, "state", "read", savepoint, "--operator", "visits", "--state", "anything"))

    assert {json.dumps(row["key"]): row["value"] for row in last} == {
        '"a"': {"at": "2026-03-01T12:00:00Z", "page": "/wA=", "seconds": 1.5},
        "7": {"at": "2026-03-01T12:00:00Z", "page": "", "seconds": None},
        '["x", 1]': {"at": "2026-03-01T12:00:00Z", "page": "", "seconds": "NaN"},
    }
    assert {row["key"]: row["value"] for row in anything} == {
        "n": "NaN",
        "i": "-Infinity",
        "t": {"[1,2]": [3]},
        "z": None,
    }


@pytest.mark.parametrize(
    ("key", "found"), [("a", ["a"]), ('"a"', ["a"]), ("7", [7]), ('["x", 1]', [["x", 1]]), ("b", [])]
)
def test_a_key_is_given_as_text_or_json(
    key: str, found: list[Any], savepoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = lines(call(capsys, "state", "read", savepoint, "--operator", "visits", "--state", "last", "--key", key))

    assert [row["key"] for row in rows] == found


def test_timers_splits_and_limits(savepoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (timer,) = lines(call(capsys, "state", "read", savepoint, "--operator", "visits", "--state", "timers/event"))
    (split,) = lines(call(capsys, "state", "read", savepoint, "--operator", "in"))
    limited = lines(call(capsys, "state", "read", savepoint, "--operator", "visits", "--state", "last", "--limit", "2"))

    assert (timer["key"], timer["time_ms"], timer["domain"]) == ("a", 99, "event")
    assert (split["split"], split["progress"], split["position"]) == ("0", "reading", 1)
    assert len(limited) == 2


def test_a_parquet_file_has_typed_columns(savepoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages.parquet"
    command = (
        "state",
        "read",
        savepoint,
        "--operator",
        "visits",
        "--state",
        "pages",
        "--format",
        "parquet",
        "--output",
    )

    outcome = call(capsys, *command, out)

    assert (outcome.code, outcome.out, outcome.err) == (0, "", f"{out}: 3 rows\n")
    frame = polars.read_parquet(out).sort("key", "subkey")
    assert frame.select("key", "subkey", "value").rows() == [("7", "home", 2), ("a", "about", 1), ("a", "home", 3)]
    assert frame.schema["value"] == polars.Int64
    assert list(tmp_path.iterdir()) == [out]


def test_nested_values_are_structs_in_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "same", tmp_path / "last.parquet"
    with new_savepoint(str(path), pipeline=build, job_id="default/visits") as made:
        made.add("visits", [("a", Visit(NOON, b"\xff", 1.5)), ("b", Visit(NOON, b"", None))], state="last")

    outcome = call(
        capsys, "state", "read", path, "--operator", "visits", "--state", "last", "--format", "parquet", "--output", out
    )

    assert outcome.code == 0
    values = {row["key"]: row["value"] for row in polars.read_parquet(out).to_dicts()}
    assert values == {
        "a": {"at": NOON, "page": b"\xff", "seconds": 1.5},
        "b": {"at": NOON, "page": b"", "seconds": None},
    }


def test_rows_that_are_not_alike_are_no_parquet(
    savepoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "anything.parquet"

    outcome = call(
        capsys,
        "state",
        "read",
        savepoint,
        "--operator",
        "visits",
        "--state",
        "anything",
        "--format",
        "parquet",
        "--output",
        out,
    )

    assert outcome.code == 1
    assert "cannot be written as Parquet columns" in outcome.err
    assert "write JSON lines instead" in outcome.err
    assert not out.exists()


def test_a_table_is_for_people(
    savepoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")

    outcome = call(
        capsys,
        "state",
        "read",
        savepoint,
        "--operator",
        "visits",
        "--state",
        "pages",
        "--format",
        "table",
        "--limit",
        "2",
    )

    assert outcome.code == 0
    assert len([line for line in outcome.out.splitlines() if "home" in line or "about" in line]) == 2
    assert "and more" in outcome.err


def test_lines_go_into_a_file(savepoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.jsonl"

    outcome = call(capsys, "state", "read", savepoint, "--operator", "per-100", "--output", out)
    nowhere = call(capsys, "state", "read", savepoint, "--operator", "per-100", "--output", tmp_path / "no" / "rows")

    assert (outcome.code, outcome.out) == (0, "")
    assert json.loads(out.read_text())["value"] == 4
    assert nowhere.code == 1
    assert "cannot write" in nowhere.err


def test_wrong_names_and_flags_are_answered_with_what_there_is(
    savepoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: Any) -> tuple[int, str]:
        outcome = call(capsys, "state", "read", savepoint, *arguments)
        assert outcome.out == ""
        return outcome.code, " ".join(outcome.err.replace("│", " ").split())

    code, text = refused("--operator", "visit")
    assert (code, "it has: `in`, `key_by-1`, `visits`" in text) == (1, True)
    code, text = refused("--operator", "visits", "--state", "page")
    assert (code, "has no state `page`" in text) == (1, True)
    code, text = refused("--operator", "visits", "--state", "timers/wall")
    assert (code, "it has: event" in text) == (1, True)
    code, text = refused("--operator", "visits", "--state", "last", "--format", "parquet")
    assert (code, "needs `--output FILE`" in text) == (2, True)
    code, text = refused("--operator", "visits", "--state", "last", "--arg", "n=1")
    assert (code, "needs an `--entrypoint`" in text) == (2, True)
    empty = call(capsys, "state", "list", tmp_path)
    assert (empty.code, tmp_path.as_uri() in empty.err) == (1, True)


def test_the_entrypoint_brings_the_code_of_pickled_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickled_state_job.py").write_text(PIPELINE)
    script = (
        "from checkdam.offline import new_savepoint\n"
        "import pickled_state_job as job\n"
        "with new_savepoint('kept', pipeline=job.build, args={'n': 1}, job_id='j') as savepoint:\n"
        "    savepoint.add('keep', [('a', job.Opaque(7))])\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    command = ("state", "read", "kept", "--operator", "keep")

    refused = call(capsys, *command)
    (row,) = lines(call(capsys, *command, "--entrypoint", "pickled_state_job:build", "--arg", "n=1"))
    sys.modules.pop("pickled_state_job", None)

    assert refused.code == 1
    assert "class `pickled_state_job.Opaque`" in refused.err
    assert row["value"] == {"number": 7}


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "many"
    with new_savepoint(str(path), pipeline=build, job_id="default/visits") as made:
        made.add("visits", ((key, "page" * 20, 1) for key in range(20_000)), state="pages")

    command = f"{sys.executable} -m checkdam state read {path} --operator visits --state pages | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
