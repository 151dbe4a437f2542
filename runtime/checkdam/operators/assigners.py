"""Which windows a time belongs to.

`Tumbling`, `Sliding` and `Session` are what users write. Tumbling and sliding windows are computed on *panes*: the
pieces between two neighbouring window edges. A record is stored once, in its pane, however many windows overlap there,
and the panes of a window are merged when it fires. There are at most two panes per slide, at the starts and at the ends
of windows; with a size that is a multiple of the slide these coincide, and a tumbling window is a pane of its own.

All windows are half open, `[start, end)`, and aligned to the epoch plus the offset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from checkdam.core.durations import Duration, to_ms
from checkdam.core.errors import PipelineError


class WindowResult(msgspec.Struct, frozen=True, gc=False):
    """What a window yields for a key unless the user gives a function of their own.

    Attributes:
        key: The key.
        start_ms: Start of the window, inclusive, ms since the epoch.
        end_ms: End of the window, exclusive, ms since the epoch.
        value: The aggregator's result.
    """

    key: Any
    start_ms: int
    end_ms: int
    value: Any


@dataclass(frozen=True, init=False)
class Tumbling:
    """Windows of a fixed size without gaps or overlap.

    Args:
        size: How long a window is; at least 1 ms.
        offset: Shifts all windows; shorter than `size`, may be negative.

    Raises:
        PipelineError: An argument is no duration or out of range.
    """

    size_ms: int
    offset_ms: int

    def __init__(self, size: Duration, offset: Duration = 0) -> None:
        size_ms = _at_least_1_ms("Tumbling", "size", size)
        object.__setattr__(self, "size_ms", size_ms)
        object.__setattr__(self, "offset_ms", _offset_ms("Tumbling", offset, size_ms))

    @property
    def slide_ms(self) -> int:
        """How far apart two windows start: the size."""
        return self.size_ms

    def window_starts(self, time_ms: int) -> range:
        """The starts of all windows that contain `time_ms`, ascending: just one."""
        start = time_ms - (time_ms - self.offset_ms) % self.size_ms
        return range(start, start + 1)


@dataclass(frozen=True, init=False)
class Sliding:
    """Windows of a fixed size that start every `slide`, so that each time lies in several.

    Args:
        size: How long a window is; at least 1 ms.
        slide: How far apart two windows start; at least 1 ms and at most `size` (else there would be gaps).
        offset: Shifts all windows; shorter than `slide`, may be negative.

    Raises:
        PipelineError: An argument is no duration or out of range.
    """

    size_ms: int
    slide_ms: int
    offset_ms: int

    def __init__(self, size: Duration, slide: Duration, offset: Duration = 0) -> None:
        size_ms = _at_least_1_ms("Sliding", "size", size)
        slide_ms = _at_least_1_ms("Sliding", "slide", slide)
        if slide_ms > size_ms:
            raise PipelineError(
                f"`Sliding(slide=…)` must be at most the size, or records between two windows would be lost"
                f" (got slide {slide!r} and size {size!r})"
            )
        object.__setattr__(self, "size_ms", size_ms)
        object.__setattr__(self, "slide_ms", slide_ms)
        object.__setattr__(self, "offset_ms", _offset_ms("Sliding", offset, slide_ms))

    def window_starts(self, time_ms: int) -> range:
        """The starts of all windows that contain `time_ms`, ascending."""
        last = time_ms - (time_ms - self.offset_ms) % self.slide_ms
        count = (last + self.size_ms - 1 - time_ms) // self.slide_ms + 1
        return range(last - (count - 1) * self.slide_ms, last + 1, self.slide_ms)


@dataclass(frozen=True, init=False)
class Session:
    """Windows per key that end when the key has had no record for `gap`.

    Args:
        gap: The silence that ends a session; at least 1 ms. Two records exactly `gap` apart share a session.

    Raises:
        PipelineError: `gap` is no duration or out of range.
    """

    gap_ms: int

    def __init__(self, gap: Duration) -> None:
        object.__setattr__(self, "gap_ms", _at_least_1_ms("Session", "gap", gap))


@dataclass(frozen=True)
class Panes:
    """The arithmetic of panes, windows and lateness for tumbling and sliding windows.

    Attributes:
        size_ms: Size of a window.
        slide_ms: Distance of two window starts.
        offset_ms: Shift of all windows.
        cut_ms: Where a window's end cuts a slide in two panes; 0 where it does not.
    """

    size_ms: int
    slide_ms: int
    offset_ms: int
    cut_ms: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cut_ms", self.size_ms % self.slide_ms)

    @classmethod
    def of(cls, assigner: Tumbling | Sliding) -> Panes:
        """The panes of an assigner's windows."""
        return cls(assigner.size_ms, assigner.slide_ms, assigner.offset_ms)

    def start_of(self, time_ms: int) -> int:
        """Start of the pane that contains `time_ms`."""
        into = (time_ms - self.offset_ms) % self.slide_ms
        return time_ms - into + self.cut_ms if into >= self.cut_ms > 0 else time_ms - into

    def end_of(self, pane: int) -> int:
        """End, exclusive, of the pane that starts at `pane`."""
        if self.cut_ms == 0:
            return pane + self.slide_ms
        return (
            pane + self.cut_ms if (pane - self.offset_ms) % self.slide_ms == 0 else pane + self.slide_ms - self.cut_ms
        )

    def starts(self, times: list[int]) -> list[int]:
        """`start_of` of many times."""
        offset, slide, cut = self.offset_ms, self.slide_ms, self.cut_ms
        if cut:
            return [time - into + cut if (into := (time - offset) % slide) >= cut else time - into for time in times]
        if offset:
            return [time - (time - offset) % slide for time in times]
        return [time - time % slide for time in times]

    def first_end(self, pane: int) -> int:
        """End of the earliest window that contains the pane."""
        return pane + self.slide_ms - (pane - self.offset_ms - self.size_ms) % self.slide_ms

    def last_end(self, pane: int) -> int:
        """End of the latest window that contains the pane."""
        return pane - (pane - self.offset_ms) % self.slide_ms + self.size_ms

    def ends(self, pane: int) -> range:
        """Ends of all windows that contain the pane, ascending."""
        return range(self.first_end(pane), self.last_end(pane) + 1, self.slide_ms)

    def of_window(self, start: int) -> list[int]:
        """The panes of the window that starts at `start`, ascending."""
        end = start + self.size_ms
        whole = range(start, end, self.slide_ms)
        if self.cut_ms == 0:
            return list(whole)
        return sorted([*whole, *range(start + self.cut_ms, end, self.slide_ms)])

    def late_before(self, watermark_ms: int, lateness_ms: int) -> int:
        """The earliest time of which some window is still kept at `watermark_ms`: all times before it are late.

        A window `[start, end)` is kept until the watermark reaches `end - 1 + lateness_ms`.
        """
        newest_gone = watermark_ms - lateness_ms - self.size_ms + 1
        return newest_gone - (newest_gone - self.offset_ms) % self.slide_ms + self.slide_ms


def _duration_ms(owner: str, name: str, duration: Duration) -> int:
    if isinstance(duration, bool) or not isinstance(duration, Duration):
        raise PipelineError(
            f'`{owner}({name}=…)` must be a timedelta, a text such as "1h" or whole milliseconds (got {duration!r})'
        )
    try:
        return to_ms(duration)
    except ValueError as error:
        raise PipelineError(f"`{owner}({name}=…)` {error}") from None


def _at_least_1_ms(owner: str, name: str, duration: Duration) -> int:
    duration_ms = _duration_ms(owner, name, duration)
    if duration_ms < 1:
        raise PipelineError(f"`{owner}({name}=…)` must be at least 1 ms (got {duration!r})")
    return duration_ms


def _offset_ms(owner: str, offset: Duration, period_ms: int) -> int:
    offset_ms = _duration_ms(owner, "offset", offset)
    if not -period_ms < offset_ms < period_ms:
        raise PipelineError(
            f"`{owner}(offset=…)` must be shorter than the {period_ms} ms between two windows (got {offset!r})"
        )
    return offset_ms
