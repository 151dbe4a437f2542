"""Looking for new splits of a source, now and then, for as long as the job lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from checkdam.coordinator.splits import Enumerator
from checkdam.coordinator.threads import SerialThread

_log = logging.getLogger(__name__)


async def discover(enumerator: Enumerator, parallelism: int, on_found: Callable[[str], None]) -> None:
    """Ask the source for its splits at each of its intervals, for ever; one that cannot be asked now is asked again.

    Args:
        enumerator: Of the source; it is told what was found.
        parallelism: Of the job.
        on_found: Called with the source's id when some of it was new.
    """
    thread = SerialThread(f"discovery-{enumerator.source_id}")
    source = enumerator.source
    while True:
        await asyncio.sleep(source.discovery_interval_ms / 1000)
        try:
            found = await thread.run(source.splits, parallelism)
        except Exception as error:
            _log.warning("source `%s` could not look for new splits: %s", enumerator.source_id, error)
            continue
        if enumerator.found(found):
            on_found(enumerator.source_id)


__all__ = ["discover"]
