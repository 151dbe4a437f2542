"""Durations as people write them: `250ms`, `10s`, `5m`, `1h`, or several together such as `1m30s`."""

from __future__ import annotations

import re
from datetime import timedelta

Duration = timedelta | str | int
"""What users may give where a duration is asked for: a timedelta, a text such as `"1m30s"`, or whole ms."""

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `1m30s`.

    Raises:
        ValueError: It is not one; the message says what it must be.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"must be a duration such as 500ms, 10s, 5m or 1h (got {text!r})")
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text)))


def to_ms(duration: Duration) -> int:
    """Milliseconds of a duration as users give it.

    Raises:
        ValueError: The text is no duration.
    """
    if isinstance(duration, timedelta):
        return duration // timedelta(milliseconds=1)
    if isinstance(duration, str):
        return parse_duration_ms(duration)
    return duration


def format_ms(duration_ms: int) -> str:
    """The shortest text for a duration: `90s`, `1.5s`, `20ms`."""
    for unit in ("h", "m", "s"):
        if duration_ms and duration_ms % _UNITS_MS[unit] == 0:
            return f"{duration_ms // _UNITS_MS[unit]}{unit}"
    return f"{duration_ms / 1000:g}s" if duration_ms >= 1000 else f"{duration_ms}ms"
