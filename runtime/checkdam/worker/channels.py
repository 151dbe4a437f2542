"""Logical channels: the queues from one subtask to another, bounded in bytes.

A channel belongs to (edge, sending subtask, receiving subtask). Its sender may have at most `credit_bytes` unread by the
receiver, whether both live in one process or not. A batch that finds no credit waits in the sender's `pending`, and the
sending subtask is suspended until it has gone. Control items (watermark, idleness, barrier, end of input) need no
credit but keep the channel's order. Because sockets are always read and control always finds room, a barrier can be
queued behind a full output, and aligned checkpoints cannot deadlock under backpressure.

Concurrency: `Input.queue` is appended to by the exchange's I/O thread (or by a local sender) and popped by the task
thread; a deque makes both atomic. Everything else belongs to the task thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from checkdam.core.batch import MIN_TIME, Batch, concat
from checkdam.core.errors import ValueTypeError
from checkdam.core.keys import decode_keys, encode_keys
from checkdam.core.serde import Serde
from checkdam.wire.frames import MAX_FRAME_BYTES

DATA: Final = 0
WATERMARK: Final = 1
IDLE: Final = 2
BARRIER: Final = 3
END: Final = 4
CREDIT: Final = 5

MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
"""A batch that encodes to more is split before it is sent, well below the longest frame."""

FRAME_OVERHEAD_BYTES: Final = 64
"""More than what the heads of a frame and of a batch take."""

Item = tuple[int, Any, int]
"""(kind, payload, bytes): the payload is a `Batch` or its encoded bytes, a watermark, a checkpoint number or None."""


class Link(Protocol):
    """Carries items to the other end of a channel; never blocks."""

    remote: bool
    """Whether batches must be encoded for it."""

    def send(self, item: Item) -> None: ...


class Output:
    """The sending end of a channel.

    Args:
        link: Where items go.
        credit_bytes: How many bytes may be unread by the receiver.
        serde: How values are encoded on a remote link.
    """

    __slots__ = ("available_bytes", "link", "pending", "serde")

    def __init__(self, link: Link, credit_bytes: int, serde: Serde) -> None:
        self.link = link
        self.available_bytes = credit_bytes
        self.serde = serde
        self.pending: deque[Item] = deque()

    def send_batch(self, batch: Batch) -> None:
        """Send a batch, or keep it until there is credit."""
        if not self.link.remote:
            self._offer((DATA, batch, estimate_bytes(batch)))
            return
        for data in encode_batch(batch, self.serde):
            self._offer((DATA, data, len(data)))

    def send_control(self, kind: int, value: int) -> None:
        """Send a control item, behind what is pending."""
        self._offer((kind, value, 0))

    def grant(self, count_bytes: int) -> None:
        """The receiver has read `count_bytes`."""
        self.available_bytes += count_bytes
        pending = self.pending
        while pending and (self.available_bytes > 0 or pending[0][0] != DATA):
            item = pending.popleft()
            self.available_bytes -= item[2]
            self.link.send(item)

    def _offer(self, item: Item) -> None:
        if self.pending or (item[0] == DATA and self.available_bytes <= 0):
            self.pending.append(item)
        else:
            self.available_bytes -= item[2]
            self.link.send(item)


class Input:
    """The receiving end of a channel.

    Args:
        port: The input of the operator that it feeds.
        serde: How values were encoded.
        grant: Tells the sender how many bytes were read.

    Attributes:
        watermark_ms: The last watermark that was taken from the queue.
        idle: Whether the sender holds back no watermark at present.
        ended: Whether the end of input was taken from the queue; barriers still come.
        held: The checkpoint whose barrier has been taken and which holds back what follows; 0 for none.
    """

    __slots__ = ("ended", "grant", "held", "idle", "port", "queue", "serde", "watermark_ms")

    def __init__(self, port: int, serde: Serde, grant: Callable[[int], None]) -> None:
        self.port = port
        self.serde = serde
        self.grant = grant
        self.queue: deque[Item] = deque()
        self.watermark_ms = MIN_TIME
        self.idle = False
        self.ended = False
        self.held = 0

    def take_batch(self, max_records: int) -> Batch:
        """Take the batch at the head, together with small ones right behind it, up to about `max_records`.

        A longer batch is cut: its rest goes back to the head of the queue, and its bytes are granted with its last piece.
        """
        batch, granted = self._take_head()
        if len(batch) > max_records * 2:
            batch, granted = self._cut(batch, granted, max_records)
        elif len(batch) * 2 < max_records:
            batch, granted = self._merge(batch, granted, max_records)
        if granted:
            self.grant(granted)
        return batch

    def _take_head(self) -> tuple[Batch, int]:
        _, payload, size = self.queue.popleft()
        return (payload if type(payload) is Batch else decode_batch(payload, self.serde)), size

    def _cut(self, batch: Batch, size: int, max_records: int) -> tuple[Batch, int]:
        """The first piece; all others go back at once, so that a very long batch is copied once and not once a piece."""
        starts = range(max_records, len(batch), max_records)
        for start in reversed(starts):
            self.queue.appendleft((DATA, batch.slice(start, start + max_records), size))
            size = 0
        return batch.slice(0, max_records), 0

    def _merge(self, batch: Batch, granted: int, max_records: int) -> tuple[Batch, int]:
        """The batch and those behind it that have room beside it and are of its shape, as one."""
        queue = self.queue
        merged = [batch]
        count = len(batch)
        while queue and queue[0][0] == DATA and count * 2 < max_records:
            more, size = self._take_head()
            if count + len(more) > max_records * 2 or _shape(more) != _shape(batch):
                queue.appendleft((DATA, more, size))
                break
            merged.append(more)
            count += len(more)
            granted += size
        return concat(merged), granted


def _shape(batch: Batch) -> tuple[bool, bool]:
    """Processing-time timers may yield timed records on a stream whose other records have no times."""
    return batch.times is None, batch.keys is None


class LocalLink:
    """Hands items over to an input of the same process."""

    remote = False

    def __init__(self, target: Input) -> None:
        self._append = target.queue.append

    def send(self, item: Item) -> None:
        self._append(item)


_times_encoder = msgspec.msgpack.Encoder()
_times_decoder = msgspec.msgpack.Decoder(list[int])
_SIZES = 12


def encode_batch(batch: Batch, serde: Serde) -> Sequence[bytes]:
    """A batch as the payload of one frame, or of several if it is long.

    Layout: lengths of the three parts (4 bytes each, big-endian), values, times, keys; an absent part has length 0.

    Raises:
        ValueTypeError: A single record does not fit into a frame.
    """
    values = serde.encode_many(batch.values)
    times = b"" if batch.times is None else _times_encoder.encode(batch.times)
    keys = b"" if batch.keys is None else encode_keys(batch.keys)
    size = len(values) + len(times) + len(keys)
    if size > MAX_BATCH_BYTES and len(batch) > 1:
        half = len(batch) // 2
        return [*encode_batch(batch.slice(0, half), serde), *encode_batch(batch.slice(half, len(batch)), serde)]
    if size > MAX_FRAME_BYTES - FRAME_OVERHEAD_BYTES:
        raise ValueTypeError(
            f"a record must encode to less than {MAX_FRAME_BYTES} bytes to travel between workers (got {size}); "
            "keep large values outside the stream, or divide them"
        )
    head = len(values).to_bytes(4, "big") + len(times).to_bytes(4, "big") + len(keys).to_bytes(4, "big")
    return [b"".join((head, values, times, keys))]


def decode_batch(data: bytes | memoryview, serde: Serde) -> Batch:
    """The batch in a frame's payload."""
    view = memoryview(data)
    values_end = _SIZES + int.from_bytes(view[0:4], "big")
    times_end = values_end + int.from_bytes(view[4:8], "big")
    return Batch(
        serde.decode_many(view[_SIZES:values_end]),
        _times_decoder.decode(view[values_end:times_end]) if times_end > values_end else None,
        decode_keys(view[times_end:]) if len(view) > times_end else None,
    )


def estimate_bytes(batch: Batch) -> int:
    """About how many bytes a batch takes, from a sample of its values: local batches are never encoded."""
    count = len(batch)
    if not count:
        return 1
    values = batch.values
    step = max(1, count // 8)
    sampled = values[::step]
    return count * (16 + sum(map(_size, sampled)) // len(sampled))


def _size(value: Any, depth: int = 0) -> int:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value) + 8
    if kind is int or kind is float or kind is bool or value is None:
        return 9
    if depth >= 3:
        return 64
    if isinstance(value, dict):
        return 16 + sum(_size(k, depth + 1) + _size(v, depth + 1) for k, v in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return 16 + sum(_size(v, depth + 1) for v in value)
    fields = getattr(value, "__dict__", None)
    if fields is None:
        return 8 * len(getattr(kind, "__struct_fields__", ())) + 64
    return 16 + _size(fields, depth + 1)
