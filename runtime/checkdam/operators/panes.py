"""Sorting a batch into panes, and merging the panes of a window when it fires.

A whole batch usually lies in one pane, and in a stream that is nearly in order it lies in few, one after the other:
these cases are cut out of the batch as slices. Merging must not need memory for all keys of a window: small windows are
merged in one dictionary, large ones portion by portion, looking the portion's keys up in the other panes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from checkdam.operators.aggregators import Aggregator
from checkdam.operators.assigners import Panes
from checkdam.state.base import Table

_MERGED_KEYS = 65_536
"""How many keys of a window are merged in one dictionary at most."""

_PORTION_KEYS = 4096
"""How many keys a portion of a merged window holds."""

PanePart = tuple[int, list[Any], list[Any]]
"""The records of a batch in one pane: start of the pane, keys, values."""

Portion = tuple[list[Any], list[Any]]
"""Some keys of a window and their accumulators."""


def split_by_pane(panes: Panes, times: list[int], keys: list[Any], values: list[Any]) -> list[PanePart]:
    """A batch, which is not empty, by pane; within a pane in order of arrival."""
    pane = panes.start_of(min(times))
    if max(times) < panes.end_of(pane):
        return [(pane, keys, values)]
    if sorted(times) == times:
        return _slices(panes, times, keys, values)
    indices: defaultdict[int, list[int]] = defaultdict(list)
    for index, start in enumerate(panes.starts(times)):
        indices[start].append(index)
    return [(start, [keys[i] for i in chosen], [values[i] for i in chosen]) for start, chosen in indices.items()]


def _slices(panes: Panes, times: list[int], keys: list[Any], values: list[Any]) -> list[PanePart]:
    """The panes of a batch in order of time."""
    parts = []
    begin = 0
    while begin < len(times):
        pane = panes.start_of(times[begin])
        end = bisect_left(times, panes.end_of(pane), begin)
        parts.append((pane, keys[begin:end], values[begin:end]))
        begin = end
    return parts


def merged_cells(
    table: Table, aggregator: Aggregator[Any, Any, Any], panes: list[int], keys: Collection[Any]
) -> dict[Any, Any]:
    """The accumulators of `keys` over several panes, for the keys that have any."""
    merged: dict[Any, Any] = {}
    for pane in panes:
        cells = table.cells(pane, keys)
        present = [key for key in keys if key in cells]
        aggregator.absorb(merged, present, [cells[key] for key in present])
    return merged


def window_portions(table: Table, aggregator: Aggregator[Any, Any, Any], panes: list[int]) -> Iterator[Portion]:
    """All keys of a window with their accumulators over its panes, each key once.

    The table must not be changed before the iterator is exhausted.
    """
    if len(panes) == 1:
        for portion in table.scan(panes[0]):
            yield _columns(portion)
        return
    merged = _merged_window(table, aggregator, panes)
    if merged is None:
        yield from _looked_up_portions(table, aggregator, panes)
        return
    rest = iter(merged.items())
    while portion := list(islice(rest, _PORTION_KEYS)):
        yield _columns(portion)


def _merged_window(table: Table, aggregator: Aggregator[Any, Any, Any], panes: list[int]) -> dict[Any, Any] | None:
    """A window in one dictionary; `None` if it has too many keys."""
    merged: dict[Any, Any] = {}
    for pane in panes:
        for portion in table.scan(pane):
            keys, accs = _columns(portion)
            aggregator.absorb(merged, keys, accs)
            if len(merged) > _MERGED_KEYS:
                return None
    return merged


def _looked_up_portions(table: Table, aggregator: Aggregator[Any, Any, Any], panes: list[int]) -> Iterator[Portion]:
    """A window by the keys of each pane that occur in no earlier pane."""
    for index, pane in enumerate(panes):
        for portion in table.scan(pane):
            keys = [key for key, _ in portion]
            for earlier in panes[:index]:
                if not keys:
                    break
                seen = table.cells(earlier, keys)
                keys = [key for key in keys if key not in seen]
            if keys:
                yield _columns(merged_cells(table, aggregator, panes[index:], keys).items())


def _columns(portion: Collection[tuple[Any, Any]]) -> Portion:
    return [key for key, _ in portion], [acc for _, acc in portion]
