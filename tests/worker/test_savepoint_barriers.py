"""Barriers of savepoints: those that never complete do no harm, and those that drain come after all event time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkdam.api.pipeline import Pipeline
from checkdam.coordinator.adoption import with_event_time_back
from checkdam.core.batch import MAX_TIME
from checkdam.operators.assigners import Session, Tumbling
from checkdam.operators.watermarks import bounded_out_of_orderness, monotonous
from checkdam.testing import PAUSE, CommittedCollectSink, Harness, ScriptedSource
from checkdam.wire.messages import Abort, Ack, Trigger

SCRIPTS = [[n, PAUSE] for n in range(0, 40, 2)], [[n, n + 2, PAUSE] for n in range(1, 40, 4)], [[PAUSE]]


def _script(parts: list[list[Any]]) -> list[Any]:
    return [item for part in parts for item in part]


def windows(pipeline: Pipeline, args: dict[str, Any]) -> None:
    """Numbers, whose event time they are, counted in windows of ten; the third split never has any."""
    scripts = [_script(parts) for parts in SCRIPTS]
    source = ScriptedSource(*scripts, times=[[n for n in script if n is not PAUSE] for script in scripts])
    strategy = monotonous().with_idleness("1s")
    stream = pipeline.source("numbers", source, strategy)
    if "gate" in args:
        stream = stream.map_async(_behind(args["gate"]), name="calls", concurrency=2, returns=int)
    (
        stream.key_by(lambda n: n % 3)
        .window(Tumbling(10))
        .count(name="tens")
        .key_by(lambda window: window.start_ms)
        .window(Session(5))
        .sum(lambda window: window.value, name="sessions")
        .sink("out", CommittedCollectSink("out"))
    )


def _behind(gate: threading.Event) -> Any:
    async def call(number: int) -> int:
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return number

    return call


def send_savepoint(harness: Harness, *, drain: bool = False, wait: bool = True) -> None:
    """Send the barriers of a savepoint on their way; with `wait` all workers acknowledge it."""
    harness.trigger()
    number = harness._checkpoint
    for loop in harness._loops:
        # In the place of the checkpoint that was triggered, which has not been looked at yet.
        loop._inbox.pop()
        loop.post(Trigger(loop.attempt, number, f"savepoint-{number}", -1, stop=drain, savepoint=True, drain=drain))
    harness.settle()
    if wait:
        harness._settle_with_calls(lambda: acknowledged(harness))
        assert acknowledged(harness)


def acknowledged(harness: Harness) -> bool:
    return len(harness._messages_of(Ack)) == len(harness._loops)


def rows(harness: Harness) -> list[tuple[int, int, int]]:
    return sorted((r.key, r.start_ms, r.value) for r in harness.collected()["out"])


@pytest.fixture(scope="module")
def undisturbed() -> list[tuple[int, int, int]]:
    with Harness(windows, parallelism=2) as harness:
        harness.finish()
        return rows(harness)


@given(
    actions=st.lists(st.sampled_from(["run", "run", "savepoint", "commit", "fail", "crash"]), max_size=10),
    backend=st.just("hashmap"),
)
@example(actions=["run", "commit", "run", "savepoint", "run", "fail", "crash", "savepoint", "crash"], backend="rocksdb")
@settings(max_examples=15, deadline=None)
def test_savepoints_that_never_complete_change_nothing(
    undisturbed: list[tuple[int, int, int]], actions: list[str], backend: Any
) -> None:
    with Harness(windows, parallelism=2, backend=backend) as harness:
        for action in actions:
            if action == "run":
                harness.run()
            elif action == "savepoint":
                send_savepoint(harness)
            elif action == "crash":
                harness.crash()
            else:
                harness.checkpoint(commit=action == "commit")
        harness.finish()
        assert rows(harness) == undisturbed


def test_a_checkpoint_commits_what_was_prepared_for_a_savepoint_before_it() -> None:
    def numbers(pipeline: Pipeline, args: dict[str, Any]) -> None:
        pipeline.source("numbers", ScriptedSource([1, 2, PAUSE, 3])).sink("out", CommittedCollectSink("out"))

    with Harness(numbers) as harness:
        harness.run()
        send_savepoint(harness)
        assert harness.collected()["out"] == []
        harness.run()
        harness.checkpoint()
        assert harness.collected()["out"] == [1, 2, 3]


@pytest.mark.parametrize("runs", [1, 7])
@pytest.mark.parametrize("gated", [False, True])
def test_all_event_time_passes_before_a_barrier_that_drains(runs: int, gated: bool) -> None:
    """Nothing in flight is overtaken, a source that is idle takes part, and full channels make it wait."""
    gate = threading.Event()
    args = {"gate": gate} if gated else {}
    patience = {"calls_timeout_s": 0.01} if gated else {}
    with Harness(windows, args=args, parallelism=2, batch_records=2, credit_bytes=64, **patience) as harness:
        for _ in range(runs):
            harness.run()
            harness.clock.advance(2000)
        send_savepoint(harness, drain=True, wait=not gated)
        if gated:
            assert not acknowledged(harness)
            gate.set()
            harness._calls_timeout_s = 10.0
            harness._settle_with_calls(lambda: acknowledged(harness))
        manifest = harness.complete()
        drained = sum(value for *_, value in rows(harness))
        sources = [subtask for loop in harness._loops for subtask in loop.subtasks if subtask.source is not None]
        assert 0 < drained == sum(subtask.metrics[0].records_out for subtask in sources)
        assert {snapshot.watermark_ms for snapshot in manifest.subtasks} == {MAX_TIME}
        # Nothing is read any more, and no window is open.
        harness.run()
        harness.checkpoint()
        assert sum(value for *_, value in rows(harness)) == drained

        harness.last_checkpoint = with_event_time_back(manifest)
        harness.crash()
        harness.finish()
        assert sum(value for *_, value in rows(harness)) == 40


def test_records_are_as_late_after_draining_as_before() -> None:
    """A split's own watermark is untouched: what had been late stays late, and nothing else is."""

    def late(pipeline: Pipeline, args: dict[str, Any]) -> None:
        source = ScriptedSource([1, 25, PAUSE, 2, 26, 40], times=[[1, 25, 2, 26, 40]])
        (
            pipeline.source("numbers", source, bounded_out_of_orderness("1ms"))
            .key_by(lambda n: 0)
            .window(Tumbling(10))
            .count(name="tens")
            .sink("out", CommittedCollectSink("out"))
        )

    with Harness(late) as harness:
        harness.run()
        send_savepoint(harness, drain=True)
        harness.last_checkpoint = with_event_time_back(harness.complete())
        harness.crash()
        harness.finish()
        found = rows(harness)
    assert [row for row in found if row[1] == 20] == [(0, 20, 1), (0, 20, 1)]
    assert [row for row in found if row[1] == 40] == [(0, 40, 1)]


def test_a_drain_that_is_aborted_lets_no_source_read_on() -> None:
    with Harness(windows, parallelism=2) as harness:
        harness.run()
        send_savepoint(harness, drain=True)
        for loop in harness._loops:
            loop.post(Abort(loop.attempt, harness._checkpoint, resume=False))
        before = [subtask.metrics[0].records_out for loop in harness._loops for subtask in loop.subtasks]
        harness.run()
        assert before == [subtask.metrics[0].records_out for loop in harness._loops for subtask in loop.subtasks]
        harness.crash()
        harness.finish()
        assert sum(value for *_, value in rows(harness)) == 40
