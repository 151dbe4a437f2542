"""What strikes when in a soak: decided by a seed alone, so that a soak that went wrong can be repeated.

The kinds of strikes are dealt like cards: all come once, in an order of chance, before any comes again. Whom a strike hits depends on
who is there, which no seed decides; it draws from a generator of its own, so that others do not move with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SHORTEST_PAUSE_S: Final = 20.0
LONGEST_PAUSE_S: Final = 40.0


@dataclass(frozen=True)
class PlannedStrike:
    """A strike to come.

    Attributes:
        pause_s: How long after the strike before is over, or after the beginning.
        kind: Which.
        seed: Decides what is left to chance within it.
    """

    pause_s: float
    kind: str
    seed: int


def planned_strikes(seed: int, kinds: Sequence[str]) -> Iterator[PlannedStrike]:
    """Strikes without end.

    Args:
        kinds: Those that there are.

    Raises:
        ValueError: There are none.
    """
    if not kinds:
        raise ValueError("`kinds` must not be empty")
    chance = random.Random(seed)
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            yield PlannedStrike(chance.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S), kind, chance.getrandbits(32))
