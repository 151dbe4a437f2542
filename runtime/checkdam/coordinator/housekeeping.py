"""What a coordinator does now and then, whatever its job does: it looks whether the job is still its own, and clears away.

Both matter most when nothing is committed for long: a commit would notice a successor by itself, and the next attempt
sweeps. What a worker of an earlier attempt uploads after that sweep would lie about until the one after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from checkdam.coordinator.records import Records
from checkdam.coordinator.reservations import Reservations
from checkdam.core.clock import Clock
from checkdam.wire.messages import AttemptId

PRUNE_EVERY_MS: Final = 60_000
"""How often old journal entries are deleted, a bounded number each time: more than an entry a second."""

SWEEP_EVERY_MS: Final = 3_600_000
"""How often files that nobody names are looked for, which costs a listing of all checkpoints' files."""


async def keep_house(
    records: Records,
    reservations: Reservations | None,
    clock: Clock,
    period_s: float,
    running: Callable[[], AttemptId | None],
) -> None:
    """Check every `period_s`, prune and sweep now and then, for ever.

    Args:
        records: The job's records; the journal is fenced.
        reservations: Of AtMostOnce.
        clock: Its monotonic side is used.
        period_s: From one check to the next.
        running: The attempt that reads now, if one does; the sweep goes up to it.

    Raises:
        DeposedError: Another coordinator owns the job.
        OutOfTouchError: Storage could not be reached for a day.
    """
    prune_ms = clock.monotonic_ms()
    sweep_ms = prune_ms + SWEEP_EVERY_MS
    while True:
        now_ms = clock.monotonic_ms()
        if now_ms >= prune_ms:
            prune_ms = now_ms + PRUNE_EVERY_MS
            records.prune()
            if reservations is not None:
                reservations.prune()
        attempt = running()
        if now_ms >= sweep_ms and attempt is not None:
            sweep_ms = now_ms + SWEEP_EVERY_MS
            records.sweep(attempt)
        await asyncio.sleep(period_s)
        await records.check()


__all__ = ["PRUNE_EVERY_MS", "SWEEP_EVERY_MS", "keep_house"]
