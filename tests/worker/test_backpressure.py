"""No deadlock and bounded memory: full channels, stalled sinks, aborts at any moment, very many windows at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkdam import Pipeline, Sink, SinkContext, SinkWriter, Tumbling
from checkdam.connectors.collection import CollectionSource
from checkdam.operators.watermarks import bounded_out_of_orderness
from checkdam.testing import CommittedCollectSink, Harness

RECORDS = 300
STEPS_BOUND = 60_000
"""Far above what a run takes, far below for ever."""


class _Nothing(SinkWriter[Any]):
    def write(self, values: list[Any], times: list[int] | None) -> None:
        return None


class NullSink(Sink[Any]):
    def open(self, context: SinkContext) -> SinkWriter[Any]:
        return _Nothing()


def two_shuffles(pipeline: Pipeline, args: dict[str, Any]) -> None:
    source = CollectionSource(range(RECORDS), [n ^ 5 for n in range(RECORDS)], splits=5)
    windows = (
        pipeline.source("numbers", source, bounded_out_of_orderness(20))
        .flat_map(lambda value: [value, value])
        .key_by(lambda value: value % 7)
        .window(Tumbling(40))
        .sum()
    )
    windows.key_by(lambda result: result.value % 3).window(Tumbling(80)).count().sink(
        "out", CommittedCollectSink("backpressure")
    )
    windows.rebalance().sink("null", NullSink())


def quiet() -> Counter[str]:
    with Harness(two_shuffles) as harness:
        return Counter(map(repr, harness.finish()["backpressure"]))


class Shaken:
    """A harness whose workers are run one step at a time in any order; stages can be stalled."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.stalled: set[tuple[int, int]] = set()
        for worker, loop in enumerate(harness._loops):
            for number, subtask in enumerate(loop.subtasks):
                self._make_stallable(subtask, (worker, number))

    def _make_stallable(self, subtask: Any, place: tuple[int, int]) -> None:
        step = subtask.step
        subtask.step = lambda: place not in self.stalled and step()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.harness.step()

    def most_queued_bytes(self) -> int:
        """The fullest channel of all."""
        return max(
            sum(size for _, _, size in channel.queue)
            for loop in self.harness._loops
            for subtask in loop.subtasks
            for channel in subtask.inputs or [_EMPTY]
        )


class _EMPTY:
    queue: tuple[Any, ...] = ()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    credit_bytes=st.sampled_from([1, 50, 1_000, 8_000]),
    batch_records=st.sampled_from([1, 5, 64]),
    mode=st.sampled_from(["ExactlyOnce", "ExactlyOnce", "AtLeastOnce"]),
    actions=st.lists(
        st.tuples(
            st.sampled_from(["stall", "free", "trigger", "abort", "run"]), st.integers(0, 2), st.integers(0, 120)
        ),
        max_size=25,
    ),
)
def test_whatever_stalls_and_aborts_everything_arrives_and_barriers_pass(
    credit_bytes: int, batch_records: int, mode: str, actions: list[tuple[str, int, int]]
) -> None:
    with Harness(
        two_shuffles, parallelism=3, mode=mode, credit_bytes=credit_bytes, batch_records=batch_records
    ) as harness:
        shaken = Shaken(harness)
        stages = len(harness._loops[0].subtasks)
        largest = 0
        for name, worker, number in actions:
            if name == "stall":
                shaken.stalled.add((worker, number % stages))
            elif name == "free":
                shaken.stalled.clear()
            elif name == "trigger":
                harness.trigger()
            elif name == "abort":
                harness.abort()
            shaken.steps(number)
            largest = max(largest, shaken.most_queued_bytes())
        shaken.stalled.clear()

        harness.trigger()
        for _ in range(STEPS_BOUND):
            if not harness.step():
                break
        else:
            raise AssertionError("no end after so many steps: a livelock")
        harness.complete()
        found = Counter(map(repr, harness.finish()["backpressure"]))

    assert found == quiet()
    assert largest <= credit_bytes + batch_records * 2 * 7 * 200, "credit and one batch, generously"


def test_barriers_pass_a_sink_that_stalls_for_a_while_without_losing_their_place() -> None:
    with Harness(two_shuffles, parallelism=3, credit_bytes=200, batch_records=16) as harness:
        shaken = Shaken(harness)
        last = len(harness._loops[0].subtasks) - 1
        shaken.stalled = {(worker, last) for worker in range(3)}
        harness.trigger()
        shaken.steps(3_000)
        assert not harness.step(), "all wait for the sinks; nobody spins"

        shaken.stalled.clear()
        harness.settle()
        manifest = harness.complete()
        assert len({(s.stage, s.subtask) for s in manifest.subtasks}) == 3 * (last + 1)
        assert Counter(map(repr, harness.finish()["backpressure"])) == quiet()


def test_a_million_windows_fired_by_one_watermark_take_no_more_memory_than_their_state() -> None:
    script = Path(__file__).with_name("million_windows.py")
    done = subprocess.run(
        [sys.executable, str(script), "1000000"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    grown = report["peak_bytes"] - report["before_bytes"]
    print(f"peak RSS {report['peak_bytes'] >> 20} MiB, {grown >> 20} MiB above the state before firing")

    assert report["windows"] == 1_000_000
    assert 0 < report["fired_at_trigger"] < 500_000, "the barriers were sent while it fired"
    assert report["checkpoint"] == 1, "and they passed"
    assert grown < 250 << 20
