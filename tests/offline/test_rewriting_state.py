"""A corrected copy has the corrections and everything else, and a job goes on from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from offline_kit import Reading, aggregates, everything, key_of, on_disk, taken, time_of

import checkdam as cd
from checkdam.core.errors import CheckpointError, UserCodeError, ValueTypeError
from checkdam.offline import DELETE, Savepoint, StateRow, open_savepoint
from checkdam.testing import PAUSE, Harness, ScriptedSource

RECORDS = [(f"key-{number % 7}", number) for number in range(60)]

backends = pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])


@dataclass
class Detailed:
    """What `Reading` becomes in a later version of a job."""

    value: float
    unit: str
    source: str


def opened(uri: str | Path) -> Savepoint:
    """A savepoint with the types of its pipeline."""
    return open_savepoint(str(uri), pipeline=everything, args={"source": ScriptedSource([])})


def content(savepoint: Savepoint, operator: str = "all-kinds") -> dict[str, list[Any]]:
    """All keyed states and timers of an operator."""
    found = next(each for each in savepoint.operators() if each.name == operator)
    states = {info.name: list(savepoint.read(operator, info.name)) for info in found.states}
    return {**states, "timers": list(savepoint.timers(operator)) if found.timers else []}


@backends
@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_copy_has_the_corrections_and_all_the_rest(backend: Any, parallelism: int, tmp_path: Path) -> None:
    before = opened(taken(everything, RECORDS, tmp_path, backend=backend, parallelism=parallelism))

    before.rewrite(
        str(tmp_path / "corrected"),
        {
            ("all-kinds", "total"): lambda row: DELETE if row.key == "key-1" else -row.value,
            ("all-kinds", "latest"): lambda row: Reading(row.value.value, "F"),
            ("all-kinds", "by-parity"): lambda row: row.value + 1 if row.subkey == "odd" else DELETE,
            ("all-kinds", "recent"): lambda row: 0,
        },
    )

    wanted = content(before)
    wanted["total"] = [edited(row, value=-row.value) for row in wanted["total"] if row.key != "key-1"]
    wanted["latest"] = [edited(row, value=Reading(row.value.value, "F")) for row in wanted["latest"]]
    odd = [row for row in wanted["by-parity"] if row.subkey == "odd"]
    wanted["by-parity"] = [edited(row, value=row.value + 1) for row in odd]
    wanted["recent"] = [edited(row, value=0) for row in wanted["recent"]]
    after = opened(tmp_path / "corrected")
    assert content(after) == wanted
    assert after.splits("in") == before.splits("in")
    assert after.own_state("all-kinds") == before.own_state("all-kinds")
    assert (after.manifest.kind, after.manifest.id) == ("savepoint", before.manifest.id)
    assert after.store.verify("corrected") == []


def edited(row: StateRow, value: Any) -> StateRow:
    """A row with another value."""
    return StateRow(key=row.key, subkey=row.subkey, value=value, updated_ms=row.updated_ms, key_group=row.key_group)


def test_the_pipeline_goes_on_from_a_copy(tmp_path: Path) -> None:
    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("in", args["source"], cd.monotonous(timestamp=time_of)).key_by(key_of)
        stream.count(name="counts").sink("counted", cd.CollectSink("counted"))
        stream.window(cd.Tumbling(100)).count(name="per-100").sink("windows", cd.CollectSink("windows"))

    source = ScriptedSource([("a", 1), ("b", 2), ("a", 3), PAUSE, ("a", 4), ("b", 205)])
    with Harness(build, args={"source": source}) as harness:
        harness.run()
        savepoint = open_savepoint(on_disk(harness.checkpoint(), tmp_path))
        savepoint.rewrite(
            str(tmp_path / "corrected"),
            {
                ("counts", "aggregate"): lambda row: 100 if row.key == "a" else DELETE,
                ("per-100", "panes"): lambda row: row.value + 50 if row.window_start_ms == 0 else row.value,
            },
        )
        harness.last_checkpoint = open_savepoint(str(tmp_path / "corrected")).manifest
        harness.crash()
        results = harness.finish()

    assert results["counted"][-2:] == [("a", 101), ("b", 1)]
    windows = {(result.key, result.start_ms): result.value for result in results["windows"]}
    assert windows == {("a", 0): 53, ("b", 0): 51, ("b", 200): 1}


def test_what_is_dropped_is_not_in_the_copy(tmp_path: Path) -> None:
    before = open_savepoint(taken(aggregates, [("a", 5), ("b", 7)], tmp_path))
    before.rewrite(str(tmp_path / "less"), {}, drop=["counts", "in"])
    less = open_savepoint(str(tmp_path / "less"))

    assert [operator.name for operator in less.operators() if operator.states] == ["per-100", "visits"]
    assert list(less.read("per-100")) == list(before.read("per-100"))
    assert "counts" not in {snapshot.stage for snapshot in less.manifest.subtasks}
    assert less.manifest.sources == {}
    assert not any("in" in snapshot.operators for snapshot in less.manifest.subtasks)

    whole = open_savepoint(taken(everything, RECORDS, tmp_path / "other"))
    whole.rewrite(str(tmp_path / "fewer"), {}, drop=[("all-kinds", "opaque"), ("all-kinds", "mean")])
    fewer = open_savepoint(str(tmp_path / "fewer"))
    names = [info.name for info in next(each for each in fewer.operators() if each.name == "all-kinds").states]
    assert {"opaque", "mean"}.isdisjoint(names)
    assert list(fewer.read("all-kinds", "total")) == list(whole.read("all-kinds", "total"))
    assert list(fewer.timers("all-kinds")) == list(whole.timers("all-kinds"))
    info = next(info for info in fewer.manifest.operators if info.id == "all-kinds")
    assert {"opaque", "mean"}.isdisjoint({*info.state, *info.schemas})


@backends
def test_a_state_can_be_given_another_type(backend: Any, tmp_path: Path) -> None:
    class Later(cd.ProcessFunction):
        latest = cd.ValueState("latest", Detailed)

        def process(self, record: Any, ctx: cd.ProcessContext) -> Iterator[Any]:
            yield record[0], self.latest.get()

    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("in", args["source"], cd.monotonous(timestamp=time_of)).key_by(key_of)
        stream.process(Later, name="all-kinds").sink("out", cd.CollectSink("later"))

    before = opened(taken(everything, [("a", 1), ("b", 2)], tmp_path, backend=backend))
    before.rewrite(
        str(tmp_path / "migrated"),
        {("all-kinds", "latest"): lambda row: Detailed(row.value.value, row.value.unit, f"of {row.key}")},
        types={("all-kinds", "latest"): Detailed},
    )

    after = open_savepoint(str(tmp_path / "migrated"))
    assert next(iter(after.operators()[2].states)).type == "msgpack:test_rewriting_state.Detailed"
    with Harness(build, args={"source": ScriptedSource([("a", 1), ("b", 2), ("a", 3)])}, backend=backend) as harness:
        harness.last_checkpoint = after.manifest
        harness.crash()
        assert [position.position for position in after.splits("in")] == [2]
        assert harness.finish()["later"] == [("a", Detailed(1.0, "C", "of a"))]


def test_untyped_values_go_back_as_they_came(tmp_path: Path) -> None:
    uri = taken(everything, RECORDS, tmp_path)
    open_savepoint(uri).rewrite(str(tmp_path / "same"), {("all-kinds", "latest"): lambda row: row.value})

    assert content(opened(tmp_path / "same")) == content(opened(uri))


def test_pending_output_of_a_sink_cannot_be_dropped(tmp_path: Path) -> None:
    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        pipeline.source("in", args["source"]).sink("files", cd.json_lines_sink(str(tmp_path / "out")))

    with Harness(build, args={"source": ScriptedSource([1, 2], ends=False)}) as harness:
        harness.run()
        savepoint = open_savepoint(on_disk(harness.checkpoint(commit=False), tmp_path))

    with pytest.raises(CheckpointError, match=r"sink `files` cannot be dropped.*not be committed"):
        savepoint.rewrite(str(tmp_path / "less"), {}, drop=["files"])
    savepoint.rewrite(str(tmp_path / "same"), {})
    assert open_savepoint(str(tmp_path / "same")).own_state("files") == savepoint.own_state("files")


def test_what_cannot_be_rewritten_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    savepoint = opened(taken(everything, RECORDS, tmp_path))
    out = tmp_path / "out"

    def same(row: StateRow) -> Any:
        return row.value

    with pytest.raises(CheckpointError, match="no state `totl`"):
        savepoint.rewrite(str(out), {("all-kinds", "totl"): same})
    with pytest.raises(CheckpointError, match="no operator `nobody`"):
        savepoint.rewrite(str(out), {}, drop=["nobody"])
    with pytest.raises(CheckpointError, match="both changed and dropped"):
        savepoint.rewrite(str(out), {("all-kinds", "total"): same}, drop=["all-kinds"])
    with pytest.raises(CheckpointError, match="no function changes"):
        savepoint.rewrite(str(out), {}, types={("all-kinds", "total"): str})
    with pytest.raises(CheckpointError, match="is not empty"):
        savepoint.rewrite(str(tmp_path / "taken"), {})
    with pytest.raises(CheckpointError, match="named as jobs name their own"):
        savepoint.rewrite(str(tmp_path / "chk-7-1.1-0"), {})
    assert not out.exists()


def test_a_function_that_fails_is_named_with_its_row_and_nothing_is_left(tmp_path: Path) -> None:
    savepoint = opened(taken(everything, RECORDS, tmp_path))
    out = tmp_path / "out"

    with pytest.raises(UserCodeError, match=r"`all-kinds` failed on record StateRow\(key='key-3'"):
        savepoint.rewrite(str(out), {("all-kinds", "total"): lambda row: 1 // (row.key != "key-3")})
    with pytest.raises(ValueTypeError, match=r"state `total`.* must be int"):
        savepoint.rewrite(str(out), {("all-kinds", "total"): lambda row: str(row.value)})
    assert not list(out.rglob("*"))
