"""A coordinator process: from its configuration to its exit code.

The order matters: the journal is fenced before workers are listened to, and addresses are published after that, so whoever
finds a coordinator finds one that owned the job when it said where it is. The HTTP API is there before, and says what is waited for.

With `linger` it is there afterwards, too, and then every end is one that can be read there, also that of a job that could not begin.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from checkdam.api.entrypoint import INLINE_FOLDER, load_graph
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.checkpoint.transfers import Transfers
from checkdam.coordinator.bootstrap import JobGraph
from checkdam.coordinator.checkpoints import CheckpointRecord
from checkdam.coordinator.config import Addresses, CoordinatorConfig, read_secret, write_atomically
from checkdam.coordinator.ending import (
    EXIT_FAILED,
    EXIT_OK,
    OUTCOME_FILE,
    Ending,
    UnusableHostError,
    ending_of,
    recorded_ending,
)
from checkdam.coordinator.front import Front, Identity
from checkdam.coordinator.http import Api
from checkdam.coordinator.job import Job
from checkdam.coordinator.ledger import Ledger, Verdict
from checkdam.coordinator.openapi import openapi_bytes
from checkdam.coordinator.outcome import Outcome
from checkdam.coordinator.records import Records
from checkdam.coordinator.reservations import Reservations
from checkdam.coordinator.restart import restart_policy
from checkdam.coordinator.retention import Retention
from checkdam.coordinator.signals import Signals
from checkdam.coordinator.threads import SerialThread
from checkdam.core.clock import Clock, SystemClock
from checkdam.core.errors import CheckdamError, DeposedError, DrainedError, StorageError
from checkdam.graph.model import Graph
from checkdam.spec import StreamJob, parse_manifest
from checkdam.wire.messages import AttemptId, Message

_log = logging.getLogger(__name__)

TAKE_OVER_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Between tries of a coordinator that replaces another to fence the journal, while storage fails. The first coordinator of a job
does not wait: there it is a mistake in the manifest more often than an outage."""

_RESERVATIONS_KEPT_MS: Final = 3_600_000
_CLEANING_PATIENCE_S: Final = 5.0


async def run_coordinator(config: CoordinatorConfig) -> int:
    """Run the job's coordinator to its end; returns the exit code of the process.

    Raises:
        CheckdamError: The configuration or a secret file is wrong; without `linger` also: the manifest or the entrypoint is.
    """
    if config.lifeline_fd >= 0:
        # Nobody is there any more to be served; a new run fences this epoch and goes on from its last checkpoint.
        asyncio.get_running_loop().add_reader(config.lifeline_fd, os._exit, EXIT_FAILED)
    clock = SystemClock()
    identity = Identity.of_manifest(config.manifest)
    try:
        job = parse_manifest(config.manifest)
        identity = Identity.of(job)
        ended = recorded_ending(Path(config.run_dir)) if config.linger else None
        if ended is not None and ended.stands:
            return await _serve(config, Front(identity, clock), _nothing_left(ended))
        base_folder = Path(config.base_folder)
        graph = load_graph(job, base_folder, Path(config.run_dir) / INLINE_FOLDER)
        plan = JobGraph.of(job, graph)
        storage = open_storage(job.spec.checkpoint.storage, job.job_id, base=base_folder)
    except CheckdamError as error:
        if not config.linger:
            raise
        return await _serve(config, Front(identity, clock), _nothing_left(ending_of(error, while_loading=True)))
    front = Front(identity, clock)
    return await _serve(config, front, _Coordinator(config, plan, storage, front, clock).run)


async def coordinate(
    config: CoordinatorConfig, job: StreamJob, graph: Graph, storage: Storage, clock: Clock | None = None
) -> int:
    """Run a coordinator whose job, graph and storage are at hand; returns the exit code of the process.

    Raises:
        CheckdamError: The job cannot run in this mode, or a secret file is wrong.
    """
    clock = clock or SystemClock()
    front = Front(Identity.of(job), clock)
    return await _serve(config, front, _Coordinator(config, JobGraph.of(job, graph), storage, front, clock).run)


def _nothing_left(ending: Ending) -> Callable[[Signals, tuple[str, int]], Awaitable[Ending]]:
    """The work of a coordinator that only tells how it ended."""

    async def tell(signals: Signals, http: tuple[str, int]) -> Ending:
        return ending

    return tell


async def _serve(
    config: CoordinatorConfig, front: Front, work: Callable[[Signals, tuple[str, int]], Awaitable[Ending]]
) -> int:
    """Serve the API while `work` is done, and afterwards as long as the configuration says; returns the exit code."""
    signals = Signals(config.on_signal, config.leave_patience_s)
    api = Api(
        front,
        _secret(config, config.token_file),
        _secret(config, config.metrics_token_file) if config.metrics_token_file else b"",
        {config.host, *config.allowed_hosts},
        openapi_bytes(),
    )
    try:
        http = await api.start(config.host, config.http_port)
    except OSError as error:
        raise _unusable(config, error) from error
    signals.install()
    try:
        front.ended = ending = await work(signals, http)
        _tell(config, front.identity.job_id, ending)
        if not config.linger:
            return ending.exit_code
        await signals.linger()
        return EXIT_OK
    finally:
        await api.close()
        signals.remove()


def _tell(config: CoordinatorConfig, job_id: str, ending: Ending) -> None:
    level = logging.INFO if ending.exit_code == EXIT_OK else logging.ERROR
    _log.log(level, "job %s: %s: %s", job_id, ending.state, ending.message)
    try:
        write_atomically(Path(config.run_dir) / OUTCOME_FILE, msgspec.json.encode(ending))
    except OSError as error:
        _log.warning("the outcome could not be written to %s: %s", config.run_dir, error)


def _secret(config: CoordinatorConfig, path: str) -> bytes:
    return read_secret(Path(path), group_may_read=config.group_may_read)


def _unusable(config: CoordinatorConfig, error: OSError) -> UnusableHostError:
    return UnusableHostError(f"the coordinator cannot listen on `host` {config.host}: {error}")


class _Coordinator:
    """Puts the parts together, and takes them apart in the end."""

    def __init__(self, config: CoordinatorConfig, plan: JobGraph, storage: Storage, front: Front, clock: Clock) -> None:
        self._config = config
        self._plan = plan
        self._storage = storage
        self._front = front
        self._clock = clock
        self._secret = _secret(config, config.secret_file)
        self._thread = SerialThread("storage")
        self._cleaning = SerialThread("cleaning")
        self._job: Job | None = None
        # Only storage that does not outlive its coordinator needs epochs from outside.
        journal = Journal(
            storage,
            clock=clock,
            first_seq=1 if storage.shared else config.start_count,
            owner=plan.job.metadata.uid,
            rank=config.start_count,
        )
        checkpoint = plan.job.spec.checkpoint
        retention = Retention(checkpoint.retain, checkpoint.retain_for_ms)
        transfers = Transfers(checkpoint.storage.parallel_transfers)
        ledger = Ledger(storage, plan.job.job_id, retention=retention, journal=journal, transfers=transfers)
        self._records = Records(ledger, self._thread, self._cleaning, self._broken)

    async def run(self, signals: Signals, http: tuple[str, int]) -> Ending:
        """From fencing to the end.

        Args:
            signals: They are told of the job.
            http: Where the API is served.
        """
        config = self._config
        try:
            verdict = await self._take_over()
            if not self._storage.shared and config.start_count > 1:
                _log.warning(
                    "job %s starts afresh: what %s held went with its last coordinator",
                    self._plan.job.job_id,
                    self._storage.uri,
                )
            if verdict != "go":
                return await self._not_begun(verdict)
            outcome = await self._run_job(signals, http)
            code = EXIT_OK if outcome.clean else EXIT_FAILED
            return self._complete(Ending(outcome.state, outcome.message, code), stopped=outcome.journalled)
        except CheckdamError as error:
            return self._complete(ending_of(error), stopped=isinstance(error, DrainedError))
        finally:
            self._cleaning.close()
            if not config.linger:  # otherwise savepoints may still be disposed of
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
                    expected=config.expected_checkpoint,
                )
            except StorageError as error:
                if not pauses_s:
                    raise
                self._front.waiting_for = f"the journal cannot be fenced yet: {error}"
                _log.warning("%s", self._front.waiting_for)
                await asyncio.sleep(pauses_s.pop(0))

    async def _not_begun(self, verdict: Verdict) -> Ending:
        """How it ends where the journal keeps the job from starting."""
        try:
            await self._records.read_base()
        except CheckdamError as error:
            _log.warning("the last checkpoint cannot be read: %s", error)
        if verdict == "finished":
            message = "the job had finished before; `--fresh` or `restoreFrom: Fresh` starts it over"
            return self._complete(Ending("FINISHED", message))
        if verdict == "newer":
            last = self._records.last
            message = (
                f"the job's last checkpoint must be {self._config.expected_checkpoint} (got {last.folder if last else 'none'}): what is newer "
                "would be taken back"
            )
            return self._complete(Ending("FAILED", message, EXIT_FAILED, "NewerCheckpoint"))
        if self._config.resume:
            message = "the job was stopped before this coordinator was started"
            return self._complete(Ending("STOPPED", message), stopped=True)
        message = "the job was stopped and has not been resumed; resume it to go on from its last checkpoint"
        return self._complete(Ending("NOT_RESUMED", message, EXIT_FAILED, "NotResumed"), stopped=True)

    async def _run_job(self, signals: Signals, http: tuple[str, int]) -> Outcome:
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
        self._front.job = signals.job = job
        deposed = False
        try:
            try:
                control = await job.server.start(config.host, config.control_port)
                # Whoever slept since its fence must not lead workers away from its successor.
                await self._records.check()
                self._publish(control, http)
            except OSError as error:
                raise _unusable(config, error) from error
            outcome = await job.run()
            await self._records.flush(_CLEANING_PATIENCE_S)
            return outcome
        except DeposedError:
            deposed = True
            raise
        finally:
            await job.server.close(patience_s=0.0 if deposed else 2.0)

    def _reservations(self) -> Reservations | None:
        if self._plan.job.spec.checkpoint.mode != "AtMostOnce":
            return None
        journal = Journal(self._storage, "reservations", clock=self._clock, retention_ms=_RESERVATIONS_KEPT_MS)
        # In a thread of their own: neither do commits wait for them, nor they for commits.
        return Reservations(journal, SerialThread("reservations"), self._send_reserved)

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

    def _complete(self, ending: Ending, *, stopped: bool = False) -> Ending:
        """The ending with what is known of the last checkpoint."""
        last = self._records.last
        if last is None:
            return msgspec.structs.replace(ending, epoch=self._records.epoch)
        view = self._job.view() if self._job is not None else None
        record = view.last_checkpoint if view is not None else None
        return msgspec.structs.replace(
            ending,
            checkpoint=last.folder,
            last_checkpoint=last.manifest.id,
            drained=last.manifest.drained,
            stopped_with=f"{self._records.uri}/{last.folder}" if stopped else "",
            restored_from=view.restored_from if view is not None else "",
            epoch=self._records.epoch,
            record=record or CheckpointRecord.restored(last.folder, last.manifest),
        )


__all__ = ["coordinate", "run_coordinator"]
