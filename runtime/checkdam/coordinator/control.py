"""The control server: connections from workers' supervisors, one per worker index.

A connection is proven to belong to the job before anything is decoded, then introduces itself with `Hello`. There is at
most one live connection per index; a second one is refused, so a supervisor that was thought dead cannot act beside its
replacement. Only the very supervisor that holds the index may connect anew: it knows better than we that its old connection is
dead, and its attempt has failed with it. A worker from which nothing has come for the heartbeat timeout is lost: its connection is closed.

Sending never waits: `WorkerLink.send` queues whole frames in the transport, so what the coordinator decides in one step
reaches every worker in the order in which it was decided.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from checkdam.core.clock import Clock
from checkdam.core.errors import AuthenticationError
from checkdam.wire.frames import accept, frame, receive_frame
from checkdam.wire.messages import (
    Hello,
    Leaving,
    Message,
    Ping,
    Pong,
    Shutdown,
    ToCoordinator,
    Welcome,
    decode_to_coordinator,
    encode,
)

_log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
"""A peer that has not proven itself and said `Hello` by then is dropped."""

_PINGS_PER_TIMEOUT: Final = 4


class WorkerLink:
    """The live connection of one worker.

    Attributes:
        index: The worker's index.
        instance: Id of the supervisor process.
        pid: Its process id, on its machine.
        address: Where it connected from.
        connected_ms: Wall clock.
        leaving: Whether it wants to go.
    """

    def __init__(self, hello: Hello, writer: asyncio.StreamWriter, clock: Clock) -> None:
        self.index = hello.index
        self.instance = hello.instance
        self.pid = hello.pid
        peer = writer.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self.connected_ms = clock.now_ms()
        self.last_heard_ms = clock.monotonic_ms()
        self.lost_because = ""
        self.leaving = False
        self._writer = writer
        self._pings = 0

    def send(self, message: Message) -> None:
        """Queue `message` behind all earlier ones; never waits. On a closed connection it goes nowhere.

        Raises:
            FrameError: It is longer than a frame may be.
        """
        body = frame(encode(message))
        if not self._writer.is_closing():
            self._writer.write(body)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._pings += 1
        self.send(Ping(self._pings))

    def close(self, reason: str) -> None:
        """Cut the connection; what is still queued is lost."""
        self.lost_because = self.lost_because or reason
        self._writer.transport.abort()

    async def finish(self) -> None:
        """Close the connection when all that is queued has been sent."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass


class ControlServer:
    """Accepts workers, keeps their links, and notices when one is lost.

    Args:
        secret: The job's secret.
        job_id: Every `Hello` must name it.
        epoch: Of this coordinator.
        max_workers: Indices are below it.
        heartbeat_timeout_ms: A worker that is silent for so long is lost.
        clock: Its monotonic side is used.
        on_connected: A worker has come.
        on_message: A worker has said something; heartbeats are not handed on.
        on_lost: A worker's connection has ended, for the reason given. Not called while the server closes.
        on_newer_epoch: A worker has served a later coordinator than this one.

    Attributes:
        links: The connections of the workers that may be counted on, by index.
        instances: index → id of the supervisor that was connected last.
        rejected_peers: How many connections could not authenticate.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        job_id: str,
        epoch: int,
        max_workers: int,
        heartbeat_timeout_ms: int,
        clock: Clock,
        on_connected: Callable[[WorkerLink], None],
        on_message: Callable[[int, ToCoordinator], None],
        on_lost: Callable[[int, str], None],
        on_newer_epoch: Callable[[int], None],
    ) -> None:
        self.links: dict[int, WorkerLink] = {}
        self.instances: dict[int, str] = {}
        self.rejected_peers = 0
        self._secret = secret
        self._job_id = job_id
        self._epoch = epoch
        self._max_workers = max_workers
        self._timeout_ms = heartbeat_timeout_ms
        self._clock = clock
        self._on_connected = on_connected
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_newer_epoch = on_newer_epoch
        self._server: asyncio.Server | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, with the port that was chosen if `port` is 0.

        Raises:
            OSError: The address cannot be used.
        """
        self._server = await asyncio.start_server(self._serve, host, port)
        self._heartbeat = asyncio.create_task(self._beat())
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    def send(self, index: int, message: Message) -> None:
        """Queue a message to worker `index`, if it is connected.

        Raises:
            FrameError: The message is longer than a frame may be.
        """
        link = self.links.get(index)
        if link is not None:
            link.send(message)

    def release(self, reason: str, only: int | None = None) -> None:
        """Let all workers go that want to, or only one: their places are free from now on, for others."""
        for index, link in list(self.links.items()):
            if link.leaving and only in (None, index):
                link.send(Shutdown(reason))
                del self.links[index]
                self._on_lost(index, "it was let go")

    async def close(self, patience_s: float = 2.0) -> None:
        """Stop listening, let queued messages go out for at most `patience_s`, and cut all connections."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.gather(*(link.finish() for link in self.links.values()))
        except TimeoutError:
            for link in list(self.links.values()):
                link.close("the coordinator ends")
        tasks = [task for task in (self._heartbeat, *self._connections) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a stream callback always runs in a task
        self._connections.add(task)
        try:
            link = await self._welcome(reader, writer)
            if link is not None:
                await self._listen(link, reader)
        except asyncio.CancelledError:
            # The server is closing; a cancelled stream callback would be logged as an error.
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> WorkerLink | None:
        """Let a peer prove itself and introduce itself; `None` if it must go."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                purpose = await accept(reader, writer, self._secret)
                if purpose.kind != "control" or purpose.job_id != self._job_id:
                    raise AuthenticationError(f"the peer came for {purpose.kind} of job {purpose.job_id!r}")
                hello = decode_to_coordinator(await receive_frame(reader))
        except (AuthenticationError, TimeoutError, OSError, asyncio.IncompleteReadError, msgspec.DecodeError) as error:
            # A peer that goes away at our challenge counts too: it is how one that trusts another secret behaves.
            self.rejected_peers += 1
            cause = str(error) or "it took too long to introduce itself"
            _log.warning("dropped a peer at %s: %s", writer.get_extra_info("peername"), cause)
            return None
        if not isinstance(hello, Hello):
            self.rejected_peers += 1
            _log.warning("dropped a peer that began with %s instead of Hello", type(hello).__name__)
            return None
        refusal = self._refusal(hello)
        writer.write(frame(encode(Welcome(self._epoch, self._timeout_ms, refusal))))
        if refusal:
            _log.warning("refused worker %d: %s", hello.index, refusal)
            if hello.epoch > self._epoch:
                self._on_newer_epoch(hello.epoch)
            return None
        before = self.links.pop(hello.index, None)
        if before is not None:
            before.close("its supervisor has connected anew")
            self._on_lost(hello.index, before.lost_because)
        link = WorkerLink(hello, writer, self._clock)
        self.links[hello.index] = link
        self.instances[hello.index] = link.instance
        self._on_connected(link)
        return link

    def _refusal(self, hello: Hello) -> str:
        """Why this worker must go away; empty if it may stay."""
        if hello.job_id != self._job_id:
            return f"this is the coordinator of job {self._job_id!r}, not of {hello.job_id!r}"
        if not 0 <= hello.index < self._max_workers:
            return f"the worker's index must be below `spec.maxParallelism`, which is {self._max_workers} (got {hello.index})"
        if hello.epoch > self._epoch:
            return f"the worker has served epoch {hello.epoch}, and this coordinator is of epoch {self._epoch}"
        if hello.index in self.links and self.links[hello.index].instance != hello.instance:
            return f"worker {hello.index} is connected already, as instance {self.links[hello.index].instance}"
        if self._closing:
            return "the coordinator is about to end"
        return ""

    async def _listen(self, link: WorkerLink, reader: asyncio.StreamReader) -> None:
        reason = "its connection was closed"
        try:
            while True:
                body = await receive_frame(reader)
                link.last_heard_ms = self._clock.monotonic_ms()
                message = decode_to_coordinator(body)
                if isinstance(message, Leaving):
                    link.leaving = True
                # Whoever was let go has a successor.
                if not isinstance(message, Pong) and self.links.get(link.index) is link:
                    self._on_message(link.index, message)
        except asyncio.IncompleteReadError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            reason = f"its connection broke: {error}"
        finally:
            if self.links.get(link.index) is link:
                del self.links[link.index]
                if not self._closing:
                    self._on_lost(link.index, link.lost_because or reason)

    async def _beat(self) -> None:
        period_ms = max(1, self._timeout_ms // _PINGS_PER_TIMEOUT)
        last_ms = self._clock.monotonic_ms()
        while True:
            await asyncio.sleep(period_ms / 1000)
            now_ms = self._clock.monotonic_ms()
            # If this process itself stood still, silence proves nothing: what workers said is still in the sockets.
            stood_still = now_ms - last_ms > 2 * period_ms
            last_ms = now_ms
            for link in list(self.links.values()):
                if stood_still:
                    link.last_heard_ms = now_ms
                elif now_ms - link.last_heard_ms > self._timeout_ms:
                    link.close(f"it has not been heard of for {now_ms - link.last_heard_ms} ms")
                    continue
                link.ping()


__all__ = ["HANDSHAKE_TIMEOUT_S", "ControlServer", "WorkerLink"]
