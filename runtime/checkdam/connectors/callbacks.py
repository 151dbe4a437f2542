"""Sinks that hand records to something in the same process: a list, a function, the standard output.

The lists are found by name because a pipeline is built anew in every process and for every attempt: the sink that a test
holds in its hand need not be the one that runs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TextIO, TypeVar

from checkdam.connectors.base import Sink, SinkContext, SinkWriter, TwoPhaseWriter
from checkdam.core.errors import StorageError

T = TypeVar("T")


class FunctionSink(Sink[T]):
    """Calls a function with each record. Guarantee: AtLeastOnce (after a failure records are handed over again).

    Args:
        fn: Called by the task thread, which waits for it. What it raises fails the attempt.
        whole_batches: Call it with lists of records instead, as they come.
    """

    def __init__(self, fn: Callable[[Any], object], *, whole_batches: bool = False) -> None:
        self._fn = fn
        self._whole_batches = whole_batches

    def open(self, context: SinkContext) -> SinkWriter[T]:
        return _FunctionWriter(self._fn, self._whole_batches)


class _FunctionWriter(SinkWriter[T]):
    def __init__(self, fn: Callable[[Any], object], whole_batches: bool) -> None:
        self._fn = fn
        self._whole_batches = whole_batches

    def write(self, values: list[T], times: list[int] | None) -> None:
        fn = self._fn
        if self._whole_batches:
            fn(values)
            return
        for value in values:
            fn(value)


class PrintSink(Sink[T]):
    """Prints a line for each record. Guarantee: AtLeastOnce.

    Args:
        prefix: What each line begins with.
        file: Where to; by default the process's standard output as it is when a batch is written.
    """

    def __init__(self, prefix: str = "", file: TextIO | None = None) -> None:
        self._prefix = prefix
        self._file = file

    def open(self, context: SinkContext) -> SinkWriter[T]:
        return _PrintWriter(self._prefix, self._file)


class _PrintWriter(SinkWriter[T]):
    def __init__(self, prefix: str, file: TextIO | None) -> None:
        self._prefix = prefix
        self._file = file

    def write(self, values: list[T], times: list[int] | None) -> None:
        file = sys.stdout if self._file is None else self._file
        # One call, so that lines of several processes do not run into each other.
        file.write("".join([f"{self._prefix}{value}\n" for value in values]))
        file.flush()


@dataclass
class _Collected:
    """What the collecting sinks of one name have received: `visible`, and prepared but not committed (id → records)."""

    visible: list[Any] = field(default_factory=list)
    prepared: dict[str, list[Any]] = field(default_factory=dict)


_collected: dict[str, _Collected] = {}
_lock = threading.Lock()


def _of(name: str) -> _Collected:
    with _lock:
        return _collected.setdefault(name, _Collected())


def collected(name: str) -> list[Any]:
    """A copy of the records that collecting sinks called `name` have made visible in this process."""
    return list(_of(name).visible)


def forget_collected(name: str) -> None:
    """Let `name` begin with an empty list again."""
    with _lock:
        _collected.pop(name, None)


class CollectSink(Sink[T]):
    """Appends records to a list of this process at once. Guarantee: AtLeastOnce.

    Args:
        name: What `collected` finds them by.
    """

    def __init__(self, name: str = "collected") -> None:
        self.name = name

    @property
    def values(self) -> list[Any]:
        """A copy of what was collected until now."""
        return collected(self.name)

    def open(self, context: SinkContext) -> SinkWriter[T]:
        return _CollectWriter(self.name)


class _CollectWriter(SinkWriter[T]):
    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, values: list[T], times: list[int] | None) -> None:
        _of(self._name).visible.extend(values)


class CommittedCollectSink(CollectSink[T]):
    """Appends records to a list of this process when a checkpoint completes. Guarantee: ExactlyOnce, within this process.

    Args:
        name: What `collected` finds them by.
    """

    two_phase: ClassVar[bool] = True

    def open(self, context: SinkContext) -> SinkWriter[T]:
        return _CommittedCollectWriter(self.name, context)

    def commit(self, committables: list[Any]) -> None:
        """Raises: StorageError: the records were prepared in a process that is gone."""
        state = _of(self.name)
        for batch_id in committables:
            with _lock:
                records = state.prepared.get(batch_id)
                if records is None:
                    raise StorageError("commit", batch_id, "its records were in the memory of a process that is gone")
                state.visible.extend(records)
                # The id stays, so that a repeated commit is known for what it is.
                state.prepared[batch_id] = []

    def discard(self, context: SinkContext, keep: list[Any]) -> None:
        state = _of(self.name)
        own = f"{context.operator_id}/{context.subtask}/"
        with _lock:
            for batch_id in [batch_id for batch_id in state.prepared if batch_id.startswith(own)]:
                if batch_id not in keep and state.prepared[batch_id]:
                    del state.prepared[batch_id]


class _CommittedCollectWriter(TwoPhaseWriter[T], Generic[T]):
    def __init__(self, name: str, context: SinkContext) -> None:
        self._state = _of(name)
        self._id = f"{context.operator_id}/{context.subtask}/{context.attempt}"
        self._prepared = 0
        self._values: list[T] = []

    def write(self, values: list[T], times: list[int] | None) -> None:
        self._values.extend(values)

    def prepare(self, checkpoint: int) -> list[Any]:
        if not self._values:
            return []
        batch_id = f"{self._id}/{self._prepared}"
        self._prepared += 1
        with _lock:
            self._state.prepared[batch_id] = self._values
        self._values = []
        return [batch_id]
