"""What a rescale makes of a checkpoint: everything goes somewhere, nothing goes to two places that must not."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec
from coordinator_kit import Numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.checkpoint.manifest import FORMAT_VERSION, CheckpointManifest, SourceSnapshot, SubtaskSnapshot
from checkdam.coordinator.redistribution import redistribute, splits_of
from checkdam.core.batch import MIN_TIME
from checkdam.core.keys import key_group_range
from checkdam.graph.model import Graph, Node, SourceSpec
from checkdam.operators.base import Redistribution

MAX_PARALLELISM = 16
PARALLELISM = st.integers(1, 6)


def graph_with(redistribution: Redistribution = Redistribution.SPLIT) -> Graph:
    nodes = [
        Node("numbers", "source", None, source=SourceSpec(Numbers([]), None)),
        Node("op", "any", None, keyed=True, redistribution=redistribution),
    ]
    return Graph({node.id: node for node in nodes}, [])


def manifest_of(stored: list[dict[str, Any]], seen: list[str] | None = None) -> CheckpointManifest:
    """A checkpoint of as many subtasks as `stored` has elements: operator id → what it stored."""
    subtasks = []
    for index, operators in enumerate(stored):
        groups = key_group_range(MAX_PARALLELISM, len(stored), index)
        packed = {operator: msgspec.msgpack.encode(state) for operator, state in operators.items()}
        subtasks.append(SubtaskSnapshot("op", index, (groups.start, groups.stop), 100 * index, packed))
    return CheckpointManifest(
        version=FORMAT_VERSION,
        job_id="job",
        id=1,
        epoch=1,
        attempt=1,
        parallelism=len(stored),
        max_parallelism=MAX_PARALLELISM,
        mode="ExactlyOnce",
        created_ms=0,
        fingerprint="",
        operators=[],
        sources={"numbers": SourceSnapshot(seen=seen or [])},
        subtasks=subtasks,
    )


def states(part: list[SubtaskSnapshot], operator: str) -> list[Any]:
    """What a worker's subtask of an operator is given."""
    return [msgspec.msgpack.decode(s.operators[operator]) for s in part if operator in s.operators]


def redistributed(stored: list[Any], parallelism: int, redistribution: Redistribution) -> list[list[Any]]:
    """What each new subtask is given of what former subtasks stored."""
    manifest = manifest_of([{"op": state} for state in stored])
    return [states(part, "op") for part in redistribute(manifest, graph_with(redistribution), parallelism)]


@given(former=PARALLELISM, parallelism=PARALLELISM)
@settings(deadline=None)
def test_every_worker_is_given_the_snapshots_of_all_its_key_groups_and_no_others(former: int, parallelism: int) -> None:
    for index, part in enumerate(redistribute(manifest_of([{}] * former), graph_with(), parallelism)):
        owned = set(key_group_range(MAX_PARALLELISM, parallelism, index))
        covered = [set(range(*snapshot.key_groups)) for snapshot in part if snapshot.key_groups is not None]
        assert owned <= set().union(*covered)
        assert all(groups & owned for groups in covered)
        assert [snapshot.watermark_ms for snapshot in part] == [100 * snapshot.subtask for snapshot in part]


@given(
    stored=st.lists(st.lists(st.integers(0, 99), max_size=7), min_size=1, max_size=6),
    parallelism=PARALLELISM,
)
@settings(deadline=None)
def test_elements_of_lists_are_dealt_out_evenly_and_in_order(stored: list[list[int]], parallelism: int) -> None:
    given_out = redistributed(stored, parallelism, Redistribution.SPLIT)
    assert [len(lists) for lists in given_out] == [1] * parallelism
    assert list(chain.from_iterable(lists[0] for lists in given_out)) == list(chain.from_iterable(stored))
    if parallelism != len(stored):
        sizes = [len(lists[0]) for lists in given_out]
        assert max(sizes) - min(sizes) <= 1


def test_what_is_no_list_goes_whole_to_the_subtask_that_inherits_from_its_own() -> None:
    stored = [{"pending": [index]} for index in range(5)]
    given_out = redistributed(stored, 2, Redistribution.SPLIT)
    assert given_out == [[stored[0], stored[2], stored[4]], [stored[1], stored[3]]]
    assert redistributed(stored[:2], 3, Redistribution.SPLIT) == [[stored[0]], [stored[1]], []]


def test_a_union_gives_all_to_everybody_and_a_broadcast_one_copy() -> None:
    stored = [[1], [2]]
    assert redistributed(stored, 3, Redistribution.UNION) == [stored] * 3
    assert redistributed([["same"]] * 2, 3, Redistribution.BROADCAST) == [[["same"]]] * 3


@given(data=st.data(), former=PARALLELISM, parallelism=PARALLELISM, count=st.integers(0, 20))
@settings(deadline=None)
def test_splits_are_dealt_out_in_reading_order_with_all_that_belongs_to_them(
    data: st.DataObject, former: int, parallelism: int, count: int
) -> None:
    seen = [f"s{number}" for number in range(count)]
    reading: list[list[Any]] = [[] for _ in range(former)]
    for number in data.draw(st.permutations(range(count))):
        split = [f"s{number}", {"path": number}, number * 7, number * 100]
        reading[data.draw(st.integers(0, former - 1))].append(split)
    manifest = manifest_of([{"numbers": {"splits": splits, "start_ms": MIN_TIME}} for splits in reading], seen)

    parts = redistribute(manifest, graph_with(), parallelism)

    given_out = [list(chain.from_iterable(state["splits"] for state in states(part, "numbers"))) for part in parts]
    assert sorted(chain.from_iterable(given_out)) == sorted(chain.from_iterable(reading))
    assert [splits_of(part, "numbers") for part in parts] == [[split[0] for split in splits] for splits in given_out]
    if parallelism == former:
        assert given_out == reading
    else:
        numbers = [[position for _, _, position, _ in splits] for splits in given_out]
        assert numbers == [sorted(own) for own in numbers]
        assert max(map(len, given_out)) - min(map(len, given_out)) <= 1


def test_the_start_of_the_latest_split_holds_only_if_no_earlier_one_waits() -> None:
    begun, waiting = ["s0", None, 5, 700], ["s1", None, 0, MIN_TIME]

    def start(*stored: tuple[list[Any], int]) -> set[int]:
        manifest = manifest_of([{"numbers": {"splits": splits, "start_ms": start}} for splits, start in stored])
        parts = redistribute(manifest, graph_with(), 3)
        return {state["start_ms"] for part in parts for state in states(part, "numbers")}

    assert start(([begun], 200), ([], 400)) == {400}
    assert start(([waiting], 200), ([begun], 400)) == {200}


def test_at_the_same_parallelism_nothing_changes() -> None:
    manifest = manifest_of([{"op": {"a": 1}, "gone": [1]}, {"op": {"b": 2}}])
    assert redistribute(manifest, graph_with(), 2) == [[manifest.subtasks[0]], [manifest.subtasks[1]]]
