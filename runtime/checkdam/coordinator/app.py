"""A coordinator process: from its configuration to its exit code.

The order matters: the journal is fenced before anybody is listened to, and addresses are published after that, so whoever
finds a coordinator finds one that owned the job when it said where it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Final

import msgspec

from checkdam.api.entrypoint import INLINE_FOLDER, load_graph
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.checkpoint.transfers import Transfers
from checkdam.coordinator.bootstrap import JobGraph
from checkdam.coordinator.config import Addresses, CoordinatorConfig, read_secret, write_atomically
from checkdam.coordinator.http import Api
from checkdam.coordinator.job import Job
from checkdam.coordinator.ledger import Ledger, Verdict
from checkdam.coordinator.openapi import openapi_bytes
from checkdam.coordinator.outcome import Outcome
from checkdam.coordinator.records import Records
from checkdam.coordinator.reservations import Reservations
from checkdam.coordinator.restart import restart_policy
from checkdam.coordinator.retention import Retention
from checkdam.coordinator.threads import SerialThread
from checkdam.core.clock import Clock, SystemClock
from checkdam.core.errors import CheckdamError, DeposedError, StorageError
from checkdam.graph.model import Graph
from checkdam.spec import StreamJob, parse_manifest
from checkdam.wire.messages import AttemptId, Message

_log = logging.getLogger(__name__)

EXIT_OK: Final = 0
"""The job has finished, or was stopped as asked."""

EXIT_FAILED: Final = 1
"""The job has failed, could not start, or could not be stopped as asked."""

EXIT_DEPOSED: Final = 3
"""Another coordinator owns the job; starting this one again would take it back."""

OUTCOME_FILE: Final = "outcome.json"
"""In the run directory: how the job ended, as JSON (`Ending`)."""

TAKE_OVER_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Between tries of a coordinator that replaces another to fence the journal, while storage fails. The first coordinator of a job
does not wait: there it is a mistake in the manifest more often than an outage."""

_RESERVATIONS_KEPT_MS: Final = 3_600_000
_CLEANING_PATIENCE_S: Final = 5.0


class Ending(msgspec.Struct, frozen=True):
    """The content of the outcome file.

    Attributes:
        state: FINISHED, STOPPED, FAILED or DEPOSED; NOT_RESUMED where the job was stopped before and waits to be resumed.
        message: For people.
        checkpoint: Folder of the last checkpoint in the job's storage; empty if there is none.
        last_checkpoint: Its number; `None` if there is none.
        exit_code: Of the process.
        drained: Whether the last checkpoint is a savepoint for which the job was drained, which does not go on by itself.
        restored_from: Uri of the checkpoint that this coordinator began with; empty if it did not come so far.
    """

    state: str
    message: str
    checkpoint: str
    last_checkpoint: int | None
    exit_code: int
    drained: bool = False
    restored_from: str = ""


async def run_coordinator(config: CoordinatorConfig) -> int:
    """Run the job's coordinator to its end; returns the exit code of the process.

    Raises:
        CheckdamError: The configuration, the manifest, the entrypoint or a secret file is wrong.
    """
    if config.lifeline_fd >= 0:
        # Nobody is there any more to be served; a new run fences this epoch and goes on from its last checkpoint.
        asyncio.get_running_loop().add_reader(config.lifeline_fd, os._exit, EXIT_FAILED)
    job = parse_manifest(config.manifest)
    base_folder = Path(config.base_folder)
    graph = load_graph(job, base_folder, Path(config.run_dir) / INLINE_FOLDER)
    storage = open_storage(job.spec.checkpoint.storage, job.job_id, base=base_folder)
    return await coordinate(config, job, graph, storage)


async def coordinate(
    config: CoordinatorConfig, job: StreamJob, graph: Graph, storage: Storage, clock: Clock | None = None
) -> int:
    """Run a coordinator whose job, graph and storage are at hand; returns the exit code of the process.

    Raises:
        CheckdamError: The job cannot run in this mode, or a secret file is wrong.
    """
    plan = JobGraph.of(job, graph)
    coordinator = _Coordinator(config, plan, storage, clock or SystemClock())
    ending = await coordinator.run()
    level = logging.INFO if ending.exit_code == EXIT_OK else logging.ERROR
    _log.log(level, "job %s: %s: %s", job.job_id, ending.state, ending.message)
    try:
        write_atomically(Path(config.run_dir) / OUTCOME_FILE, msgspec.json.encode(ending))
    except OSError as error:
        _log.warning("the outcome could not be written to %s: %s", config.run_dir, error)
    return ending.exit_code


class _Coordinator:
    """Puts the parts together, and takes them apart in the end."""

    def __init__(self, config: CoordinatorConfig, plan: JobGraph, storage: Storage, clock: Clock) -> None:
        self._config = config
        self._plan = plan
        self._storage = storage
        self._clock = clock
        self._secret = read_secret(Path(config.secret_file))
        self._token = read_secret(Path(config.token_file))
        self._thread = SerialThread("storage")
        self._job: Job | None = None
        # Only storage that does not outlive its coordinator needs epochs from outside.
        journal = Journal(storage, clock=clock, first_seq=1 if storage.shared else config.start_count)
        checkpoint = plan.job.spec.checkpoint
        retention = Retention(checkpoint.retain, checkpoint.retain_for_ms)
        transfers = Transfers(checkpoint.storage.parallel_transfers)
        ledger = Ledger(storage, plan.job.job_id, retention=retention, journal=journal, transfers=transfers)
        self._records = Records(ledger, self._thread, self._broken)

    async def run(self) -> Ending:
        """From fencing to the end."""
        config = self._config
        try:
            verdict = await self._take_over()
            if not self._storage.shared and config.start_count > 1:
                _log.warning(
                    "job %s starts afresh: what %s held went with its last coordinator",
                    self._plan.job.job_id,
                    self._storage.uri,
                )
            if verdict == "finished":
                message = "the job had finished before; `--fresh` or `restoreFrom: Fresh` starts it over"
                return self._ending("FINISHED", message, EXIT_OK)
            if verdict == "stopped" and config.resume:
                return self._ending("STOPPED", "the job was stopped before this coordinator was started", EXIT_OK)
            if verdict == "stopped":
                message = "the job was stopped and has not been resumed; resume it to go on from its last checkpoint"
                return self._ending("NOT_RESUMED", message, EXIT_FAILED)
            outcome = await self._run_job()
            return self._ending(outcome.state, outcome.message, EXIT_OK if outcome.clean else EXIT_FAILED)
        except DeposedError as error:
            return self._ending("DEPOSED", str(error), EXIT_DEPOSED)
        except CheckdamError as error:
            return self._ending("FAILED", str(error), EXIT_FAILED)
        finally:
            self._thread.close()

    async def _take_over(self) -> Verdict:
        """Fence the journal. One that replaces another waits a while for storage: the job it goes on with was in order."""
        config = self._config
        pauses_s = list(TAKE_OVER_PAUSES_S if config.start_count > 1 else ())
        while True:
            try:
                return await self._records.take_over(
                    fresh=config.fresh,
                    resume=config.resume,
                    origin=config.origin,
                    again=config.may_repeat_origin,
                    since_epoch=config.since_epoch,
                )
            except StorageError as error:
                if not pauses_s:
                    raise
                _log.warning("the journal cannot be fenced yet: %s", error)
                await asyncio.sleep(pauses_s.pop(0))

    async def _run_job(self) -> Outcome:
        config, plan = self._config, self._plan
        self._job = job = Job(
            plan=plan,
            records=self._records,
            reservations=self._reservations(),
            config=config,
            policy=restart_policy(plan.job.spec.restart.resolved()),
            clock=self._clock,
            secret=self._secret,
        )
        api = Api(job, self._token, {config.host, *config.allowed_hosts}, openapi_bytes())
        signals = _Signals(job, config.stop_on_signal)
        deposed = False
        try:
            control = await job.server.start(config.host, config.control_port)
            http = await api.start(config.host, config.http_port)
            # Whoever slept since its fence must not lead workers away from its successor.
            await self._records.check()
            self._publish(control, http)
        except (OSError, DeposedError) as error:
            await job.server.close(patience_s=0.0)
            await api.close()
            if isinstance(error, DeposedError):
                raise
            raise CheckdamError(f"the coordinator cannot listen on `host` {config.host}: {error}") from error
        try:
            signals.install()
            outcome = await job.run()
            await self._records.flush(_CLEANING_PATIENCE_S)
            return outcome
        except DeposedError:
            deposed = True
            raise
        finally:
            await job.server.close(patience_s=0.0 if deposed else 2.0)
            await api.close()
            signals.remove()

    def _reservations(self) -> Reservations | None:
        if self._plan.job.spec.checkpoint.mode != "AtMostOnce":
            return None
        journal = Journal(self._storage, "reservations", clock=self._clock, retention_ms=_RESERVATIONS_KEPT_MS)
        return Reservations(journal, self._thread, self._send_reserved)

    def _send_reserved(self, attempt: AttemptId, index: int, message: Message) -> None:
        if self._job is not None:
            self._job.send_reserved(attempt, index, message)

    def _publish(self, control: tuple[str, int], http: tuple[str, int]) -> None:
        _log.info("listening for workers at %s:%d and for requests at http://%s:%d", *control, *http)
        if self._config.address_file:
            addresses = Addresses(*control, *http, os.getpid(), self._records.epoch)
            write_atomically(Path(self._config.address_file), msgspec.json.encode(addresses))

    def _broken(self, error: BaseException) -> None:
        if self._job is not None:
            self._job.broken(error)

    def _ending(self, state: str, message: str, exit_code: int) -> Ending:
        last = self._records.last
        if last is None:
            return Ending(state, message, "", None, exit_code)
        restored_from = "" if self._job is None else self._job.view().restored_from
        return Ending(state, message, last.folder, last.manifest.id, exit_code, last.manifest.drained, restored_from)


class _Signals:
    """SIGTERM and SIGINT: the first stops the job with a last checkpoint, the second ends the process at once."""

    def __init__(self, job: Job, stop: bool) -> None:
        self._job = job
        self._stop = stop
        self._seen = False
        self._installed: list[signal.Signals] = []

    def install(self) -> None:
        """Take over both signals, where this is the main thread."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self._received, number)
            except (ValueError, RuntimeError, NotImplementedError):
                return  # not the main thread: whoever runs us there handles signals
            self._installed.append(number)

    def remove(self) -> None:
        """Give both signals back."""
        loop = asyncio.get_running_loop()
        for number in self._installed:
            loop.remove_signal_handler(number)

    def _received(self, number: signal.Signals) -> None:
        if self._seen or not self._stop:
            os._exit(128 + number)
        self._seen = True
        _log.info("%s: stopping after a last checkpoint; once more ends at once", number.name)
        self._job.request_stop(checkpoint=True, insist=True)


__all__ = ["EXIT_DEPOSED", "EXIT_FAILED", "EXIT_OK", "OUTCOME_FILE", "Ending", "coordinate", "run_coordinator"]
