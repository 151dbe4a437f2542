"""Whether the watch still shows what happens.

A watch can go silent without an error: nothing tells a quiet cluster from a dead connection. A list can tell. It shows the newest resourceVersion that there is;
a living watch shows that one, or a later one, within moments, since it shows changes in their order. If it has not after a while, it is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from checkdam_operator.kube.kinds import Kind

PATIENCE_S: Final = 30.0
"""How long the watch may be behind a list. The first events of 10,000 objects take some 15 s."""


@dataclass
class _Stream:
    """One watched collection.

    Attributes:
        seen: The highest resourceVersion that the watch has shown.
        awaited: One that a list has shown and the watch has not; 0 if there is none.
        since: When the list showed it.
    """

    seen: int = 0
    awaited: int = 0
    since: float = 0.0


class Freshness:
    """Compares what the watch shows with what lists show.

    Args:
        patience_s: How long the watch may be behind.
        clock: Monotonic seconds.
    """

    def __init__(self, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._streams: dict[tuple[Kind, str | None], _Stream] = {}

    def watched(self, kind: Kind, scope: str | None, version: int) -> None:
        """The watch of a kind in a namespace, or in all of them (`None`), has shown an object of this version."""
        stream = self._stream(kind, scope)
        stream.seen = max(stream.seen, version)
        if stream.awaited and stream.seen >= stream.awaited:
            stream.awaited = 0

    def listed(self, kind: Kind, scope: str | None, newest: int) -> None:
        """A list has shown objects that were not known, the newest of this version."""
        stream = self._stream(kind, scope)
        if not stream.awaited and newest > stream.seen:
            stream.awaited, stream.since = newest, self._clock()

    def restarted(self) -> None:
        """The watch begins anew, with a list of its own."""
        now = self._clock()
        for stream in self._streams.values():
            stream.since = now

    def problem(self) -> str:
        """Which watch is dead, in one sentence; empty if none is."""
        now = self._clock()
        late = [
            f"{kind.plural}{f' in {scope}' if scope else ''}"
            for (kind, scope), stream in self._streams.items()
            if stream.awaited and now - stream.since > self._patience_s
        ]
        return f"the watch of {', '.join(late)} does not show what a list has shown" if late else ""

    def _stream(self, kind: Kind, scope: str | None) -> _Stream:
        return self._streams.setdefault((kind, scope), _Stream())
