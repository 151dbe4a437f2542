"""The pipe between supervisor and task process: whole frames, in order, and nobody waits for anybody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from worker_kit import poll_until

from checkdam.wire.frames import MAX_FRAME_BYTES, FrameError
from checkdam.worker.pipe import FramePipe

LARGE = bytes(range(256)) * 4096


@pytest.fixture
def ends() -> Iterator[tuple[FramePipe, FramePipe]]:
    one, other = map(FramePipe, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def take(pipe: FramePipe, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        assert pipe.wait(10)
        found += pipe.receive()
    return found


def test_sending_to_an_end_that_does_not_read_neither_waits_nor_tears_a_frame(
    ends: tuple[FramePipe, FramePipe],
) -> None:
    one, other = ends
    frames = [LARGE + bytes([number]) for number in range(5)]
    assert [one.send(body) for body in frames][-1], "most of it must be waiting for room"
    reader: list[bytes] = []
    thread = threading.Thread(target=lambda: reader.extend(take(other, 5)))
    thread.start()
    assert one.drain(10)
    thread.join(10)
    assert reader == frames
    assert not one.backlogged


def test_what_another_thread_sends_is_written_by_the_thread_that_waits(ends: tuple[FramePipe, FramePipe]) -> None:
    one, other = ends
    told = threading.Event()

    def wait_for_word() -> None:
        while not any(one.receive() if one.wait(10) else ()):
            pass
        told.set()

    thread = threading.Thread(target=wait_for_word)
    thread.start()
    poll_until(lambda: one._waker is not None)
    assert one.send(LARGE), "it does not fit at once"
    assert take(other, 1) == [LARGE]
    other.send(b"done")
    thread.join(10)
    assert told.is_set()


def test_the_end_of_the_other_side_is_told_after_all_it_said(ends: tuple[FramePipe, FramePipe]) -> None:
    one, other = ends
    other.send(b"last words")
    other.close()
    assert list(one.receive()) == [b"last words"]
    with pytest.raises(ConnectionError):
        list(one.receive())
    one.send(b"nobody hears this")
    assert one.drain(0)


def test_a_frame_that_is_too_long_is_refused_whole(ends: tuple[FramePipe, FramePipe]) -> None:
    one, other = ends
    with pytest.raises(FrameError):
        one.send(bytes(MAX_FRAME_BYTES + 1))
    one.send(b"next")
    assert take(other, 1) == [b"next"]
