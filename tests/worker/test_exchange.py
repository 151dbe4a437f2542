"""The exchange over real loopback sockets: nothing lost or reordered, strangers kept out, breaks reported once."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from worker_kit import SERDE, poll_until

from checkdam.core.batch import Batch
from checkdam.core.errors import CheckdamError
from checkdam.wire.auth import ClientHandshake, Purpose
from checkdam.wire.frames import authenticate_client, frame
from checkdam.wire.messages import AttemptId
from checkdam.worker import listener
from checkdam.worker.channels import DATA, WATERMARK, Input, Output
from checkdam.worker.exchange import Exchange, Identity
from checkdam.worker.listener import Listener

SECRET = b"the secret of the job"
ATTEMPT = AttemptId(3, 1)
EDGE = 7


class Worker:
    """An exchange and the least of a task thread: what is posted runs when the test says so."""

    def __init__(self, index: int, secret: bytes = SECRET, attempt: AttemptId = ATTEMPT) -> None:
        self.index = index
        self.posted: deque[Callable[[], None]] = deque()
        self.failures: list[str] = []
        self.woken = threading.Event()
        self.exchange = Exchange(
            Identity("ns/job", attempt, index, secret),
            "127.0.0.1",
            self.woken.set,
            self.posted.append,
            self.failures.append,
        )
        self.inputs: dict[int, Input] = {}
        self.outputs: dict[int, Output] = {}

    def wire(self, peers: int, credit_bytes: int) -> None:
        """A channel of one edge to and from each peer."""
        for peer in range(peers):
            if peer != self.index:
                channel = Input(0, SERDE, self.exchange.granter(EDGE, peer, credit_bytes))
                self.inputs[peer] = channel
                self.exchange.add_input(EDGE, peer, channel)
                output = Output(self.exchange.link(EDGE, peer), credit_bytes, SERDE)
                self.outputs[peer] = output
                self.exchange.add_output(EDGE, peer, output)

    def run_posted(self) -> None:
        while self.posted:
            self.posted.popleft()()


@contextmanager
def workers(count: int, credit_bytes: int = 1 << 20, shrink_buffers: bool = False) -> Iterator[list[Worker]]:
    """Connected workers; afterwards no thread of theirs is left."""
    before = set(threading.enumerate())
    with ExitStack() as stack:
        group = []
        for index in range(count):
            worker = Worker(index)
            stack.callback(worker.exchange.close)
            worker.wire(count, credit_bytes)
            group.append(worker)
        addresses = [worker.exchange.address for worker in group]
        threads = [threading.Thread(target=worker.exchange.connect, args=(addresses, 10.0)) for worker in group]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in group:
            if shrink_buffers:
                for connection in worker.exchange._connections.values():
                    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
                    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            worker.exchange.start()
        yield group
    poll_until(lambda: set(threading.enumerate()) <= before)


def drain(worker: Worker, received: dict[int, list[Any]]) -> None:
    """Take everything that has come, as (values or watermark) per sender."""
    for peer, channel in worker.inputs.items():
        while channel.queue:
            kind, value, _ = channel.queue[0]
            if kind == DATA:
                received[peer] += channel.take_batch(64).values
            else:
                channel.queue.popleft()
                received[peer].append(("watermark", value))
    worker.run_posted()


@pytest.mark.parametrize(("credit_bytes", "shrink"), [(1 << 20, False), (300, False), (5000, True)])
def test_frames_in_all_directions_at_once_are_neither_lost_nor_reordered(credit_bytes: int, shrink: bool) -> None:
    rounds = 60
    with workers(3, credit_bytes, shrink) as group:
        received: list[dict[int, list[Any]]] = [{peer: [] for peer in worker.inputs} for worker in group]
        expected: list[Any] = []
        for number in range(rounds):
            values = [f"{number}-{n}" * (number % 5 + 1) for n in range(number % 7 * 20 + 1)]
            expected += [*values, ("watermark", number)]
            for worker in group:
                for output in worker.outputs.values():
                    output.send_batch(Batch(list(values)))
                    output.send_control(WATERMARK, number)

        def done() -> bool:
            for worker, taken in zip(group, received, strict=True):
                drain(worker, taken)
            return all(len(items) == len(expected) for taken in received for items in taken.values())

        poll_until(done, 20.0)
        assert all(items == expected for taken in received for items in taken.values())
        assert not any(worker.failures for worker in group)


def test_all_credit_but_a_share_comes_back() -> None:
    with workers(2, 1000) as group:
        sender, receiver = group
        taken: dict[int, list[Any]] = {0: [], 1: []}
        for _ in range(100):
            sender.outputs[1].send_batch(Batch(["x" * 50]))
        assert sender.outputs[1].pending

        def done() -> bool:
            drain(receiver, taken)
            sender.run_posted()
            return len(taken[0]) == 100

        poll_until(done)
        poll_until(lambda: (sender.run_posted(), sender.outputs[1].available_bytes > 750)[1])


def test_a_batch_of_many_megabytes_passes_while_small_ones_go_the_other_way() -> None:
    with workers(2, 1 << 26) as group:
        large = [bytes([n % 256]) * 1_000_000 for n in range(45)]
        group[0].outputs[1].send_batch(Batch(list(large)))
        for number in range(200):
            group[1].outputs[0].send_batch(Batch([number]))
        taken: list[dict[int, list[Any]]] = [{1: []}, {0: []}]

        def done() -> bool:
            for worker, mine in zip(group, taken, strict=True):
                drain(worker, mine)
            return len(taken[1][0]) == 45 and len(taken[0][1]) == 200

        poll_until(done, 20.0)
        assert taken[1][0] == large
        assert taken[0][1] == list(range(200))


def test_a_broken_connection_is_reported_once_and_names_the_worker() -> None:
    with workers(3) as group:
        group[2].exchange.close()
        poll_until(lambda: bool(group[0].failures) and bool(group[1].failures))
        group[0].outputs[2].send_batch(Batch([1]))
        group[0].outputs[1].send_batch(Batch([1]))
        assert len(group[0].failures) == len(group[1].failures) == 1
        assert "worker 2" in group[0].failures[0]
        assert group[2].failures == [], "closing is no failure of one's own"


@pytest.mark.parametrize(
    ("secret", "purpose"),
    [
        (b"another secret", Purpose("data", "ns/job", "3.1", "2", "0")),
        (SECRET, Purpose("data", "ns/job", "3.0", "2", "0")),
        (SECRET, Purpose("data", "ns/other", "3.1", "2", "0")),
        (SECRET, Purpose("data", "ns/job", "3.1", "2", "1")),
        (SECRET, Purpose("data", "ns/job", "3.1", "0", "0")),
        (SECRET, Purpose("data", "ns/job", "3.1", "-1", "0")),
        (SECRET, Purpose("data", "ns/job", "3.1", "two", "0")),
        (SECRET, Purpose("control", "ns/job", "3.1", "2", "0")),
        (SECRET, Purpose("data", "ns/job", "3.1", "1", "0")),
    ],
    ids=["secret", "attempt", "job", "server", "self", "negative", "no number", "kind", "connected already"],
)
def test_a_peer_that_does_not_belong_is_dropped_and_counted(secret: bytes, purpose: Purpose) -> None:
    with workers(2) as group:
        with socket.create_connection(group[0].exchange.address, timeout=5) as stranger:
            try:
                authenticate_client(stranger, secret, purpose)
                assert stranger.recv(1) == b""
            except (CheckdamError, ConnectionError):
                pass
        poll_until(lambda: group[0].exchange.rejected_peers == 1)

        group[1].outputs[0].send_batch(Batch(["undisturbed"]))
        taken: dict[int, list[Any]] = {1: []}
        poll_until(lambda: (drain(group[0], taken), bool(taken[1]))[1])
        assert not group[0].failures


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x00", b"\xff" * 64, frame(b"\x93\x01\x02\x03"), frame(b"x" * 5000), b""],
    ids=["http", "empty frame", "huge frame", "wrong types", "too long", "nothing"],
)
def test_garbage_is_dropped_and_counted(garbage: bytes) -> None:
    worker = Worker(0)
    try:
        with socket.create_connection(worker.exchange.address, timeout=5) as stranger:
            stranger.sendall(garbage)
            # It may have been dropped before all of it was sent.
            with suppress(OSError):
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(100) == b""
        poll_until(lambda: worker.exchange.rejected_peers == 1)
    finally:
        worker.exchange.close()


def test_strangers_that_are_slow_do_not_keep_peers_waiting() -> None:
    group = [Worker(0), Worker(1)]
    with ExitStack() as stack:
        for worker in group:
            stack.callback(worker.exchange.close)
        for _ in range(20):
            stranger = stack.enter_context(socket.create_connection(group[0].exchange.address, timeout=5))
            stranger.sendall(b"\x00")
        addresses = [worker.exchange.address for worker in group]

        group[1].exchange.connect(addresses, 2.0)
        group[0].exchange.connect(addresses, 2.0)

        assert group[0].exchange.rejected_peers == 0, "the strangers are still being waited for"


def test_a_handshake_has_one_deadline_however_it_drips() -> None:
    admitted: list[Any] = []
    accepting = Listener("127.0.0.1", SECRET, lambda *peer: admitted.append(peer), timeout_s=0.3)
    try:
        introduction = frame(ClientHandshake(SECRET, Purpose("data", "j", "1.1", "1", "0")).introduction())
        with socket.create_connection(accepting.address, timeout=5) as stranger:
            stranger.settimeout(0.05)
            for byte in introduction:
                try:
                    stranger.sendall(bytes([byte]))
                    if stranger.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                raise AssertionError("the stranger was never cut off")
        poll_until(lambda: accepting.rejected == 1)
        assert not admitted
    finally:
        accepting.close()


def test_strangers_above_the_bound_are_dropped_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_HANDSHAKES", 3)
    accepting = Listener("127.0.0.1", SECRET, lambda *peer: None)
    with ExitStack() as stack:
        stack.callback(accepting.close)
        strangers = [stack.enter_context(socket.create_connection(accepting.address, timeout=5)) for _ in range(5)]
        assert [strangers[0].recv(1), strangers[1].recv(1)] == [b"", b""]
        poll_until(lambda: accepting.rejected == 2)


def test_a_peer_that_never_comes_is_named() -> None:
    worker = Worker(0)
    try:
        with pytest.raises(CheckdamError, match=r"connections of workers \[1, 2\]"):
            worker.exchange.connect([worker.exchange.address] * 3, 0.05)
    finally:
        worker.exchange.close()


def test_a_peer_that_cannot_be_reached_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = unused.getsockname()[:2]
    worker = Worker(1)
    try:
        with pytest.raises(CheckdamError, match=r"cannot connect to worker 0 at 127\.0\.0\.1"):
            worker.exchange.connect([address, worker.exchange.address], 1.0)
    finally:
        worker.exchange.close()
