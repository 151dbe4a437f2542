"""The ledger for the event loop: each piece of storage work is one awaitable, done in one of two threads.

What decides is done in the storage thread, in the order in which it was asked for. Cleaning up is work that nobody waits for, and looking
whether the job is still ours can wait. Both are done in a thread of their own: where storage does not answer, each request takes
until its retries are used up, and commits would stand behind all of them. Cleaning is queued after the commit that allowed it,
and when storage fails it is tried again with the next. What the two threads share is written in `ledger.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.coordinator.ledger import Base, Foreign, Ledger, Notes, Verdict, checkpoint_folder
from checkdam.coordinator.threads import SerialThread
from checkdam.core.errors import CheckpointError, StorageError
from checkdam.spec.checkpoint import CheckpointStorage
from checkdam.wire.messages import AttemptId

_log = logging.getLogger(__name__)


class Records:
    """What the coordinator's event loop asks of storage.

    Args:
        ledger: Used by nobody else.
        thread: Where what decides is done.
        cleaning: Where the rest is done.
        on_broken: Called with what cleaning up raised, if it was not merely storage that failed: the job must end.
    """

    def __init__(
        self,
        ledger: Ledger,
        thread: SerialThread,
        cleaning: SerialThread,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._ledger = ledger
        self._thread = thread
        self._cleaning = cleaning
        self._on_broken = on_broken
        self._background: set[asyncio.Future[object]] = set()

    @property
    def shared(self) -> bool:
        """Whether workers can reach storage by themselves."""
        return self._ledger.storage.shared

    @property
    def uri(self) -> str:
        """The job's folder in storage."""
        return self._ledger.storage.uri

    @property
    def epoch(self) -> int:
        """The coordinator's epoch."""
        return self._ledger.epoch

    @property
    def doubt(self) -> str:
        """Why it is not known yet whether something was committed; empty if it is."""
        return self._ledger.doubt

    @property
    def notes(self) -> Notes:
        """What the journal holds beside checkpoints."""
        return self._ledger.notes

    @property
    def resumes_stop(self) -> bool:
        """Whether the job goes on from where it had been stopped cleanly."""
        return self._ledger.resumes_stop

    @property
    def last(self) -> Base | None:
        """The last completed checkpoint with its folder."""
        return self._ledger.base

    @property
    def base(self) -> CheckpointManifest | None:
        """The last completed checkpoint."""
        return self._ledger.base.manifest if self._ledger.base is not None else None

    def folder(self, checkpoint: int, attempt: AttemptId, *, savepoint: bool = False) -> str:
        """The folder of a new checkpoint or savepoint."""
        return checkpoint_folder(checkpoint, attempt, savepoint=savepoint)

    async def take_over(
        self, *, fresh: bool, resume: bool, origin: str, again: bool, since_epoch: int, expected: str
    ) -> Verdict:
        """`Ledger.take_over`."""
        return await self._thread.run(
            self._ledger.take_over,
            fresh=fresh,
            resume=resume,
            origin=origin,
            again=again,
            since_epoch=since_epoch,
            expected=expected,
        )

    async def read_base(self) -> Base | None:
        """`Ledger.read_base`."""
        return await self._thread.run(self._ledger.read_base)

    async def fall_back(self, attempt: int) -> Base:
        """`Ledger.fall_back`."""
        return await self._thread.run(self._ledger.fall_back, attempt)

    async def verify(self, folder: str) -> list[str]:
        """`Ledger.verify`."""
        return await self._thread.run(self._ledger.verify, folder)

    async def dispose(self, folder: str) -> None:
        """`Ledger.dispose`."""
        await self._thread.run(self._ledger.dispose, folder)

    async def resume(self) -> None:
        """`Ledger.resume`."""
        await self._thread.run(self._ledger.resume)

    async def open_foreign(self, uri: str, base_folder: Path, options: CheckpointStorage) -> Foreign:
        """`Ledger.open_foreign`."""
        return await self._thread.run(self._ledger.open_foreign, uri, base_folder, options)

    async def adopt(self, foreign: Foreign, folder: str) -> CheckpointManifest:
        """`Ledger.adopt`."""
        return await self._thread.run(self._ledger.adopt, foreign, folder)

    async def commit(
        self,
        folder: str,
        manifest: CheckpointManifest,
        kind: Literal["checkpoint", "stopped"],
        notes: Notes | None = None,
    ) -> None:
        """`Ledger.commit`; what leaves `retained` is deleted in the background."""
        await self._thread.run(self._ledger.commit, folder, manifest, kind, notes)
        self._clean(self._ledger.cleaner.delete_doomed)

    async def save(self, folder: str, manifest: CheckpointManifest) -> None:
        """`Ledger.save`."""
        await self._thread.run(self._ledger.save, folder, manifest)

    async def close(self, kind: Literal["stopped", "finished"], attempt: int) -> None:
        """`Ledger.close`."""
        await self._thread.run(self._ledger.close, kind, attempt)

    async def check(self) -> None:
        """Make sure that this coordinator still owns the job; storage that cannot be reached for now is no news.

        Raises:
            DeposedError: Another coordinator owns the job.
            OutOfTouchError: Storage could not be reached for a day.
        """
        try:
            if not await self._cleaning.run(self._ledger.looks_owned):
                await self._thread.run(self._ledger.check)
        except StorageError as error:
            _log.warning("the journal cannot be reached: %s", error)

    def discard(self, folder: str, uploads: Sequence[str] = ()) -> None:
        """Delete the files of a checkpoint that failed, in the background: `Cleaner.discard`."""
        self._clean(lambda: self._ledger.cleaner.discard(folder, uploads))

    def sweep(self, running: AttemptId) -> None:
        """Delete what attempts before `running` have left, in the background."""
        self._clean(lambda: self._ledger.cleaner.sweep(running))

    def prune(self) -> None:
        """Delete old journal entries, in the background."""
        self._clean(self._ledger.prune)

    async def flush(self, patience_s: float) -> None:
        """Wait for the cleaning that is under way, for at most `patience_s`; what is left is swept by the next coordinator."""
        if self._background:
            await asyncio.wait(self._background, timeout=patience_s)

    def _clean(self, work: Callable[[], object]) -> None:
        future = self._cleaning.run(work)
        self._background.add(future)
        future.add_done_callback(self._cleaned)

    def _cleaned(self, future: asyncio.Future[object]) -> None:
        self._background.discard(future)
        error = None if future.cancelled() else future.exception()
        if isinstance(error, StorageError | CheckpointError):
            _log.warning("cleaning up has to wait: %s", error)
        elif error is not None:
            self._on_broken(error)


__all__ = ["Records"]
