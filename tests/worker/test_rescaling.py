"""A pipeline that goes on with another parallelism: the cases that random runs seldom meet."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_manifests import sample_manifest
from source_kit import Port, Splits

from checkdam import KeyedStream, Pipeline, Session, Sliding, Stream, Tumbling, json_lines_sink
from checkdam.checkpoint.manifest import SourceSnapshot, SubtaskSnapshot
from checkdam.coordinator.redistribution import redistribute
from checkdam.core.clock import ManualClock
from checkdam.core.errors import PipelineError
from checkdam.core.keys import key_group, owner_of
from checkdam.graph.model import Graph, Node, SourceSpec
from checkdam.operators.base import OperatorMetrics
from checkdam.operators.source import SourceOperator
from checkdam.operators.watermarks import monotonous
from checkdam.testing import PAUSE, CommittedCollectSink, Harness, ScriptedSource

MAX_PARALLELISM = 8


def key_of_worker(index: int) -> int:
    """A key that worker `index` of two owns."""
    return next(k for k in range(99) if owner_of(key_group(k, MAX_PARALLELISM), MAX_PARALLELISM, 2) == index)


NEAR, FAR = key_of_worker(0), key_of_worker(1)

WINDOWS: dict[str, Callable[[KeyedStream], Stream]] = {
    "tumbling": lambda stream: stream.window(Tumbling(100), allowed_lateness=1000).count(),
    "sliding": lambda stream: stream.window(Sliding(100, 50), allowed_lateness=1000).count(),
    "session": lambda stream: stream.window(Session(20), allowed_lateness=1000).count(),
    "window join": lambda stream: stream.window_join(
        stream, Tumbling(100), lambda left, right: (left, right), allowed_lateness=1000
    ),
    "none is late": lambda stream: stream.window(Tumbling(100)).count(),
}


@pytest.mark.parametrize("kind", list(WINDOWS))
@pytest.mark.parametrize("again", [1, 2, 5])
@pytest.mark.parametrize("parallelism", [1, 3])
def test_keys_that_had_got_further_than_others_fire_nothing_twice(kind: str, parallelism: int, again: int) -> None:
    first = [(10, NEAR), (15, FAR), (60, NEAR), (90, FAR)]
    passing, rest = [(400, FAR)], [(30, NEAR), (35, FAR), (500, NEAR), (510, FAR)]
    times = [[time for time, _ in first + passing + rest]]

    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        source = ScriptedSource([*first, PAUSE, *passing, PAUSE, *rest], times=times)
        stream = pipeline.source("rows", source, monotonous()).key_by(lambda row: row[1])
        out = WINDOWS[kind](stream)
        out.union(out.side_output("late")).sink("out", CommittedCollectSink("further"))

    with Harness(build, batch_records=1) as quiet:
        expected = Counter(map(repr, quiet.finish()["further"]))

    with Harness(build, parallelism=2, max_parallelism=MAX_PARALLELISM, batch_records=1) as harness:
        harness.run()
        early = harness.checkpoint()
        harness.run()
        late = harness.checkpoint(commit=False)
        # Time has passed for the first worker's keys and no record of theirs has come: so what it had then, with what the
        # source and the other worker had before, is a state of the job too.
        further = [s for s in late.subtasks if s.subtask == 0 and s.stage != "rows"]
        others = [s for s in early.subtasks if s.subtask == 1 or s.stage == "rows"]
        assert len({s.watermark_ms for s in further + others if s.key_groups is not None}) == 2
        harness.last_checkpoint = msgspec.structs.replace(early, id=late.id, subtasks=further + others)
        harness.crash(parallelism=parallelism)
        harness.checkpoint()
        harness.crash(parallelism=again)
        assert Counter(map(repr, harness.finish()["further"])) == expected


@given(
    gaps=st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=8),
    parallelism=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    turns=st.lists(st.integers(0, 3), max_size=60),
)
@settings(deadline=None, max_examples=150)
def test_records_of_splits_that_are_ordered_in_time_are_never_late(
    gaps: list[tuple[int, list[int]]], parallelism: list[int], turns: list[int]
) -> None:
    """Splits begin one after the other, and each may go on long after the next has begun."""
    contents, start = [], 0
    for gap, steps in gaps:
        contents.append([start + sum(steps[:count]) for count in range(len(steps) + 1)])
        start += gap
    source = Splits(*contents, concurrent=False, ordered=True)
    waiting = deque(source.splits(1))
    reached, turn = -1, iter(turns)
    workers = [_reader(source, None) for _ in range(parallelism[0])]
    for following in [*parallelism[1:], None]:
        for _ in range(len(turns) // len(parallelism)):
            worker = workers[next(turn) % len(workers)]
            if worker._active:
                for batch in worker.read(1):
                    assert min(batch.times or [reached + 1]) > reached
            else:
                taken = [(split.id, split.payload, None) for split in [waiting.popleft()]] if waiting else []
                worker.assign(taken, exhausted=not waiting, more=False)
            reached = max(reached, min(worker.advance() for worker in workers))
        if following is not None:
            parts = _rescaled([worker.snapshot(1) for worker in workers], source, following)
            workers = [_reader(source, part) for part in parts]


def _reader(source: Splits, restored: Any) -> SourceOperator:
    operator = SourceOperator("in", source, monotonous(), ManualClock(), OperatorMetrics(), Port())
    operator.restore([] if restored is None else restored, {})
    operator.start()
    return operator


def _rescaled(stored: list[Any], source: Splits, parallelism: int) -> list[list[Any]]:
    packed = [{"in": msgspec.msgpack.encode(state)} for state in stored]
    manifest = sample_manifest(
        parallelism=len(stored),
        max_parallelism=MAX_PARALLELISM,
        sources={"in": SourceSnapshot(seen=[split.id for split in source.splits(1)])},
        subtasks=[SubtaskSnapshot("in", index, operators=operators) for index, operators in enumerate(packed)],
    )
    graph = Graph({"in": Node("in", "source", None, source=SourceSpec(source, None))}, [])
    parts = redistribute(manifest, graph, parallelism)
    return [[msgspec.msgpack.decode(snapshot.operators["in"]) for snapshot in part] for part in parts]


def test_prepared_files_of_workers_that_are_gone_are_committed_and_their_leftovers_removed(tmp_path: Path) -> None:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        source = ScriptedSource(*([n, PAUSE, n + 100] for n in range(5)))
        pipeline.source("rows", source).sink("out", json_lines_sink(tmp_path))

    def rows() -> list[int]:
        return sorted(json.loads(line) for file in tmp_path.glob("*.jsonl") for line in file.read_text().splitlines())

    leftover = tmp_path / ".pending" / "out.4" / "part-out-4-0.9-00000.jsonl"
    with Harness(build, parallelism=5) as harness:
        harness.run()
        harness.checkpoint(commit=False)
        leftover.write_text("of an attempt that was killed\n")
        harness.crash(parallelism=2)
        assert not leftover.exists()
        assert rows() == list(range(5))
        harness.rescale(3)
        harness.finish()

    assert rows() == sorted([*range(5), *range(100, 105)])
    assert not (tmp_path / ".pending").exists()


def test_a_rescale_needs_a_parallelism_that_the_key_groups_allow() -> None:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        pipeline.source("rows", ScriptedSource([1])).sink("out", CommittedCollectSink("allowed"))

    with Harness(build, max_parallelism=4) as harness:
        for parallelism in (0, 5):
            with pytest.raises(PipelineError, match=r"`parallelism` must be in 1\.\.4"):
                harness.rescale(parallelism)
            with pytest.raises(PipelineError, match=r"`parallelism` must be in 1\.\.4"):
                harness.crash(parallelism=parallelism)
        harness.rescale(4)
        assert harness.finish()["allowed"] == [1]
