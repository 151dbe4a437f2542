"""The harness itself: planned failures and pauses, modes, clocks, and errors that say what is wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest

from checkdam import (
    CollectionSource,
    CollectSink,
    Pipeline,
    ProcessContext,
    ProcessFunction,
    Source,
    Split,
    SplitReader,
    Stream,
    Tumbling,
    ValueState,
)
from checkdam.core.errors import CheckdamError, CheckpointError, PipelineError, StorageError, UserCodeError
from checkdam.operators.watermarks import monotonous
from checkdam.testing import (
    FAIL,
    PAUSE,
    CommittedCollectSink,
    Harness,
    ManualClock,
    PlannedFailureError,
    ScriptedSource,
)

Build = Callable[[Pipeline, dict[str, Any]], None]


def through(source: Source[Any], transform: Callable[[Stream], Stream] = lambda stream: stream, **kwargs: Any) -> Build:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        transform(pipeline.source("source", source, **kwargs)).sink("out", CommittedCollectSink("harness"))

    return build


def test_a_planned_failure_is_raised_once_and_nothing_is_lost_or_repeated() -> None:
    with Harness(through(ScriptedSource([1, 2, FAIL, 3]))) as harness:
        with pytest.raises(PlannedFailureError, match="split 0 fails at position 2"):
            harness.run()
        harness.crash()
        assert harness.finish()["harness"] == [1, 2, 3]


def test_a_pause_lasts_until_the_next_run() -> None:
    with Harness(through(ScriptedSource([1, PAUSE, 2], [10, 20]))) as harness:
        harness.run()
        harness.checkpoint()
        assert sorted(harness.collected()["harness"]) == [1, 10, 20]
        assert not harness.ended

        harness.settle()
        harness.checkpoint()
        assert len(harness.collected()["harness"]) == 3
        assert sorted(harness.finish()["harness"]) == [1, 2, 10, 20]


def test_nothing_is_visible_before_its_checkpoint_has_completed() -> None:
    with Harness(through(ScriptedSource([1, 2]))) as harness:
        harness.run()
        assert harness.collected()["harness"] == []
        harness.checkpoint(commit=False)
        assert harness.collected()["harness"] == []
        harness.crash()
        assert harness.collected()["harness"] == [1, 2], "restored committables are committed first"


@pytest.mark.parametrize("rescales", [(1, 1, 1, 1), (3, 3, 3, 3), (2, 4, 1, 3)])
def test_at_most_once_reads_no_record_twice(rescales: tuple[int, ...]) -> None:
    seen: list[int] = []

    def note(value: int) -> int:
        seen.append(value)
        return value

    source = CollectionSource(list(range(100)), splits=4)
    build = through(source, lambda stream: stream.map(note))
    with Harness(build, parallelism=rescales[0], mode="AtMostOnce", batch_records=3) as harness:
        for count, parallelism in zip((5, 9, 20), rescales[1:], strict=True):
            for _ in range(count):
                harness.step()
            harness.crash(parallelism=parallelism)
        found = harness.finish()["harness"]

    assert len(seen) == len(set(seen))
    assert len(found) == len(set(found))
    assert set(found) <= set(seen)


def test_at_least_once_loses_nothing() -> None:
    source = CollectionSource(list(range(50)), splits=2)
    with Harness(through(source), parallelism=2, mode="AtLeastOnce", batch_records=3) as harness:
        for _ in range(6):
            harness.step()
        harness.checkpoint()
        for _ in range(6):
            harness.step()
        harness.crash()
        assert set(harness.finish()["harness"]) == set(range(50))


def test_the_test_moves_processing_time() -> None:
    clock = ManualClock(5_000)
    source = ScriptedSource(["a", "a"], ends=False)

    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("source", source).key_by(str).window(Tumbling("1s"), processing_time=True).count()
        stream.sink("out", CollectSink("harness-time"))

    with Harness(build, clock=clock) as harness:
        harness.run()
        assert harness.collected()["harness-time"] == []
        harness.advance(2_000)
        (result,) = harness.collected()["harness-time"]
        assert (result.key, result.start_ms, result.value) == ("a", 5_000, 2)


def test_the_harness_waits_for_async_calls() -> None:
    async def slow(value: int) -> int:
        await asyncio.sleep(0.02)
        return value * 2

    build = through(ScriptedSource([1, 2, 3]), lambda stream: stream.map_async(slow, concurrency=2))
    with Harness(build) as harness:
        assert sorted(harness.finish()["harness"]) == [2, 4, 6]


def test_calls_in_flight_are_in_the_checkpoint() -> None:
    gate = threading.Event()

    async def blocked(value: int) -> int:
        await asyncio.to_thread(gate.wait, 10)
        return value

    build = through(ScriptedSource([1, 2, 3]), lambda stream: stream.map_async(blocked))
    with Harness(build, calls_timeout_s=0) as harness:
        harness.run()
        harness.checkpoint()
        gate.set()
        harness.crash()
        harness._calls_timeout_s = 10
        assert sorted(harness.finish()["harness"]) == [1, 2, 3]


def test_an_operator_finds_its_state_again_where_a_changed_graph_cuts_stages_otherwise() -> None:
    gate = threading.Event()

    async def blocked(value: int) -> int:
        await asyncio.to_thread(gate.wait, 10)
        return value

    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("source", ScriptedSource([1, 2, 3])).rebalance()
        if args["changed"]:
            stream = stream.filter(lambda value: True)
        stream.map_async(blocked, name="calls").sink("out", CollectSink("harness-changed"))

    with Harness(build, args={"changed": False}, calls_timeout_s=0) as before:
        before.run()
        manifest = before.checkpoint()
        gate.set()
    with Harness(build, args={"changed": True}) as after:
        after.last_checkpoint = manifest
        after.crash()
        assert sorted(after.finish()["harness-changed"]) == [1, 2, 3]


def test_calls_that_never_finish_are_an_error_in_the_end() -> None:
    async def never(value: int) -> int:
        await asyncio.Event().wait()
        return value

    build = through(ScriptedSource([1]), lambda stream: stream.map_async(never))
    with Harness(build, calls_timeout_s=0.05) as harness, pytest.raises(CheckdamError, match=r"within 0\.05 s"):
        harness.finish()


def test_a_pipeline_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Harness(through(ScriptedSource([1], ends=False))) as harness, pytest.raises(CheckdamError, match="unbounded"):
        harness.finish()


def test_a_user_error_names_operator_and_record() -> None:
    build = through(ScriptedSource([2, 0]), lambda stream: stream.map(lambda value: 1 // value, name="inverse"))
    with Harness(build) as harness, pytest.raises(UserCodeError, match="operator `inverse` failed on record 0"):
        harness.run()


class Unreachable(CommittedCollectSink[Any]):
    """Commits fail so many times."""

    failures: ClassVar[int] = 0

    def commit(self, committables: list[Any]) -> None:
        if Unreachable.failures:
            Unreachable.failures -= 1
            raise StorageError("commit", "the target", "slow down")
        super().commit(committables)


@pytest.mark.parametrize(("failures", "succeeds"), [(3, True), (100, False)])
def test_a_commit_that_fails_is_tried_again_and_then_raised(failures: int, succeeds: bool) -> None:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        pipeline.source("source", ScriptedSource([1])).sink("out", Unreachable("harness-commits"))

    with Harness(build) as harness:
        Unreachable.failures = failures
        harness.run()
        if succeeds:
            harness.checkpoint()
            assert harness.collected()["harness-commits"] == [1]
        else:
            with pytest.raises(StorageError, match="slow down"):
                harness.checkpoint()
    Unreachable.failures = 0


def test_a_barrier_that_has_not_arrived_everywhere_is_an_error() -> None:
    with Harness(through(ScriptedSource([1]))) as harness:
        harness.trigger()
        with pytest.raises(CheckpointError, match="only 0 of 1 workers have acknowledged checkpoint 1"):
            harness.complete()


def test_a_stream_may_be_united_with_itself() -> None:
    build = through(ScriptedSource([1, 2]), lambda stream: stream.union(stream))
    with Harness(build) as harness:
        assert sorted(harness.finish()["harness"]) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "exactly-once"}, "`mode` must be one of ExactlyOnce, AtLeastOnce, AtMostOnce"),
        ({"parallelism": 0}, r"`parallelism` must be in 1\.\.128"),
        ({"parallelism": 9, "max_parallelism": 8}, r"in 1\.\.8"),
    ],
)
def test_arguments_that_are_wrong_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        Harness(through(ScriptedSource([1])), **arguments)


def test_a_source_that_cannot_reserve_is_refused_in_at_most_once() -> None:
    class Plain(Source[int]):
        def splits(self, parallelism: int) -> list[Split]:
            return []

        def open(self, split: Split, position: Any) -> SplitReader[int]:
            raise NotImplementedError

    with pytest.raises(PipelineError, match=r"source `source` \(Plain\) cannot reserve"):
        Harness(through(Plain()), mode="AtMostOnce")


@pytest.mark.parametrize(
    ("times", "words"), [([[1]], "as many as its records, 2"), ([[1, 2], [3]], "each of the 1 scripts")]
)
def test_times_that_do_not_fit_the_scripts_are_refused(times: list[list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScriptedSource([1, PAUSE, 2], times=times)


def test_times_belong_to_records_and_not_to_sentinels() -> None:
    class Times(ProcessFunction):
        seen = ValueState("seen", bool)

        def process(self, value: str, ctx: ProcessContext) -> Iterable[Any]:
            return [(value, ctx.time_ms)]

    source = ScriptedSource([PAUSE, "a", PAUSE, FAIL, "b"], times=[[7, 8]])
    build = through(source, lambda stream: stream.key_by(str).process(Times), watermarks=monotonous())
    with Harness(build) as harness:
        harness.run()
        harness.run()
        with pytest.raises(PlannedFailureError):
            harness.run()
        harness.crash()
        assert harness.finish()["harness"] == [("a", 7), ("b", 8)]
