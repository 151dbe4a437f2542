"""Keeps the operator from flooding the API server with writes.

The Kubernetes client has no limit of its own, and a cluster in which a thousand jobs fail at once would otherwise send as many requests as the connections
hold, at the cost of everybody else's. Reads are not limited: there are few, since objects come from the watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class TokenBucket:
    """So many writes a second, and so many at once after a rest.

    Args:
        rate_per_s: How many tokens come a second.
        burst: How many are kept.
        clock: Monotonic seconds.
    """

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def reserve(self) -> float:
        """Take a token that may still have to come; returns how many seconds to wait for it. Tokens go in the order of calls."""
        self._fill()
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate_per_s)

    def try_take(self) -> bool:
        """Take a token if there is one."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def full(self) -> bool:
        """Whether nothing was taken for so long that the bucket is as good as new."""
        self._fill()
        return self._tokens >= self._burst

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate_per_s)
        self._at = now


class WriteLimiter:
    """Holds writes back until the bucket allows them, first come first served.

    Args:
        bucket: The limit.
        sleep: Waits so many seconds.
    """

    def __init__(self, bucket: TokenBucket, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._bucket = bucket
        self._sleep = sleep

    async def acquire(self) -> float:
        """Wait for one's turn; returns how many seconds that took."""
        wait_s = self._bucket.reserve()
        if wait_s > 0:
            await self._sleep(wait_s)
        return wait_s
