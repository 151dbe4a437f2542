"""A source that plays a script: records, pauses, and a failure at a chosen place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from checkdam.connectors.base import Source, SourceBatch, Split, SplitReader
from checkdam.core.errors import CheckdamError


class _Sentinel:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


PAUSE: Final = _Sentinel("PAUSE")
"""In a script: nothing more is there until the harness runs again."""

FAIL: Final = _Sentinel("FAIL")
"""In a script: reading fails here, once; after a restore it goes on behind it."""


class PlannedFailureError(CheckdamError):
    """The failure that a script asked for."""


class ScriptedSource(Source[Any]):
    """Plays scripts, one split each.

    Args:
        scripts: For each split: records, `PAUSE` and `FAIL`.
        times: For each split: event times in ms of its records (sentinels not counted), where the source brings them.
        ends: Whether the source ends after its scripts; if not, it waits for ever.

    Exactly resumable: a position is an index into the script.

    Raises:
        ValueError: `times` does not fit the scripts.
    """

    can_reserve = True
    concurrent = True

    def __init__(
        self, *scripts: Sequence[Any], times: Sequence[Sequence[int]] | None = None, ends: bool = True
    ) -> None:
        self.bounded = ends
        self._scripts = [list(script) for script in scripts]
        self._times = None if times is None else _with_sentinels(self._scripts, times)
        self._failed: set[tuple[int, int]] = set()
        self._passed: dict[tuple[int, int], int] = {}
        self.round = 0
        """Incremented by the harness at each `run`: lets scripts go on behind their next pause."""

    def splits(self, parallelism: int) -> list[Split]:
        return [Split(str(number), number) for number in range(len(self._scripts))]

    def open(self, split: Split, position: Any) -> SplitReader[Any]:
        return _ScriptReader(self, split.payload, position or 0)


class _ScriptReader(SplitReader[Any]):
    def __init__(self, source: ScriptedSource, split: int, position: int) -> None:
        self._source = source
        self._split = split
        self._position = position

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[Any] | None:
        source, script = self._source, self._source._scripts[self._split]
        values: list[Any] = []
        times: list[int] = []
        while self._position < len(script) and len(values) < max_records:
            if limit is not None and self._position >= limit:
                break
            item = script[self._position]
            place = (self._split, self._position)
            if item is PAUSE:
                if source._passed.setdefault(place, source.round) >= source.round:
                    break
            elif item is FAIL:
                if values:
                    break
                if place not in source._failed:
                    source._failed.add(place)
                    raise PlannedFailureError(f"the script of split {self._split} fails at position {self._position}")
            else:
                values.append(item)
                if source._times is not None:
                    times.append(source._times[self._split][self._position])
            self._position += 1
        if not values and self._position >= len(script) and source.bounded:
            return None
        return SourceBatch(values, times if source._times is not None else None)

    def position(self) -> Any:
        return self._position

    def reserve(self, after: Any, records: int) -> Any:
        return after + records


def _with_sentinels(scripts: list[list[Any]], times: Sequence[Sequence[int]]) -> list[list[int]]:
    """Times at the indices of their records, 0 at those of sentinels."""
    if len(times) != len(scripts):
        raise ValueError(f"`times` must hold one sequence for each of the {len(scripts)} scripts (got {len(times)})")
    placed = []
    for number, (script, own) in enumerate(zip(scripts, times, strict=True)):
        records = sum(not isinstance(item, _Sentinel) for item in script)
        if len(own) != records:
            raise ValueError(f"`times` of script {number} must be as many as its records, {records} (got {len(own)})")
        remaining = iter(own)
        placed.append([0 if isinstance(item, _Sentinel) else next(remaining) for item in script])
    return placed
