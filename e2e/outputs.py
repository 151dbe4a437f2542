"""When the output of a job came: the files of its two-phase sink, each with the moment at which it became visible.

The kernel keeps that moment, as the time of the last change of a file's names: a sink of files commits by giving a finished file its
name. So nobody has to look all the while, and it is exact to some milliseconds. Output that is visible is never repeated, so
whatever appears is new; what an attempt has read itself is told by the name of the file, which has the attempt in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

Attempt = tuple[int, int]
"""Epoch, and attempt within it."""


@dataclass(frozen=True, order=True)
class Output:
    """A file of output.

    Attributes:
        time_s: When it became visible, in seconds since 1970.
        attempt: Who has written it. One that was finished before a failure may become visible after it, still under its writer's name.
        name: Of the file.
    """

    time_s: float
    attempt: Attempt
    name: str


def outputs(folder: Path) -> list[Output]:
    """All that is visible in a folder of output, oldest first."""
    return sorted(Output(file.stat().st_ctime, _attempt_of(file.name), file.name) for file in folder.glob("*.jsonl"))


def longest_pause_s(times_s: Sequence[float], start_s: float, end_s: float) -> float:
    """The longest time without output that ended after `start_s`, up to `end_s`; 0 if there is none.

    One that began before counts whole, one that goes on after `end_s` counts until then.

    Args:
        times_s: When output came, ascending.
    """
    pauses_s = (min(after, end_s) - before for before, after in pairwise(times_s) if after > start_s and before < end_s)
    return max(pauses_s, default=0.0)


def first_after(found: Sequence[Output], attempt: Attempt) -> Output | None:
    """The first output that an attempt later than this one has read itself; `None` if there is none yet."""
    return next((output for output in found if output.attempt > attempt), None)


def pause_after_s(found: Sequence[Output], attempt: Attempt) -> float:
    """How long there was no output until the first of an attempt later than this one.

    Raises:
        ValueError: There is none yet, or nothing before it.
    """
    first = first_after(found, attempt)
    if first is None:
        raise ValueError(f"no attempt after {attempt} has written anything yet")
    return first.time_s - max(output.time_s for output in found if output < first)


def _attempt_of(name: str) -> Attempt:
    """Of a file `<prefix>-<operator>-<subtask>-<epoch>.<attempt>-<counter>.<suffix>`."""
    epoch, _, attempt = name.rsplit("-", 2)[1].partition(".")
    return int(epoch), int(attempt)
