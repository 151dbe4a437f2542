"""Channels keep order, keep to their credit, and give back exactly what was read, however batches are cut and merged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.batch import Batch
from checkdam.core.errors import ValueTypeError
from checkdam.core.serde import serde_for
from checkdam.worker import channels
from checkdam.worker.channels import (
    BARRIER,
    DATA,
    WATERMARK,
    Input,
    Item,
    LocalLink,
    Output,
    decode_batch,
    encode_batch,
    estimate_bytes,
)

SERDE = serde_for(None, "a test", True)


class RecordingLink:
    """A link to a receiver that reads only when it is told to."""

    def __init__(self, remote: bool) -> None:
        self.remote = remote
        self.items: list[Item] = []

    def send(self, item: Item) -> None:
        self.items.append(item)


def rows(batch: Batch) -> list[tuple[Any, Any, Any]]:
    nothing = [None] * len(batch)
    return list(zip(batch.values, batch.times or nothing, batch.keys or nothing, strict=True))


def numbers(start: int, count: int, *, timed: bool = True) -> Batch:
    values = list(range(start, start + count))
    return Batch(values, [v * 10 for v in values] if timed else None, [str(v) for v in values])


@pytest.mark.parametrize("remote", [False, True])
def test_no_more_than_the_credit_and_one_batch_is_unread(remote: bool) -> None:
    link = RecordingLink(remote)
    output = Output(link, 1000, SERDE)
    sizes = []

    for n in range(50):
        output.send_batch(numbers(n * 10, 10))
        sizes.append(sum(size for _, _, size in link.items))

    largest = max(size for _, _, size in link.items)
    assert sizes[-1] < 1000 + largest
    assert len(output.pending) == 50 - len(link.items)
    assert output.available_bytes <= 0


def test_control_items_need_no_credit_but_wait_behind_data() -> None:
    link = RecordingLink(False)
    output = Output(link, 1, SERDE)

    output.send_batch(numbers(0, 3))
    output.send_control(WATERMARK, 5)
    output.send_batch(numbers(3, 3))
    output.send_control(BARRIER, 1)
    assert [kind for kind, _, _ in link.items] == [DATA, WATERMARK]

    output.grant(link.items[0][2])
    assert [kind for kind, _, _ in link.items] == [DATA, WATERMARK, DATA, BARRIER]
    assert not output.pending


def test_credit_of_a_batch_that_is_cut_comes_back_once_and_with_its_last_piece() -> None:
    granted: list[int] = []
    channel = Input(0, SERDE, granted.append)
    channel.queue.append((DATA, numbers(0, 1000), 777))

    taken = []
    while channel.queue:
        taken.append(channel.take_batch(64))
        assert granted == ([] if channel.queue else [777])

    assert [row for batch in taken for row in rows(batch)] == rows(numbers(0, 1000))
    assert max(map(len, taken)) <= 128


def test_batches_of_different_shape_are_not_merged() -> None:
    granted: list[int] = []
    channel = Input(0, SERDE, granted.append)
    parts = [numbers(0, 2), numbers(2, 2, timed=False), numbers(4, 2, timed=False), numbers(6, 2)]
    for part in parts:
        channel.queue.append((DATA, part, 10))

    taken = [channel.take_batch(100) for _ in range(3)]

    assert [len(batch) for batch in taken] == [2, 4, 2]
    assert [row for batch in taken for row in rows(batch)] == [row for part in parts for row in rows(part)]
    assert sum(granted) == 40


@settings(max_examples=120, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 12), st.integers(50, 300), st.none()), max_size=14),
    limits=st.lists(st.integers(1, 120), min_size=1, max_size=6),
    credit_bytes=st.sampled_from([1, 100, 1000, 100_000]),
    remote=st.booleans(),
)
def test_cutting_and_merging_loses_and_reorders_nothing_and_returns_all_credit(
    lengths: list[int | None], limits: list[int], credit_bytes: int, remote: bool
) -> None:
    channel = Input(0, SERDE, lambda count: None)
    link = LocalLink(channel)
    link.remote = remote  # type: ignore[misc]
    output = Output(link, credit_bytes, SERDE)
    channel.grant = output.grant
    sent: list[Any] = []
    for number, length in enumerate(lengths):
        if length is None:
            output.send_control(WATERMARK, number)
            sent.append(number)
        else:
            batch = numbers(len(sent), length)
            output.send_batch(batch)
            sent += rows(batch)

    received: list[Any] = []
    turn = 0
    while channel.queue:
        kind, value, _ = channel.queue[0]
        if kind == DATA:
            turn += 1
            limit = limits[turn % len(limits)]
            batch = channel.take_batch(limit)
            assert 0 < len(batch) <= 2 * limit
            received += rows(batch)
        else:
            channel.queue.popleft()
            received.append(value)

    assert received == sent
    assert not output.pending
    assert output.available_bytes == credit_bytes


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.integers(), st.text(max_size=5), st.tuples(st.integers(), st.none())), min_size=1),
    timed=st.booleans(),
    keyed=st.booleans(),
)
def test_what_is_encoded_is_decoded(values: list[Any], timed: bool, keyed: bool) -> None:
    count = len(values)
    batch = Batch(values, list(range(-5, count - 5)) if timed else None, list(range(count)) if keyed else None)

    (data,) = encode_batch(batch, SERDE)

    assert rows(decode_batch(memoryview(data), SERDE)) == rows(batch)


def test_a_batch_that_is_larger_than_a_frame_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_BATCH_BYTES", 2000)
    batch = Batch([bytes(100) for _ in range(100)], list(range(100)), list(range(100)))

    parts = encode_batch(batch, SERDE)

    assert len(parts) > 5
    assert max(map(len, parts)) <= 2012
    assert [row for part in parts for row in rows(decode_batch(part, SERDE))] == rows(batch)


def test_a_record_that_fits_into_no_frame_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_FRAME_BYTES", 5000)

    with pytest.raises(ValueTypeError, match=r"less than 5000 bytes .*got 60\d\d"):
        encode_batch(Batch([bytes(6000)]), SERDE)


def test_estimated_sizes_follow_the_values() -> None:
    small, large = Batch([1] * 100), Batch(["x" * 1000] * 100)

    assert 1_000 < estimate_bytes(small) < 10_000
    assert 100_000 < estimate_bytes(large) < 120_000
    assert estimate_bytes(Batch([])) == 1
