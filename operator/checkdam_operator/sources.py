"""The watch: kopf shows what changes in the cluster, and does nothing else.

kopf runs in a thread and an event loop of its own. In the main loop it would take the process's signals and wait for our tasks when it stops; here it is an
event source that starts and stops quickly, and a slow handler of it holds up nobody. Its handlers hand each object over to the main loop, where the cache and
the queue live. With `on.event` handlers alone, without peering and without posting, it writes nothing: no annotation, no finalizer, no Event.

kopf is not asked to watch CustomResourceDefinitions and namespaces, for which many operators have no permission. A kind that is not there when it starts it leaves out for
good, without a word. So it is started when all kinds are there, and started again when it ends, which it does when the API server answers with errors for longer than its retries take, or when a watched kind
is taken away. What it misses meanwhile a resync finds, which is to follow each list of kopf's.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import kopf
from kubernetes.aio.client.configuration import Configuration

from checkdam.core.errors import CheckdamError
from checkdam_operator.kube.connection import load_configuration
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.kube.protocol import Object
from checkdam_operator.logs import fields
from checkdam_operator.metrics import WATCH_RESTARTS, OperatorMetrics

_log = logging.getLogger(__name__)

Deliver = Callable[[Kind, Object, bool], None]
"""Takes an object that the watch has shown: its kind, itself, whether it was deleted. Called in the main loop."""

_ERROR_BACKOFFS_S: Final = (0.5, 1.0, 2.0, 3.0, 5.0)
_LOGIN_RETRY_S: Final = 2.0
_SERVED_RETRY_S: Final = 1.0
_LONGEST_RESTART_S: Final = 15.0
_GOOD_LIFE_S: Final = 60.0
_DEAD_TOO_LONG_S: Final = 60.0
_GRACEFUL_END_S: Final = 0.5
_CANCELLATIONS: Final = 5
_CANCELLATION_S: Final = 0.5
_THREAD_END_S: Final = 10.0
_LEAVE_S: Final = 2.0
_LEAVE_POLL_S: Final = 0.005


class WatchSource:
    """Runs kopf and delivers what it shows.

    Args:
        watched: Kinds and their label selectors.
        namespaces: Which are watched; empty for all of them.
        deliver: Takes what is shown.
        on_list: Called, in the main loop, for each object that comes from a list: kopf lists when it begins and when it has missed changes, and does not say what
            was deleted meanwhile.
        serves: Whether the API server has a kind.
        on_start: Awaited before each start.
        configuration: Tells how to reach the API server, anew for each login.
        metrics: Counts restarts.
        clock: Monotonic seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        watched: Mapping[Kind, str],
        namespaces: tuple[str, ...],
        deliver: Deliver,
        on_list: Callable[[], None],
        serves: Callable[[Kind], Awaitable[bool]],
        on_start: Callable[[], Awaitable[None]],
        configuration: Callable[[], Awaitable[Configuration]] = load_configuration,
        metrics: OperatorMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._watched = dict(watched)
        self._namespaces = namespaces
        self._deliver = deliver
        self._on_list = on_list
        self._serves = serves
        self._on_start = on_start
        self._configuration = configuration
        self._metrics = metrics or OperatorMetrics()
        self._clock = clock
        self._sleep = sleep
        self._watch: _Watch | None = None
        self._ended_at: float | None = None

    async def run(self) -> None:
        """Watch until cancelled, which stops kopf too."""
        wait_s = 1.0
        while True:
            await self._until_served()
            await self._on_start()
            started = self._clock()
            self._watch = _Watch(self._registry(), self._settings(), self._namespaces)
            self._ended_at = None
            try:
                error = await self._watch.run()
            finally:
                self._watch = None
                self._ended_at = self._clock()
            wait_s = 1.0 if self._ended_at - started >= _GOOD_LIFE_S else min(wait_s * 2, _LONGEST_RESTART_S)
            _log.error("the watch has ended and is started again in %g s: %r", wait_s, error)
            self._metrics.count(WATCH_RESTARTS)
            await self._sleep(wait_s)

    def problem(self) -> str:
        """Why nothing is watched, in one sentence; empty while kopf runs, and for a while after it ended."""
        ended_at = self._ended_at
        if ended_at is None or self._clock() - ended_at <= _DEAD_TOO_LONG_S:
            return ""
        return f"nothing has been watched for {self._clock() - ended_at:.0f} s"

    async def _until_served(self) -> None:
        told = False
        while True:
            try:
                missing = [str(kind) for kind in self._watched if not await self._serves(kind)]
                problem = (
                    f"the cluster has no {', '.join(missing)}: install the CustomResourceDefinitions" if missing else ""
                )
            except CheckdamError as error:
                problem = str(error)
            if not problem:
                return
            if not told:
                _log.warning("nothing can be watched yet; it is tried again: %s", problem)
                told = True
            await self._sleep(_SERVED_RETRY_S)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        main_loop = asyncio.get_running_loop()

        @kopf.on.login(registry=registry)
        async def log_in(**_: Any) -> kopf.ConnectionInfo:
            try:
                return await connection_info(await self._configuration())
            except CheckdamError as error:
                # Any other error would leave kopf without credentials for ever, and yet running.
                raise kopf.TemporaryError(str(error), delay=_LOGIN_RETRY_S) from error

        for kind in self._watched:
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)(
                _handler(kind, main_loop, self._deliver, self._on_list)
            )
        return registry

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.peering.standalone = True
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.process.ultimate_exiting_timeout = None  # Else kopf kills the whole process ten minutes after a stop.
        settings.networking.error_backoffs = _ERROR_BACKOFFS_S
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 10
        settings.watching.chunk_size = 500
        settings.queueing.idle_timeout = (
            1.0  # One task for each object that changed in the last second, rather than in the last five.
        )
        settings.queueing.exit_timeout = 0.5
        settings.persistence.diffbase_storage = _NoHistory()
        for kind, labels in self._watched.items():
            if labels:
                settings.watching.label_selectors[kind.group, kind.version, kind.plural] = labels
        return settings


class _NoHistory(kopf.DiffBaseStorage):
    """Nothing of an object is compared with what it was: no handler asks, and copying each of them takes as long as all else that kopf does with it."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Is not called: only handlers of changes leave something behind."""


class _Watch:
    """One life of kopf, in its thread."""

    def __init__(
        self, registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings, namespaces: tuple[str, ...]
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._namespaces = namespaces
        self._main_loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._kopf_loop: asyncio.AbstractEventLoop | None = None
        self._stop_flag: asyncio.Event | None = None

    async def run(self) -> BaseException | None:
        """Returns why kopf has ended; stops it when cancelled."""
        thread = threading.Thread(target=self._thread, name="kopf", daemon=True)
        thread.start()
        try:
            await self._ended.wait()
        finally:
            self._stop()
            try:
                async with asyncio.timeout(_THREAD_END_S):
                    await self._ended.wait()
                thread.join()
            except TimeoutError:
                # It is a daemon thread and does not keep the process.
                _log.warning("kopf did not end within %g s and is left behind", _THREAD_END_S)
        return self._error

    def _thread(self) -> None:
        selector = selectors.DefaultSelector()
        loop = asyncio.SelectorEventLoop(selector)
        own_files = len(selector.get_map())
        # Errors of tasks that kopf did not wait for are told of when they are collected, long after it has ended for the same reason.
        loop.set_exception_handler(lambda _, context: _log.debug("in kopf's loop: %s", context))
        try:
            try:
                loop.run_until_complete(self._kopf())
            finally:
                loop.run_until_complete(_until_connections_close(selector, own_files))
        except BaseException as error:
            self._error = error
        finally:
            loop.close()
            _tell(self._main_loop, self._ended.set)

    async def _kopf(self) -> None:
        self._kopf_loop = asyncio.get_running_loop()
        # kopf waits for a flag of another thread in a thread of its own, which nothing would end if kopf ended by itself; so the flag belongs to its loop.
        self._stop_flag = asyncio.Event()
        if self._stopped.is_set():
            return
        ours = asyncio.current_task()
        tasks = await kopf.spawn_tasks(
            registry=self._registry,
            settings=self._settings,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop_flag,
        )
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._error = _first_error(tasks)
        ending = asyncio.create_task(kopf.run_tasks(tasks, ignored={ours} if ours else set()))
        await asyncio.wait({ending}, timeout=_GRACEFUL_END_S)
        await _end_all_tasks()
        _first_error([ending, *tasks])  # Else each of them is told of again when it is collected.

    def _stop(self) -> None:
        self._stopped.set()
        if self._kopf_loop is not None and self._stop_flag is not None:
            _tell(self._kopf_loop, self._stop_flag.set)


async def connection_info(configuration: Configuration) -> kopf.ConnectionInfo:
    """The same connection, in kopf's words."""
    bearer = (await configuration.auth_settings()).get("BearerToken")
    scheme, _, token = (str(bearer["value"]) if bearer else "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


def _handler(
    kind: Kind, loop: asyncio.AbstractEventLoop, deliver: Deliver, on_list: Callable[[], None]
) -> Callable[..., Awaitable[None]]:
    async def show(event: Any, **_: Any) -> None:
        if event["type"] is None:
            _tell(loop, on_list)
        _tell(loop, deliver, kind, event["object"], event["type"] == "DELETED")

    return show


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Have something called in another thread's loop, if that has not ended."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        _log.debug("the loop that was to be told is closed already")


def _first_error(tasks: Iterable[asyncio.Task[Any]]) -> BaseException | None:
    errors = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return next((error for error in errors if error is not None), None)


async def _until_connections_close(selector: selectors.BaseSelector, own_files: int) -> None:
    """Wait until the loop of this selector has no more files than its own, or for so long as TLS may take to take leave.

    kopf cuts its watches off in the middle of an answer and waits for none of them; a loop that is closed next would leave their sockets open.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LEAVE_S):
            while len(selector.get_map()) > own_files:
                await asyncio.sleep(_LEAVE_POLL_S)


async def _end_all_tasks() -> None:
    """Cancel all other tasks of this loop until they have ended, or have had several chances.

    When one of kopf's watches fails, the others are not stopped before its credentials are gone; they wait for new ones then, and swallow a cancellation.
    """
    for _ in range(_CANCELLATIONS):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            return
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=_CANCELLATION_S)
        _first_error(others)
    _log.warning("kopf left tasks behind", extra=fields(tasks=[task.get_name() for task in others]))
