"""All that is left to chance, out of one seed, and how rough it is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Weather:
    """How often things go wrong.

    Attributes:
        refused: Share of requests to the API server that fail before they have an effect.
        lost_answers: Share of writes that take effect and are not answered.
        killed: Share of the points at which an operator waits where it is killed.
        unheard: Share of requests to coordinators that fail, before or after their effect.
        late: Share of watched changes that are shown seconds late, with all that follow.
    """

    refused: float = 0.0
    lost_answers: float = 0.0
    killed: float = 0.0
    unheard: float = 0.0
    late: float = 0.0


CALM = Weather()
BREEZE = Weather(refused=0.01, lost_answers=0.01, killed=0.002, unheard=0.01, late=0.02)
STORM = Weather(refused=0.08, lost_answers=0.06, killed=0.015, unheard=0.08, late=0.08)


class Chance:
    """Draws lots.

    Args:
        seed: What all draws follow from.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def happens(self, share: float) -> bool:
        """Whether something happens that happens in this share of cases."""
        return share > 0.0 and self._random.random() < share

    def between(self, low: float, high: float) -> float:
        """A number in between, most often near `low`."""
        return low + (high - low) * self._random.random() ** 2

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[self._random.randrange(len(options))]
