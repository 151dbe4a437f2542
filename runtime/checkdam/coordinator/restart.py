"""Whether a failed attempt is followed by another one, and how soon.

`spec.restart` describes a strategy; a policy made from it is told of each failure and answers with a delay, or with
`None` when the job shall fail for good. Policies read no clock and draw no random number of their own: both are given,
so their decisions can be tested as a table. A policy lives as long as its coordinator; a new one starts with a clean slate.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from checkdam.spec.restart import ExponentialDelay, FailureRate, FixedDelay, Never, RestartStrategy


class RestartPolicy(Protocol):
    """Decides what follows a failure."""

    def next_delay_ms(self, now_ms: int) -> int | None:
        """An attempt has failed at `now_ms` (monotonic): how long to wait before the next, `None` for never again."""
        ...


def restart_policy(strategy: RestartStrategy, uniform: Callable[[], float] = random.random) -> RestartPolicy:
    """The policy that follows `strategy`; `uniform` draws from [0, 1)."""
    match strategy:
        case ExponentialDelay():
            return _Exponential(strategy, uniform)
        case FixedDelay():
            return _Fixed(strategy)
        case FailureRate():
            return _Rate(strategy)
        case Never():
            return _NoRestart()


class _Exponential:
    """Restarts at once after a quiet time; then waits longer after each failure, up to a limit."""

    def __init__(self, strategy: ExponentialDelay, uniform: Callable[[], float]) -> None:
        self._strategy = strategy
        self._uniform = uniform
        self._next_ms = float(strategy.initial_delay_ms)
        self._restarted_ms: int | None = None

    def next_delay_ms(self, now_ms: int) -> int | None:
        strategy = self._strategy
        if self._restarted_ms is None or now_ms - self._restarted_ms >= strategy.reset_after_ms:
            # A single failure, such as a lost process, costs no more than it must; only what repeats is slowed down.
            self._next_ms = strategy.initial_delay_ms
            self._restarted_ms = now_ms
            return 0
        base_ms = min(self._next_ms, strategy.max_delay_ms)
        self._next_ms = min(base_ms * strategy.multiplier, strategy.max_delay_ms)
        delay_ms = round(base_ms * (1 + strategy.jitter * (2 * self._uniform() - 1)))
        self._restarted_ms = now_ms + delay_ms
        return delay_ms


class _Fixed:
    """The same delay, a limited number of times."""

    def __init__(self, strategy: FixedDelay) -> None:
        self._strategy = strategy
        self._failures = 0

    def next_delay_ms(self, now_ms: int) -> int | None:
        self._failures += 1
        return self._strategy.delay_ms if self._failures <= self._strategy.attempts else None


class _Rate:
    """The same delay, as long as failures are rare."""

    def __init__(self, strategy: FailureRate) -> None:
        self._strategy = strategy
        self._recent_ms: deque[int] = deque()

    def next_delay_ms(self, now_ms: int) -> int | None:
        recent = self._recent_ms
        recent.append(now_ms)
        while now_ms - recent[0] >= self._strategy.interval_ms:
            recent.popleft()
        return self._strategy.delay_ms if len(recent) <= self._strategy.failures else None


class _NoRestart:
    """The first failure is final."""

    def next_delay_ms(self, now_ms: int) -> int | None:
        return None


__all__ = ["RestartPolicy", "restart_policy"]
