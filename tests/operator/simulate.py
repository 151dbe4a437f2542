"""`make simulate`: many stories in the simulated world; prints those that break a rule, cut down to what matters.

`make simulate ARGS="--seed 17 --runs 1 --log"` plays one again and says what happened in it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent))

from world.run import play
from world.seeded import shortest, story_of


def main(
    runs: Annotated[int, typer.Option(help="How many stories.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the first.")] = 0,
    most: Annotated[int, typer.Option(help="Stop after so many that fail.")] = 3,
    log: Annotated[bool, typer.Option(help="Print what happened in each.")] = False,
    cut: Annotated[bool, typer.Option(help="Cut failing stories down.")] = True,
) -> None:
    """Play stories of what people and fate do to a job while operators look after it."""
    started, failed, looks, waits, seconds = time.monotonic(), 0, 0, 0, 0.0
    for number in range(seed, seed + runs):
        story = story_of(number)
        outcome = play(story)
        looks, waits, seconds = looks + outcome.looks, waits + outcome.waits, seconds + outcome.seconds
        if log:
            print(story, *outcome.log, sep="\n")
        if not outcome.problems:
            continue
        failed += 1
        print(f"story {number} fails: {outcome.problems[0][:300]}")
        if cut:
            story, outcome = shortest(story, outcome)
            print(
                story,
                *outcome.log,
                *(problem[-1200:] for problem in outcome.problems[:3]),
                f"in the end: {outcome.state} {outcome.pods}",
                sep="\n",
                flush=True,
            )
        if failed == most:
            break
    print(
        f"{number + 1 - seed} stories, {failed} failed: {looks} looks and {waits} requests of operators, {seconds / 3600:.0f} h of virtual time, "
        f"in {time.monotonic() - started:.0f} s"
    )
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
