"""What is in the images: programs that work, and programs that fail each in its own way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """How a program behaves.

    Attributes:
        pulls: Whether its image can be pulled.
        stays: Whether its containers do not end by themselves.
        loads: Whether the coordinator can load it.
        fits: Whether it can restore the checkpoints of other programs.
        connects: Whether its workers come to the coordinator.
        lives: Whether an attempt of it does not end the job with a final failure.
    """

    pulls: bool = True
    stays: bool = True
    loads: bool = True
    fits: bool = True
    connects: bool = True
    lives: bool = True

    @property
    def works(self) -> bool:
        """Whether nothing is wrong with it."""
        return self == Program()


PROGRAMS = {
    "app:1": Program(),
    "app:2": Program(),
    "app:3": Program(),
    "app:nowhere": Program(pulls=False),
    "app:crashes": Program(stays=False),
    "app:broken": Program(loads=False),
    "app:misfit": Program(fits=False),
    "app:silent": Program(connects=False),
    "app:fails": Program(lives=False),
}
"""Image → program."""
