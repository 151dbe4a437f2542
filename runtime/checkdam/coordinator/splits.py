"""Who reads what: the splits of every source, found once and handed out to workers.

An `Enumerator` is one source's books: which splits were ever found, and which of them no worker has. It lives as long as
the job, is part of every checkpoint, and goes back to the checkpoint's state when an attempt starts over.
A `SplitAssigner` hands splits out in one attempt. A split that a worker was given is in that worker's state from then on:
the enumerator's snapshot is taken in the very step that sends the trigger, and control to a worker is one ordered
stream, so a split assigned before the trigger is in the worker's snapshot and one assigned after it is in neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from checkdam.checkpoint.manifest import SourceSnapshot
from checkdam.connectors.base import Source, Split
from checkdam.core.errors import PipelineError
from checkdam.wire.messages import AssignSplits, AttemptId, Message

_LARGEST_SHARE: Final = 4
_SHARES_PER_WORKER: Final = 4


class Enumerator:
    """The splits of one source.

    Args:
        source_id: The source operator's id.
        source: What the user described; asked for `splits` by the caller, in a thread.
    """

    def __init__(self, source_id: str, source: Source[Any]) -> None:
        self.source_id = source_id
        self.source = source
        self.bounded = source.bounded
        self.ordered = source.splits_ordered_in_time
        self.concurrent = source.concurrent
        self.rediscovers = not source.bounded and source.discovery_interval_ms > 0
        self.unassigned: deque[tuple[str, Any]] = deque()
        self._seen: dict[str, None] = {}

    def found(self, splits: Iterable[Split]) -> int:
        """Queue those of `splits` that are new; returns how many were.

        Raises:
            PipelineError: An id came twice in one answer: the source's ids are not unique.
        """
        answered: set[str] = set()
        new = 0
        for split in splits:
            if split.id in answered:
                raise PipelineError(
                    f"source `{self.source_id}` must name every split differently (got {split.id!r} twice)"
                )
            answered.add(split.id)
            if split.id not in self._seen:
                self._seen[split.id] = None
                self.unassigned.append((split.id, split.payload))
                new += 1
        return new

    def take(self, count: int) -> list[tuple[str, Any]]:
        """The next `count` splits in reading order; they belong to the caller now."""
        return [self.unassigned.popleft() for _ in range(min(count, len(self.unassigned)))]

    def snapshot(self) -> SourceSnapshot:
        """The books as of now."""
        return SourceSnapshot(seen=list(self._seen), unassigned=list(self.unassigned))

    def restore(self, snapshot: SourceSnapshot) -> None:
        """Go back to `snapshot`."""
        self._seen = dict.fromkeys(snapshot.seen)
        self.unassigned = deque((split_id, payload) for split_id, payload in snapshot.unassigned)


class SplitAssigner:
    """Hands out splits in one attempt.

    Sources whose splits are read one after another: a worker asks when it has nothing left and gets the next in reading
    order, several at once where there are very many. A worker that asked in vain is remembered, and is the first to get
    what is found later. Sources whose splits are all read at the same time: everything is handed out at once, evenly, and
    what is found later goes to the worker that has the fewest.

    Args:
        attempt: The attempt.
        held: Source id → for each worker, ids of the splits that it has restored.
        enumerators: By source id.
        send: Queues a message to a worker.
        reserved: AtMostOnce: source id → split id → the position at which reading starts.
    """

    def __init__(
        self,
        attempt: AttemptId,
        held: Mapping[str, Sequence[Iterable[str]]],
        enumerators: Mapping[str, Enumerator],
        send: Callable[[int, Message], None],
        reserved: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._attempt = attempt
        self._enumerators = enumerators
        self._send = send
        self._reserved = reserved
        self._held = {source_id: [set(splits) for splits in held[source_id]] for source_id in enumerators}
        self._hungry: dict[str, deque[int]] = {source_id: deque() for source_id in enumerators}

    def start(self) -> None:
        """Right after `Start`: hand out what must be handed out at once, and tell everybody where nothing is left."""
        for enumerator in self._enumerators.values():
            if enumerator.concurrent:
                for index, share in enumerate(self._balanced(enumerator)):
                    self._assign(index, enumerator, share)
            elif not enumerator.unassigned:
                self._tell_exhausted(enumerator)

    def requested(self, index: int, source_id: str) -> None:
        """Worker `index` has nothing left of a source: give it more, or say that there is none."""
        enumerator = self._enumerators.get(source_id)
        if enumerator is None:
            return
        if not enumerator.unassigned:
            if index not in self._hungry[source_id]:
                self._hungry[source_id].append(index)
            self._assign(index, enumerator, [])
            return
        self._serve(index, enumerator)

    def finished(self, index: int, source_id: str, splits: Iterable[str]) -> None:
        """Worker `index` has read these splits to their end; said repeatedly."""
        if source_id in self._held:
            self._held[source_id][index].difference_update(splits)

    def discovered(self, source_id: str) -> None:
        """New splits were found: hand them out to whoever is waiting for some."""
        enumerator = self._enumerators[source_id]
        hungry = self._hungry[source_id]
        if not enumerator.concurrent:
            while hungry and enumerator.unassigned:
                self._serve(hungry.popleft(), enumerator)
            return
        for index, share in enumerate(self._balanced(enumerator)):
            if share:
                self._assign(index, enumerator, share)

    def _balanced(self, enumerator: Enumerator) -> list[list[tuple[str, Any]]]:
        """All splits that nobody has, each for whoever has the fewest."""
        held = [len(splits) for splits in self._held[enumerator.source_id]]
        shares: list[list[tuple[str, Any]]] = [[] for _ in held]
        for split in enumerator.take(len(enumerator.unassigned)):
            index = held.index(min(held))
            held[index] += 1
            shares[index].append(split)
        return shares

    def _serve(self, index: int, enumerator: Enumerator) -> None:
        self._assign(index, enumerator, enumerator.take(self._share(enumerator)))
        if not enumerator.unassigned and enumerator.bounded:
            self._tell_exhausted(enumerator, except_index=index)

    def _share(self, enumerator: Enumerator) -> int:
        if enumerator.ordered:
            return 1
        workers = len(self._held[enumerator.source_id])
        fair = len(enumerator.unassigned) // (_SHARES_PER_WORKER * workers)
        return max(1, min(_LARGEST_SHARE, fair))

    def _assign(self, index: int, enumerator: Enumerator, splits: list[tuple[str, Any]]) -> None:
        positions = self._reserved.get(enumerator.source_id, {})
        self._held[enumerator.source_id][index].update(split_id for split_id, _ in splits)
        self._send(
            index,
            AssignSplits(
                attempt=self._attempt,
                source=enumerator.source_id,
                splits=[(split_id, payload, positions.get(split_id)) for split_id, payload in splits],
                exhausted=not enumerator.unassigned,
                more=enumerator.rediscovers,
            ),
        )

    def _tell_exhausted(self, enumerator: Enumerator, except_index: int = -1) -> None:
        """Splits that nobody has hold back the watermark of all: say that there are none any more."""
        for index in range(len(self._held[enumerator.source_id])):
            if index != except_index:
                self._assign(index, enumerator, [])


__all__ = ["Enumerator", "SplitAssigner"]
