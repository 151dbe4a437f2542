"""Stories from seeds, and what is left of a story that fails when all that does not matter is left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from world.run import Outcome, play
from world.story import Story, draw_story, shorter


class SeededDraw:
    """Choices out of a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of them."""
        return options[self._random.randrange(len(options))]


def story_of(seed: int) -> Story:
    """The story of a seed."""
    return draw_story(SeededDraw(seed), seed)


def shortest(story: Story, outcome: Outcome) -> tuple[Story, Outcome]:
    """A story that fails, too, and from which nothing can be left out."""
    while True:
        for candidate in shorter(story):
            tried = play(candidate)
            if tried.problems:
                story, outcome = candidate, tried
                break
        else:
            return story, outcome
