"""Every record of an edge reaches exactly the subtasks that it belongs to."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.batch import Batch
from checkdam.core.errors import KeyTypeError
from checkdam.core.keys import key_group, owner_of
from checkdam.core.serde import serde_for
from checkdam.graph.model import Partition
from checkdam.worker import partition
from checkdam.worker.channels import Input, LocalLink, Output
from checkdam.worker.partition import make_emit

SERDE = serde_for(None, "a test", True)
PLENTY = 1 << 40

KEYS = st.one_of(
    st.integers(-50, 50), st.text(max_size=3), st.booleans(), st.tuples(st.integers(0, 3), st.text(max_size=1))
)


class Edge:
    """An edge to `count` receivers that keep what they get."""

    def __init__(self, kind: Partition, count: int, max_parallelism: int = 128) -> None:
        self.inputs = [Input(0, SERDE, lambda count: None) for _ in range(count)]
        outputs = [Output(LocalLink(channel), PLENTY, SERDE) for channel in self.inputs]
        self.emit = make_emit(kind, outputs, max_parallelism)

    def received(self) -> list[list[tuple[Any, Any, Any]]]:
        return [[row for _, batch, _ in channel.queue for row in _rows(batch)] for channel in self.inputs]


def _rows(batch: Batch) -> list[tuple[Any, Any, Any]]:
    nothing = [None] * len(batch)
    return list(zip(batch.values, batch.times or nothing, batch.keys or nothing, strict=True))


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.lists(KEYS, min_size=1, max_size=40), max_size=5),
    parallelism=st.sampled_from([1, 2, 3, 8, 9, 20, 128]),
    timed=st.booleans(),
)
def test_hash_deals_every_record_once_and_to_the_owner_of_its_key(
    batches: list[list[Any]], parallelism: int, timed: bool
) -> None:
    edge = Edge(Partition.HASH, parallelism)
    sent = []
    for number, keys in enumerate(batches):
        values = [(number, index) for index in range(len(keys))]
        batch = Batch(values, list(range(len(keys))) if timed else None, keys)
        sent += _rows(batch)
        edge.emit(batch)

    received = edge.received()

    assert Counter(map(repr, sent)) == Counter(repr(row) for rows in received for row in rows)
    for index, rows in enumerate(received):
        assert all(owner_of(key_group(key, 128), 128, parallelism) == index for _, _, key in rows)
        assert [value for value, _, _ in rows] == sorted(value for value, _, _ in rows), "order within a channel"


@pytest.mark.parametrize("parallelism", [1, 2, 9])
def test_a_key_that_has_no_encoding_is_refused_with_its_type(parallelism: int) -> None:
    edge = Edge(Partition.HASH, parallelism)

    with pytest.raises(KeyTypeError, match="object"):
        edge.emit(Batch([1, 2], None, ["fine", object()]))


def test_owners_are_still_right_after_all_known_keys_were_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "KNOWN_KEYS", 10)
    edge = Edge(Partition.HASH, 3)

    for start in range(0, 200, 7):
        edge.emit(Batch(list(range(7)), None, list(range(start, start + 7))))

    for index, rows in enumerate(edge.received()):
        assert rows
        assert all(owner_of(key_group(key, 128), 128, 3) == index for _, _, key in rows)


def test_broadcast_gives_everything_to_everybody() -> None:
    edge = Edge(Partition.BROADCAST, 3)

    edge.emit(Batch([1, 2], [10, 20]))

    assert edge.received() == [[(1, 10, None), (2, 20, None)]] * 3


def test_rebalance_takes_turns() -> None:
    edge = Edge(Partition.REBALANCE, 3)

    for number in range(9):
        edge.emit(Batch([number]))

    assert [len(rows) for rows in edge.received()] == [3, 3, 3]
    assert sorted(value for rows in edge.received() for value, _, _ in rows) == list(range(9))


@pytest.mark.parametrize("kind", [Partition.FORWARD, Partition.REBALANCE, Partition.HASH])
def test_a_single_receiver_gets_everything_in_order(kind: Partition) -> None:
    edge = Edge(kind, 1)

    edge.emit(Batch([1, 2], None, ["a", "b"]))
    edge.emit(Batch([3], None, ["c"]))

    assert [value for value, _, _ in edge.received()[0]] == [1, 2, 3]
