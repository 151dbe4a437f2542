"""What joins task loops that live in one thread: channels, an executor, and the way of a source to a coordinator.

Every batch between different workers is encoded and decoded as on a real connection, so a test finds values that cannot
travel.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from checkdam.worker.channels import DATA, Input, Item, Output


class LoopbackHub:
    """Where the loopbacks of all workers meet: (edge, sender, receiver) → the channel's two ends."""

    def __init__(self) -> None:
        self.inputs: dict[tuple[int, int, int], Input] = {}
        self.outputs: dict[tuple[int, int, int], Output] = {}


class LoopbackLink:
    """The way of one channel to another worker of the same thread."""

    remote = True

    def __init__(self, hub: LoopbackHub, channel: tuple[int, int, int]) -> None:
        self._hub = hub
        self._channel = channel

    def send(self, item: Item) -> None:
        kind, payload, size = item
        self._hub.inputs[self._channel].queue.append((kind, payload, size if kind == DATA else 0))


class LoopbackNetwork:
    """The network of one worker."""

    def __init__(self, hub: LoopbackHub, index: int) -> None:
        self._hub = hub
        self._index = index

    def add_input(self, edge: int, sender: int, channel: Input) -> None:
        self._hub.inputs[edge, sender, self._index] = channel

    def add_output(self, edge: int, receiver: int, output: Output) -> None:
        self._hub.outputs[edge, self._index, receiver] = output

    def link(self, edge: int, receiver: int) -> LoopbackLink:
        return LoopbackLink(self._hub, (edge, self._index, receiver))

    def granter(self, edge: int, sender: int, credit_bytes: int) -> Callable[[int], None]:
        return lambda count_bytes: self._hub.outputs[edge, sender, self._index].grant(count_bytes)


class LoopbackPort:
    """See `SourcePort`. Splits are given out by the harness at the start; reservations are granted at once.

    Args:
        reserved: source id → split id → position: where what is reserved is kept, beyond crashes.
        grant: Posts a message to the worker.
    """

    def __init__(self, reserved: dict[str, dict[str, Any]], grant: Callable[[str, dict[str, Any]], None]) -> None:
        self._reserved = reserved
        self._grant = grant

    def request_splits(self, source: str) -> None: ...

    def finished_splits(self, source: str, splits: list[str]) -> None: ...

    def reserve(self, source: str, positions: dict[str, Any]) -> None:
        self._reserved.setdefault(source, {}).update(positions)
        self._grant(source, positions)


class ImmediateExecutor(Executor):
    """Runs work at once, in the thread that submits it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
