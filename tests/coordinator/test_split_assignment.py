"""Splits: each is read by one worker, and a snapshot has it where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import Numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.connectors.base import Split
from checkdam.coordinator.splits import Enumerator, SplitAssigner
from checkdam.core.errors import PipelineError
from checkdam.wire.messages import AssignSplits, AttemptId, Message

ATTEMPT = AttemptId(1, 1)


class Desk:
    """An assigner whose messages are kept by worker."""

    def __init__(
        self,
        enumerator: Enumerator,
        parallelism: int,
        reserved: dict[str, dict[str, Any]] | None = None,
        held: list[list[str]] | None = None,
    ) -> None:
        self.sent: list[list[AssignSplits]] = [[] for _ in range(parallelism)]
        self.assigner = SplitAssigner(
            ATTEMPT, {"numbers": held or [[]] * parallelism}, {"numbers": enumerator}, self.send, reserved or {}
        )

    def send(self, index: int, message: Message) -> None:
        assert isinstance(message, AssignSplits)
        self.sent[index].append(message)

    def ids(self, index: int) -> list[str]:
        return [split[0] for message in self.sent[index] for split in message.splits]


def enumerator_of(names: list[str], **settings: Any) -> Enumerator:
    source = Numbers(names, **settings)
    enumerator = Enumerator("numbers", source)
    enumerator.found(source.splits(1))
    return enumerator


def test_a_worker_that_asks_gets_the_next_split_and_others_hear_when_none_is_left() -> None:
    desk = Desk(enumerator_of(["a", "b"]), 2)
    desk.assigner.start()
    assert desk.sent == [[], []], "nobody is told anything while there are splits to ask for"
    desk.assigner.requested(1, "numbers")
    assert (desk.ids(1), desk.sent[1][0].exhausted, desk.sent[1][0].more) == (["a"], False, False)
    desk.assigner.requested(1, "numbers")
    assert desk.ids(1) == ["a", "b"]
    assert [(message.splits, message.exhausted) for message in desk.sent[0]] == [([], True)]


def test_after_a_restore_with_nothing_left_everybody_is_told_at_the_start() -> None:
    enumerator = enumerator_of(["a"])
    enumerator.take(1)
    desk = Desk(enumerator, 3)
    desk.assigner.start()
    assert all([message.exhausted for message in sent] == [True] for sent in desk.sent)


def test_splits_that_are_read_at_the_same_time_are_all_given_out_evenly_at_the_start() -> None:
    desk = Desk(enumerator_of(["a", "b", "c", "d", "e"], concurrent=True, bounded=False), 2)
    desk.assigner.start()
    assert (desk.ids(0), desk.ids(1)) == (["a", "c", "e"], ["b", "d"])


def test_new_splits_that_are_read_at_the_same_time_go_to_whoever_has_the_fewest() -> None:
    enumerator = enumerator_of(["a", "b", "c"], concurrent=True, bounded=False, interval_ms=1)
    desk = Desk(enumerator, 2)
    desk.assigner.start()
    desk.assigner.finished(0, "numbers", ["a", "c"])
    enumerator.found([Split("d"), Split("e"), Split("f")])
    desk.assigner.discovered("numbers")
    assert (len(desk.ids(0)), len(desk.ids(1))) == (4, 2)


def test_splits_that_were_restored_count_when_others_are_given_out() -> None:
    enumerator = enumerator_of(["c", "d"], concurrent=True, bounded=False)
    desk = Desk(enumerator, 3, held=[["a", "b"], [], ["x"]])
    desk.assigner.start()
    assert [desk.ids(index) for index in range(3)] == [[], ["c", "d"], []]


def test_reading_starts_at_the_reserved_position() -> None:
    desk = Desk(enumerator_of(["a"]), 1, {"numbers": {"a": 500}})
    desk.assigner.requested(0, "numbers")
    assert desk.sent[0][0].splits == [("a", {"path": "a"}, 500)]


def test_a_source_that_names_two_splits_alike_is_refused_by_name() -> None:
    with pytest.raises(PipelineError, match="`numbers` must name every split differently"):
        enumerator_of(["a", "a"])


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 60),
    parallelism=st.integers(1, 4),
    bounded=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(["ask", "find", "snapshot", "restart"]), st.integers(0, 3)), max_size=40),
)
def test_every_split_is_with_one_worker_or_with_nobody(
    count: int, parallelism: int, bounded: bool, steps: list[tuple[str, int]]
) -> None:
    names = [f"s{number}" for number in range(count)]
    enumerator = enumerator_of(names, bounded=bounded, interval_ms=1)
    desk = Desk(enumerator, parallelism)
    desk.assigner.start()
    held: list[str] = []
    saved = (enumerator.snapshot(), list(held))
    for step, number in steps:
        if step == "ask":
            desk.assigner.requested(number % parallelism, "numbers")
        elif step == "find" and not bounded:
            names.append(f"s{len(names)}")
            enumerator.found([Split(name) for name in names])
            desk.assigner.discovered("numbers")
        elif step == "snapshot":
            saved = (enumerator.snapshot(), list(held))
        elif step == "restart":
            enumerator.restore(saved[0])
            held = list(saved[1])
            enumerator.found([Split(name) for name in names])
            desk = Desk(enumerator, parallelism)
            desk.assigner.start()
        held += [name for index in range(parallelism) for name in desk.ids(index)]
        desk.sent = [[] for _ in range(parallelism)]
        waiting = [name for name, _ in enumerator.unassigned]
        assert sorted(held + waiting) == sorted(names)
