"""A savepoint that no job has taken holds what was put into it, and pipelines start from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offline_kit import Opaque, aggregates, everything, key_of, on_disk, taken, time_of
from s3_server import S3Bucket

import checkdam as cd
from checkdam.core.errors import CheckpointError, CorruptCheckpointError, KeyTypeError, ValueTypeError
from checkdam.offline import NewSavepoint, new_savepoint, open_savepoint
from checkdam.testing import Harness, ScriptedSource

KEYS = st.one_of(
    st.text(max_size=3), st.integers(), st.tuples(st.integers(0, 3), st.text(max_size=2)), st.binary(max_size=2)
)
NUMBERS = st.integers(-(2**40), 2**40)


def begin(folder: Path, build: Any = everything, records: Any = (), **options: Any) -> Any:
    """A new savepoint for a pipeline, in `new` of a folder."""
    args = {"source": ScriptedSource(list(records))}
    return new_savepoint(str(folder / "new"), pipeline=build, args=args, job_id="default/job", **options)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(KEYS, NUMBERS, max_size=30),
    entries=st.dictionaries(st.tuples(KEYS, KEYS), NUMBERS, max_size=30),
    timers=st.sets(st.tuples(KEYS, st.integers(0, 2**40)), max_size=20),
    parallelism=st.integers(1, 3),
)
def test_what_is_written_is_what_is_read(
    values: dict[Any, int],
    entries: dict[tuple[Any, Any], int],
    timers: set[tuple[Any, int]],
    parallelism: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("written")
    with begin(folder, parallelism=parallelism, max_parallelism=16) as savepoint:
        savepoint.add("all-kinds", values.items(), state="total")
        savepoint.add(
            "all-kinds", ((key, subkey, value) for (key, subkey), value in entries.items()), state="by-parity"
        )
        savepoint.add("all-kinds", ((key, Opaque(value)) for key, value in values.items()), state="opaque")
        savepoint.add_timers("all-kinds", timers)

    args = {"source": ScriptedSource([])}
    written = open_savepoint(str(folder / "new"), pipeline=everything, args=args)
    assert written.store.verify("new") == []

    def read(state: str) -> list[Any]:
        known = {info.name for operator in written.operators() for info in operator.states}
        return list(written.read("all-kinds", state)) if state in known else []

    assert {row.key: row.value for row in read("total")} == values
    assert {(row.key, row.subkey): row.value for row in read("by-parity")} == entries
    assert {row.key: row.value for row in read("opaque")} == {key: Opaque(value) for key, value in values.items()}
    assert {(timer.key, timer.time_ms) for timer in (written.timers("all-kinds") if timers else [])} == timers


def test_rows_that_were_read_can_be_written_as_they_are(tmp_path: Path) -> None:
    args = {"source": ScriptedSource([])}
    before = open_savepoint(taken(everything, [("a", 1), ("b", 2), ("a", 3)], tmp_path), pipeline=everything, args=args)
    states = [info.name for info in before.operators()[2].states if not info.ttl_ms]

    with begin(tmp_path) as savepoint:
        for state in states:
            savepoint.add("all-kinds", before.read("all-kinds", state), state=state)

    after = open_savepoint(str(tmp_path / "new"), pipeline=everything, args=args)
    for state in states:
        assert sorted(after.read("all-kinds", state), key=str) == sorted(before.read("all-kinds", state), key=str)


@pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])
@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_pipeline_starts_from_it_with_values_maps_timers_and_ttl(
    backend: Any, parallelism: int, tmp_path: Path
) -> None:
    class Greeter(cd.ProcessFunction):
        seen = cd.ValueState("seen", int)
        words = cd.MapState("words", str, int)
        recent = cd.ValueState("recent", str, ttl="1h")

        def process(self, record: Any, ctx: cd.ProcessContext) -> Iterator[Any]:
            yield record[0], self.seen.get(0), self.words.items(), self.recent.get("none")

        def on_timer(self, time_ms: int, ctx: cd.ProcessContext) -> Iterator[Any]:
            yield ctx.key, time_ms, [], "timer"

    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("in", args["source"], cd.monotonous(timestamp=time_of)).key_by(key_of)
        stream.process(Greeter, name="greeter").sink("out", cd.CollectSink("greeted"))

    source = ScriptedSource([("a", 5), ("b", 6), ("a", 100)])
    with begin(tmp_path, build, source._scripts[0], parallelism=parallelism) as savepoint:
        savepoint.add("greeter", [("a", 1), ("b", 2), ("a", 3)], state="seen")
        savepoint.add("greeter", [("a", "x", 1), ("a", "y", 2)], state="words")
        savepoint.add("greeter", [("b", "just now")], state="recent")
        savepoint.add_timers("greeter", [("b", 50)])

    with Harness(build, args={"source": source}, backend=backend, parallelism=parallelism) as harness:
        harness.last_checkpoint = open_savepoint(str(tmp_path / "new")).manifest
        harness.crash()
        greeted = harness.finish()["greeted"]

    words = [("x", 1), ("y", 2)]
    assert sorted(greeted) == sorted(
        [("a", 3, words, "none"), ("a", 3, words, "none"), ("b", 2, [], "just now"), ("b", 50, [], "timer")]
    )


def test_windows_that_were_put_in_fire_with_what_comes_later(tmp_path: Path) -> None:
    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("in", args["source"], cd.monotonous(timestamp=time_of)).key_by(key_of)
        stream.count(name="counts").sink("counted", cd.CollectSink("counted"))
        windows = stream.window(cd.Sliding(100, 50)).count(name="per-100")
        windows.sink("windows", cd.CollectSink("windows"))
        windows.side_output("late").sink("late", cd.CollectSink("late"))

    records = [("a", 10), ("a", 160), ("a", 400)]
    with begin(tmp_path, build, records, watermark_ms=120) as savepoint:
        savepoint.add("counts", [("a", 40)])
        savepoint.add("per-100", [("a", 100, 5), ("b", 150, 7)])

    with Harness(build, args={"source": ScriptedSource(records)}) as harness:
        harness.last_checkpoint = open_savepoint(str(tmp_path / "new")).manifest
        harness.crash()
        results = harness.finish()

    assert results["counted"][-1] == ("a", 43)
    assert results["late"] == [("a", 10)]
    found = {(each.key, each.start_ms): each.value for each in results["windows"]}
    assert found == {
        ("a", 50): 5,
        ("a", 100): 6,
        ("b", 100): 7,
        ("a", 150): 1,
        ("b", 150): 7,
        ("a", 350): 1,
        ("a", 400): 1,
    }


def test_a_source_goes_on_where_it_is_told(tmp_path: Path) -> None:
    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        pipeline.source("in", args["source"]).sink("out", cd.CollectSink("read"))

    def scripts() -> ScriptedSource:
        return ScriptedSource([1, 2, 3], [10, 20, 30], [100, 200])

    args = {"source": scripts()}
    with new_savepoint(str(tmp_path / "new"), pipeline=build, args=args, job_id="j", parallelism=2) as savepoint:
        savepoint.set_positions("in", {"0": 2, "1": 1}, finished=["2"])
        with pytest.raises(CheckpointError, match="no split `7`; it has: 0, 1, 2"):
            savepoint.set_positions("in", {"7": 0})

    restored = open_savepoint(str(tmp_path / "new"))
    assert [(split.split, split.progress) for split in restored.splits("in")] == [
        ("0", "reading"),
        ("1", "reading"),
        ("2", "finished"),
    ]
    with Harness(build, args={"source": scripts()}, parallelism=2) as harness:
        harness.last_checkpoint = restored.manifest
        harness.crash()
        assert sorted(harness.finish()["read"]) == [3, 20, 30]


def test_broadcast_state_is_in_every_subtask(tmp_path: Path) -> None:
    def rate(record: Any, table: Any) -> Any:
        return table.get(record)

    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        rates = pipeline.source("rates", args["rates"])
        stream = pipeline.source("in", args["source"])
        lookup = cd.broadcast_lookup(lambda pair: pair[0], rate)
        stream.broadcast_join(rates, lookup, name="rated").sink("out", cd.CollectSink("rated"))

    args = {"source": ScriptedSource(["x"], ["y"]), "rates": ScriptedSource([])}
    with new_savepoint(str(tmp_path / "new"), pipeline=build, args=args, job_id="j", parallelism=2) as savepoint:
        savepoint.set_broadcast("rated", {"x": ("x", 1), "y": ("y", 2)})

    with Harness(build, args=args, parallelism=2) as harness:
        harness.last_checkpoint = open_savepoint(str(tmp_path / "new")).manifest
        harness.crash()
        assert sorted(harness.finish()["rated"]) == [("x", 1), ("y", 2)]


def test_all_that_is_not_set_comes_from_the_base(tmp_path: Path) -> None:
    base = open_savepoint(taken(aggregates, [("a", 5), ("b", 7), ("a", 120)], tmp_path))
    args = {"source": ScriptedSource([])}

    with new_savepoint(str(tmp_path / "new"), pipeline=aggregates, args=args, base=base) as savepoint:
        savepoint.add("counts", [("c", 9)])

    after = open_savepoint(str(tmp_path / "new"))
    assert [(row.key, row.value) for row in after.read("counts")] == [("c", 9)]
    assert list(after.read("per-100")) == list(base.read("per-100"))
    assert list(after.timers("visits")) == list(base.timers("visits"))
    assert after.splits("in") == base.splits("in")
    assert (after.manifest.job_id, after.manifest.max_parallelism) == ("test", 128)
    assert [info.id for info in after.manifest.operators] == [info.id for info in base.manifest.operators]


def test_an_operator_that_the_base_lacks_is_added_to_it(tmp_path: Path) -> None:
    def with_totals(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        aggregates(pipeline, args)
        stream = pipeline.source("more", args["source"]).key_by(key_of)
        stream.sum(time_of, name="totals").sink("totals-out", cd.CollectSink("totals"))

    base = open_savepoint(taken(aggregates, [("a", 5)], tmp_path))
    args = {"source": ScriptedSource([])}
    with new_savepoint(str(tmp_path / "new"), pipeline=with_totals, args=args, base=base) as savepoint:
        savepoint.add("totals", [("a", 5)])

    after = open_savepoint(str(tmp_path / "new"))
    assert [(row.key, row.value) for row in after.read("totals")] == [("a", 5)]
    assert list(after.read("counts")) == list(base.read("counts"))


def test_what_the_pipeline_cannot_have_is_refused(tmp_path: Path) -> None:
    with begin(tmp_path, aggregates) as savepoint:
        check_refusals(savepoint)
    with begin(tmp_path / "states") as savepoint:
        with pytest.raises(CheckpointError, match="several states or none; name one of: `latest`"):
            savepoint.add("all-kinds", [])
        with pytest.raises(
            CheckpointError, match=r"`all-kinds/by-parity` must be \(key, sub-key, value\) \(got \('a', 1\)\)"
        ):
            savepoint.add("all-kinds", [("a", 1)], state="by-parity")
        with pytest.raises(ValueTypeError, match="state `total` of operator `all-kinds` must be int"):
            savepoint.add("all-kinds", [("a", "one")], state="total")
        with pytest.raises(CheckpointError, match="event or processing"):
            savepoint.add_timers("all-kinds", [], domain="wall")


def check_refusals(savepoint: NewSavepoint) -> None:
    """What a savepoint for `aggregates` refuses."""
    with pytest.raises(CheckpointError, match="no operator `count`; of this kind it has: `counts`, `per-100`"):
        savepoint.add("count", [])
    with pytest.raises(CheckpointError, match="has no state `total`; it has: `aggregate`"):
        savepoint.add("counts", [], state="total")
    with pytest.raises(CheckpointError, match="`visits` is a session_window: its state cannot be made by rows alone"):
        savepoint.add("visits", [])
    with pytest.raises(CheckpointError, match=r"must be \(key, value\) \(got \('a', 1, 2\)\)"):
        savepoint.add("counts", [("a", 1, 2)])
    with pytest.raises(CheckpointError, match="no window of `per-100` starts at 150"):
        savepoint.add("per-100", [("a", 150, 1)])
    with pytest.raises(KeyTypeError, match="a key must be"):
        savepoint.add("counts", [(None, 1)])
    with pytest.raises(CheckpointError, match="it has no timers of the user's"):
        savepoint.add_timers("counts", [])
    with pytest.raises(CheckpointError, match="it has no broadcast state"):
        savepoint.set_broadcast("counts", {})
    with pytest.raises(CheckpointError, match="it has no splits"):
        savepoint.set_positions("counts", {})


def test_arguments_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    base = open_savepoint(taken(aggregates, [("a", 5)], tmp_path))
    args = {"source": ScriptedSource([])}
    out = str(tmp_path / "new")
    with pytest.raises(CheckpointError, match="`job_id` must be given"):
        new_savepoint(out, pipeline=aggregates, args=args).__enter__()
    with pytest.raises(CheckpointError, match=r"that of the base, 128 \(got 64\)"):
        new_savepoint(out, pipeline=aggregates, args=args, base=base, max_parallelism=64).__enter__()
    with pytest.raises(CheckpointError, match=r"that of the base, 1 \(got 2\)"):
        new_savepoint(out, pipeline=aggregates, args=args, base=base, parallelism=2).__enter__()
    with pytest.raises(CheckpointError, match=r"\(got 9 and 8\)"):
        new_savepoint(out, pipeline=aggregates, args=args, job_id="j", parallelism=9, max_parallelism=8).__enter__()
    with pytest.raises(CheckpointError, match="is not empty"):
        new_savepoint(str(tmp_path / "taken"), pipeline=aggregates, args=args, job_id="j").__enter__()


def test_nothing_is_left_of_one_that_was_given_up(tmp_path: Path) -> None:
    def give_up() -> None:
        with begin(tmp_path, aggregates) as savepoint:
            savepoint.add("counts", [("a", 1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_found_when_it_is_read(tmp_path: Path) -> None:
    with begin(tmp_path, everything) as savepoint:
        rows = ((key, list(range(key, key + 50))) for key in range(2_000))
        savepoint.add("all-kinds", rows, state="all")
    (stored,) = (path for path in (tmp_path / "new").rglob("*.blocks"))
    data = stored.read_bytes()
    stored.chmod(0o644)
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(CorruptCheckpointError, match=r"state\.blocks must have SHA-256"):
        list(open_savepoint(str(tmp_path / "new")).read("all-kinds", "all"))


def test_a_new_one_knows_the_pipeline_as_a_checkpoint_of_it_does(tmp_path: Path) -> None:
    with Harness(aggregates, args={"source": ScriptedSource([], ends=False)}) as harness:
        before = open_savepoint(on_disk(harness.checkpoint(), tmp_path)).manifest
    with begin(tmp_path, aggregates):
        pass
    after = open_savepoint(str(tmp_path / "new")).manifest

    assert (after.operators, after.fingerprint) == (before.operators, before.fingerprint)


def test_savepoints_are_written_read_and_corrected_in_s3(
    s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.server.endpoint)
    args = {"source": ScriptedSource([])}
    made, corrected = f"{s3_bucket.uri}/savepoints/made", f"{s3_bucket.uri}/savepoints/corrected"
    rows = [(f"key-{number}", list(range(number, number + 50))) for number in range(2_000)]
    with new_savepoint(made, pipeline=everything, args=args, job_id="default/job") as savepoint:
        savepoint.add("all-kinds", rows, state="all")

    open_savepoint(made).rewrite(corrected, {("all-kinds", "all"): lambda row: row.value[:1]})
    open_savepoint(corrected).rewrite(str(tmp_path / "brought-home"), {})

    home = open_savepoint(str(tmp_path / "brought-home"))
    assert {row.key: row.value for row in open_savepoint(made).read("all-kinds", "all")} == dict(rows)
    assert {row.key: row.value for row in home.read("all-kinds", "all")} == {key: value[:1] for key, value in rows}
    keys = s3_bucket.keys()
    assert {key.rsplit("/", 1)[-1] for key in keys if "made" in key} == {"_metadata", "state.blocks"}
