"""About how much memory an object takes, for caches that are bounded in bytes.

Exact sizes would cost more than they are worth: containers are judged by their first elements, and only a few cells of
a cache are ever measured.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import islice
from typing import Any, Final

_SAMPLED_ELEMENTS: Final = 8
_MAX_DEPTH: Final = 5


def approximate_bytes(value: Any, depth: int = 0) -> int:
    """The memory of `value` and of what it refers to, in bytes; shared objects count each time."""
    size = sys.getsizeof(value, 64)
    if depth == _MAX_DEPTH or isinstance(value, (str, bytes, int, float)) or value is None:
        return size
    if isinstance(value, dict):
        return size + _elements_bytes(value.keys(), depth) + _elements_bytes(value.values(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return size + _elements_bytes(value, depth)
    fields = getattr(value, "__struct_fields__", None)
    if fields is not None:
        return size + sum(approximate_bytes(getattr(value, name), depth + 1) for name in fields)
    attributes = getattr(value, "__dict__", None)
    return size if attributes is None else size + approximate_bytes(attributes, depth + 1)


def _elements_bytes(elements: Collection[Any], depth: int) -> int:
    sampled = [approximate_bytes(element, depth + 1) for element in islice(elements, _SAMPLED_ELEMENTS)]
    return sum(sampled) * len(elements) // len(sampled) if sampled else 0


class EntrySize:
    """A running mean of the sizes of a cache's entries.

    Args:
        overhead_bytes: What the cache itself needs for an entry: slots of dictionaries and sets.
    """

    def __init__(self, overhead_bytes: int) -> None:
        self._overhead_bytes = overhead_bytes
        self._mean_bytes = float(overhead_bytes)
        self._seen = 0

    @property
    def bytes(self) -> int:
        """The mean so far."""
        return int(self._mean_bytes)

    def sample(self, *parts: Any) -> None:
        """Measure one entry, given as its parts."""
        measured = self._overhead_bytes + sum(map(approximate_bytes, parts))
        self._seen += 1
        # The first samples count fully, later ones a sixteenth: sizes drift as values grow.
        self._mean_bytes += (measured - self._mean_bytes) / min(self._seen, 16)
