"""Which completed checkpoints are kept: a pure decision, made whenever one completes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RETAINED_LIMIT: Final = 1000
"""At most so many are kept, for whatever reason: each journal entry names them all, about 20 bytes each."""


@dataclass(frozen=True)
class Retention:
    """The job's wishes.

    Attributes:
        count: At least so many of the newest are kept.
        for_ms: Those that are younger are kept too.
    """

    count: int
    for_ms: int = 0


@dataclass(frozen=True)
class Retained:
    """A completed checkpoint: its folder, and its `created_ms` (`None` where that cannot be read just now: it is kept)."""

    folder: str
    created_ms: int | None


def retain(
    retained: Sequence[Retained], folder: str, created_ms: int, retention: Retention
) -> tuple[list[str], list[str]]:
    """The folders to keep, oldest first, once the checkpoint in `folder` has completed, and those that leave.

    Args:
        retained: What was kept until now, oldest first.
        folder: Of the checkpoint that completes; always kept.
        created_ms: When it was taken: ages count from there.
        retention: What the job wishes.
    """
    older = [known for known in retained if known.folder != folder]
    newest = max(1, min(retention.count, RETAINED_LIMIT))
    kept: list[str] = [folder]
    dropped: list[str] = []
    for place, known in enumerate(reversed(older), start=2):
        young = known.created_ms is None or created_ms - known.created_ms < retention.for_ms
        keep = place <= newest or (young and len(kept) < RETAINED_LIMIT)
        (kept if keep else dropped).append(known.folder)
    return kept[::-1], dropped[::-1]


__all__ = ["RETAINED_LIMIT", "Retained", "Retention", "retain"]
