"""A process in a pod: it acts by timers, stands still while its node is away, and does nothing any more once it has died."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from world.nodes import PodLife


class Process:
    """One life of a container.

    Args:
        life: The pod.

    Attributes:
        alive: Until it dies.
        frozen: While its node is away: what falls due is done later.
        frozen_since_s: Since when.
    """

    def __init__(self, life: PodLife) -> None:
        self.life = life
        self.world = life.world
        self.alive = True
        self.frozen = False
        self.frozen_since_s = 0.0
        self._deferred: list[Callable[[], None]] = []

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Do something in a while, unless it has died by then."""
        self.world.loop.call_later(delay_s, self._fire, work)

    def start(self) -> None:
        """Begin."""
        raise NotImplementedError

    def terminate(self) -> None:
        """SIGTERM: end soon, by `exit`."""
        raise NotImplementedError

    def die(self) -> None:
        """End at once, however."""
        self.alive = False

    def exit(self, code: int, reason: str = "", message: str = "") -> None:
        """End by itself."""
        if self.alive:
            self.die()
            self.life.process_ended(code, reason or ("Completed" if code == 0 else "Error"), message)

    def freeze(self) -> None:
        """Stand still."""
        self.frozen, self.frozen_since_s = True, self.world.loop.time()

    def thaw(self) -> None:
        """Go on, with all that has fallen due meanwhile."""
        self.frozen = False
        deferred, self._deferred = self._deferred, []
        for work in deferred:
            self._fire(work)

    def _fire(self, work: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._deferred.append(work)
        else:
            work()
