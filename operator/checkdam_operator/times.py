"""Times as the API server writes them, and as decisions count them: ms since the epoch by the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(ms: int) -> str:
    """A time as it stands in a status: UTC, whole seconds."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_ms(text: str | None) -> int | None:
    """A time of the API server in ms since the epoch; `None` for `None` or an empty text."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else None


def shown_duration(ms: int) -> str:
    """A duration for people: `350ms`, `2.5s`, `90s`."""
    return f"{ms}ms" if ms < 1000 else f"{ms / 1000:.3g}s"


def shown_size(size_bytes: int) -> str:
    """A size for people, in Kubernetes' units: `512Ki`, `1.5Gi`."""
    size, unit = float(size_bytes), ""
    for next_unit in ("Ki", "Mi", "Gi", "Ti"):
        if size < 1024:
            break
        size, unit = size / 1024, next_unit
    return f"{size:.3g}{unit}" if unit else f"{size_bytes}"
