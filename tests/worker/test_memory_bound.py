"""The formula that bounds a worker's memory, as it is printed at start."""

from __future__ import annotations

from checkdam.api.pipeline import Pipeline
from checkdam.connectors.callbacks import CollectSink
from checkdam.graph.plan import make_plan
from checkdam.worker.memory import memory_bound


def test_every_shuffle_counts_one_channel_for_each_worker() -> None:
    pipeline = Pipeline()
    numbers = pipeline.from_items("numbers", [1, 2, 3])
    numbers.key_by(lambda n: n).count(name="counts").sink("out", CollectSink())

    bound = memory_bound(make_plan(pipeline.graph()), 3, 512 * 1024, 4096, "rocksdb", 256 * 2**20)

    assert bound.receiving_channels == 3
    assert bound.exchange_bytes == 3 * 512 * 1024
    assert str(bound) == (
        "memory is bounded by 3 channels × 512 KiB of credit = 1.5 MiB, one waiting batch of up to 4096 records in each of "
        "3 outputs, and 256 MiB of state cache"
    )


def test_state_on_the_heap_is_said_to_be_unbounded() -> None:
    pipeline = Pipeline()
    pipeline.from_items("numbers", [1]).key_by(lambda n: n).count(name="counts").sink("out", CollectSink())

    bound = memory_bound(make_plan(pipeline.graph()), 1, 1024, 16, "hashmap", 256 * 2**20)

    assert bound.backend_bytes is None
    assert "the state itself" in str(bound)
