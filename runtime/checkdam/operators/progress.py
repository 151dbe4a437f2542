"""How far event time has come, key by key.

After a restore the inputs' watermark starts from −∞ again, while the state already reflects the watermark of the
checkpoint. A time is *past* for a key when it is ≤ max(floor of its key group, current watermark). At unchanged
parallelism all floors agree and one number answers for every key; only after a rescale may they differ, until the
watermark has passed the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from checkdam.core.batch import MIN_TIME


class EventProgress:
    """The event time reached, for one operator in one subtask.

    Args:
        key_groups: The key groups of the subtask.
        floors: key group → watermark that had been processed when the state was written; absent: none.
        key_group: The key group of a key.

    Attributes:
        low_ms: The event time that has been reached for every key.
        high_ms: The event time that has been reached for some key; equal to `low_ms` as soon as all keys agree.
    """

    def __init__(self, key_groups: range, floors: Mapping[int, int], key_group: Callable[[Any], int]) -> None:
        self._floors = {group: floors.get(group, MIN_TIME) for group in key_groups}
        self._key_group = key_group
        self._watermark_ms = MIN_TIME
        self.low_ms = min(self._floors.values(), default=MIN_TIME)
        self.high_ms = max(self._floors.values(), default=MIN_TIME)

    def advance(self, watermark_ms: int) -> None:
        """The watermark has reached `watermark_ms`."""
        if watermark_ms > self._watermark_ms:
            self._watermark_ms = watermark_ms
            self.low_ms = max(self.low_ms, watermark_ms)
            self.high_ms = max(self.high_ms, watermark_ms)

    def of(self, key: Any) -> int:
        """The event time that has been reached for `key`."""
        return max(self._floors[self._key_group(key)], self._watermark_ms)

    def by_range(self) -> list[tuple[int, int, int]]:
        """The event time reached as (first key group, group after the last, ms), for storing it as floors."""
        return reached_by_range(self._floors, self._watermark_ms)

    def floor_reached(self, time_ms: int) -> Callable[[Any], bool] | None:
        """Which keys had passed `time_ms` before the restore: a predicate; `None` where no key had."""
        reached = {group for group, floor_ms in self._floors.items() if floor_ms >= time_ms}
        if not reached:
            return None
        key_group = self._key_group
        return lambda key: key_group(key) in reached


def reached_by_range(floors: Mapping[int, int], watermark_ms: int) -> list[tuple[int, int, int]]:
    """The event time that key groups have reached, as (first group, group after the last, ms).

    Args:
        floors: Key group → what it had reached at the restore, of contiguous groups in ascending order.
        watermark_ms: What all of them have reached since.
    """
    reached = ((max(floor_ms, watermark_ms), group) for group, floor_ms in floors.items())
    runs = [(ms, [group for _, group in run]) for ms, run in groupby(reached, key=itemgetter(0))]
    return [(groups[0], groups[-1] + 1, ms) for ms, groups in runs]
