"""Whole pipelines through the real task loop, in one thread."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from checkdam.api.pipeline import Pipeline
from checkdam.connectors.collection import CollectionSource
from checkdam.operators.assigners import Tumbling
from checkdam.operators.watermarks import monotonous
from checkdam.testing import PAUSE, CommittedCollectSink, Harness, ScriptedSource

LINES = ["to be or not to be", "that is the question", "whether tis nobler", "in the mind to suffer"] * 50


def word_count(pipeline: Pipeline, args: dict[str, Any]) -> None:
    (
        pipeline.source("lines", CollectionSource(LINES, splits=3))
        .flat_map(str.split, returns=str)
        .key_by(str)
        .count(name="words")
        .sink("out", CommittedCollectSink("words"))
    )


@pytest.mark.parametrize("parallelism", [1, 2, 3])
@pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])
def test_words_are_counted_at_any_parallelism_and_on_both_backends(parallelism: int, backend: Any) -> None:
    with Harness(word_count, parallelism=parallelism, backend=backend, batch_records=7) as harness:
        counts = dict(harness.finish()["words"])

    expected = Counter(word for line in LINES for word in line.split())
    assert counts == dict(expected)


def test_a_crash_repeats_nothing_in_committed_output() -> None:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        source = ScriptedSource([1, 2, PAUSE, 3, 4], [10, PAUSE, 20], times=[[1, 2, 1003, 1004], [5, 1500]])
        (
            pipeline.source("numbers", source, monotonous())
            .key_by(lambda n: n % 2)
            .window(Tumbling(1000))
            .sum(name="sums")
            .sink("out", CommittedCollectSink("sums"))
        )

    with Harness(build, parallelism=2) as harness:
        harness.run()
        harness.checkpoint()
        harness.run()
        harness.checkpoint(commit=False)
        harness.crash()
        results = harness.finish()["sums"]

    assert sorted((r.key, r.start_ms, r.value) for r in results) == [(0, 0, 12), (0, 1000, 24), (1, 0, 1), (1, 1000, 3)]
