"""The watch: kopf shows what changes in the cluster, and does nothing else.

kopf runs in a thread and an event loop of its own. In the main loop it would take the process's signals and wait for our tasks when it stops; here it is an
event source that starts and stops quickly, and a slow handler of it holds up nobody. Its handlers hand each object over to the main loop, where the cache and
the queue live. With `on.event` handlers alone, without peering and without posting, it writes nothing: no annotation, no finalizer, no Event.

kopf is not asked to watch CustomResourceDefinitions and namespaces, for which many operators have no permission. So it is started when the kinds are there
(a first list tells), and started again when it ends, which it does when the API server answers with errors for longer than its retries take, or when a watched kind
is taken away. What it misses meanwhile a resync finds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import kopf
from kubernetes.aio.client.configuration import Configuration

from checkdam_operator.kube.connection import load_configuration
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.kube.protocol import Object
from checkdam_operator.metrics import WATCH_RESTARTS, OperatorMetrics

_log = logging.getLogger(__name__)

Deliver = Callable[[Kind, Object, bool], None]
"""Takes an object that the watch has shown: its kind, itself, whether it was deleted. Called in the main loop."""

_ERROR_BACKOFFS_S: Final = (0.5, 1.0, 2.0, 3.0, 5.0)
_LONGEST_RESTART_S: Final = 15.0
_GOOD_LIFE_S: Final = 60.0
_DEAD_TOO_LONG_S: Final = 60.0
_THREAD_END_S: Final = 10.0


class WatchSource:
    """Runs kopf and delivers what it shows.

    Args:
        watched: Kinds and their label selectors.
        namespaces: Which are watched; empty for all of them.
        deliver: Takes what is shown.
        on_start: Awaited before each start; returns when the kinds are there.
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
        on_start: Callable[[], Awaitable[None]],
        configuration: Callable[[], Awaitable[Configuration]] = load_configuration,
        metrics: OperatorMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._watched = dict(watched)
        self._namespaces = namespaces
        self._deliver = deliver
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

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        main_loop = asyncio.get_running_loop()

        @kopf.on.login(registry=registry, retries=1)
        async def log_in(**_: Any) -> kopf.ConnectionInfo:
            return await connection_info(await self._configuration())

        for kind in self._watched:
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)(
                _handler(kind, main_loop, self._deliver)
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
        for kind, labels in self._watched.items():
            if labels:
                settings.watching.label_selectors[kind.group, kind.version, kind.plural] = labels
        return settings


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
            except TimeoutError:
                # It is a daemon thread and does not keep the process.
                _log.warning("kopf did not end within %g s and is left behind", _THREAD_END_S)
        thread.join()
        return self._error

    def _thread(self) -> None:
        try:
            asyncio.run(self._kopf())
        except BaseException as error:
            self._error = error
        finally:
            try:
                self._main_loop.call_soon_threadsafe(self._ended.set)
            except RuntimeError:
                _log.debug("the main loop is closed already")

    async def _kopf(self) -> None:
        self._kopf_loop = asyncio.get_running_loop()
        # kopf waits for a flag of another thread in a thread of its own, which nothing would end if kopf ended by itself; so the flag belongs to its loop.
        self._stop_flag = asyncio.Event()
        if self._stopped.is_set():
            return
        await kopf.operator(
            registry=self._registry,
            settings=self._settings,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop_flag,
        )

    def _stop(self) -> None:
        self._stopped.set()
        if self._kopf_loop is not None and self._stop_flag is not None:
            try:
                self._kopf_loop.call_soon_threadsafe(self._stop_flag.set)
            except RuntimeError:
                _log.debug("kopf's loop is closed already")


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


def _handler(kind: Kind, loop: asyncio.AbstractEventLoop, deliver: Deliver) -> Callable[..., Awaitable[None]]:
    async def show(event: Any, **_: Any) -> None:
        try:
            loop.call_soon_threadsafe(deliver, kind, event["object"], event["type"] == "DELETED")
        except RuntimeError:
            _log.debug("the main loop is closed already")

    return show
