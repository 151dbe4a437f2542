"""What is remembered of a job's pods."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from decide_kit import worker

from checkdam_operator.observed import Pod
from checkdam_operator.reconcile.memory import JobMemory

FIRST = worker(0)
SECOND = replace(FIRST, uid="uid-2", replaces=FIRST.uid)
LATER = replace(FIRST, uid="uid-3", revision=FIRST.revision + 1)


@pytest.mark.parametrize("seen", list(permutations([FIRST, SECOND])))
def test_the_last_pod_of_a_slot_is_the_one_that_took_the_place_of_the_other(seen: tuple[Pod, ...]) -> None:
    memory = JobMemory(("team", "words"), "uid-1")

    memory.note_pods(seen)

    assert memory.last_pods[FIRST.slot].uid == "uid-2"


def test_a_pod_of_a_later_revision_is_the_last() -> None:
    memory = JobMemory(("team", "words"), "uid-1")

    memory.note_pods([LATER, SECOND])

    assert memory.last_pods[FIRST.slot].uid == "uid-3"


def test_a_pod_is_remembered_when_it_is_gone() -> None:
    memory = JobMemory(("team", "words"), "uid-1")

    memory.note_pods([FIRST])
    memory.note_pods([])

    assert memory.last_pods == {FIRST.slot: FIRST}
