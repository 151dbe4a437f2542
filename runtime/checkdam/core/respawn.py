"""How soon a process that has ended is started again, by whoever keeps it running.

At once the first time, then after growing pauses; one that has lived for a while counts as new again. One that exits by itself with an
error again and again, soon after each start, will not do better: it is given up.
"""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
TOLD_TO_GO_S: Final = 0.5
GIVE_UP_AFTER: Final = 5
"""A process that exits by itself with an error so many times in a row, soon after its start, will not do better."""

SETTLED_AFTER_S: Final = 10.0
"""A process that has lived for so long is restarted without a pause again."""


class Respawn:
    """Decides about one process; told of each of its ends, it remembers those that count."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._cannot_start = 0

    def pause_s(self, code: int, lived_s: float) -> float | None:
        """How long to wait before the next start; `None` if there is to be none.

        Args:
            code: Exit code of the process that has ended; negative ones are signals.
            lived_s: How long it had run.
        """
        if code == 0:
            # It was told to go, most likely because the job has ended; if not, it comes back.
            self._pause_s = TOLD_TO_GO_S
            return self._pause_s
        self._cannot_start = self._cannot_start + 1 if code > 0 and lived_s < SETTLED_AFTER_S else 0
        if self._cannot_start == GIVE_UP_AFTER:
            return None
        settled = lived_s > SETTLED_AFTER_S
        self._pause_s = 0.0 if settled else min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        return self._pause_s

    def at_once(self) -> None:
        """The next start is not for an end: forget the pauses so far."""
        self._pause_s = 0.0


__all__ = ["FIRST_PAUSE_S", "GIVE_UP_AFTER", "LONGEST_PAUSE_S", "SETTLED_AFTER_S", "TOLD_TO_GO_S", "Respawn"]
