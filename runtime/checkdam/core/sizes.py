"""Sizes as people read them."""

from __future__ import annotations


def format_bytes(size_bytes: int) -> str:
    """A size for people: `812 B`, `1.4 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
