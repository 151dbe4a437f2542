"""Where an epoch starts from: a checkpoint that the journal holds before anything is read.

The journal's last checkpoint will do as it is if it fits the graph. If there is none, if the user asks for another one, or
if the graph has a source that it knows nothing of, the coordinator makes one by itself: relative starting points are
resolved into splits once, in it, so that a crash right after does not resolve them again and skip what came between.
Without any checkpoint before, it is number 0.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from checkdam.checkpoint.manifest import FORMAT_VERSION, CheckpointManifest, SourceSnapshot
from checkdam.connectors.base import Split
from checkdam.coordinator.adoption import with_event_time_back, without_committables
from checkdam.coordinator.compatibility import check_compatible
from checkdam.coordinator.ledger import Base, Notes
from checkdam.coordinator.records import Records
from checkdam.coordinator.reservations import Reservations
from checkdam.coordinator.splits import Enumerator
from checkdam.coordinator.threads import SerialThread
from checkdam.core.clock import Clock
from checkdam.core.errors import (
    CheckdamError,
    CorruptCheckpointError,
    DrainedError,
    SourceError,
)
from checkdam.graph.model import Graph
from checkdam.graph.modes import check_mode
from checkdam.graph.plan import fingerprint, operator_infos
from checkdam.spec import StreamJob
from checkdam.state.backends import writes_anew
from checkdam.wire.messages import AttemptId

_log = logging.getLogger(__name__)

BOOTSTRAP_ATTEMPT: Final = 0
"""The attempt that the coordinator's own checkpoint belongs to; those of workers count from 1."""


@dataclass(frozen=True)
class JobGraph:
    """A job and its graph, with what checkpoints say of them.

    Attributes:
        job: The StreamJob.
        graph: As the user built it.
        fingerprint: Of the graph.
    """

    job: StreamJob
    graph: Graph
    fingerprint: str

    @classmethod
    def of(cls, job: StreamJob, graph: Graph) -> JobGraph:
        """The job with its graph.

        Raises:
            PipelineError: The mode is AtMostOnce and a source cannot reserve.
        """
        check_mode(graph, job.spec.checkpoint.mode)
        return cls(job, graph, fingerprint(graph))

    def enumerators(self) -> dict[str, Enumerator]:
        """An enumerator for each source, knowing no split yet."""
        return {
            node.id: Enumerator(node.id, node.source.source)
            for node in self.graph.nodes.values()
            if node.source is not None
        }

    def draft(
        self,
        checkpoint: int,
        attempt: AttemptId,
        parallelism: int,
        created_ms: int,
        base: CheckpointManifest | None = None,
    ) -> CheckpointManifest:
        """The manifest of a checkpoint without anything that workers or enumerators say.

        Args:
            checkpoint: Its number.
            attempt: Who takes it.
            parallelism: How many workers the attempt has.
            created_ms: Wall clock.
            base: The checkpoint before it: what its values were written as stays on record where they are not written anew.
        """
        spec = self.job.spec
        kept = () if base is None or writes_anew(spec.state_backend.type) else base.operators
        return CheckpointManifest(
            version=FORMAT_VERSION,
            job_id=self.job.job_id,
            id=checkpoint,
            epoch=attempt.epoch,
            attempt=attempt.attempt,
            parallelism=parallelism,
            max_parallelism=spec.max_parallelism,
            mode=spec.checkpoint.mode,
            created_ms=created_ms,
            fingerprint=self.fingerprint,
            operators=operator_infos(self.graph, kept),
        )

    def judge(self, manifest: CheckpointManifest, where: str, *, committed: bool) -> None:
        """Check that `manifest` can be restored.

        Raises:
            IncompatibleCheckpointError: It cannot.
        """
        spec = self.job.spec
        check_compatible(
            manifest,
            self.graph,
            where=where,
            job_id=self.job.job_id,
            max_parallelism=spec.max_parallelism,
            allow_non_restored=spec.allow_non_restored_state,
            committed=committed,
        )


class Bootstrap:
    """Finds or makes the checkpoint that an epoch starts from.

    Args:
        plan: The job and its graph.
        records: The job's records; the journal is fenced.
        discovery: The thread in which sources look for splits.
        enumerators: By source id; they know all splits of new sources afterwards.
        clock: For the time of the checkpoint.
        base_folder: What relative uris are relative to.
        reservations: Of AtMostOnce.
    """

    def __init__(
        self,
        plan: JobGraph,
        records: Records,
        discovery: SerialThread,
        enumerators: dict[str, Enumerator],
        clock: Clock,
        base_folder: Path,
        reservations: Reservations | None,
    ) -> None:
        self._plan = plan
        self._records = records
        self._discovery = discovery
        self._enumerators = enumerators
        self._clock = clock
        self._base_folder = base_folder
        self._reservations = reservations

    async def run(self, restore_from: str, origin: str, *, again: bool) -> Base:
        """The checkpoint to start from, journalled.

        Args:
            restore_from: Uri of the checkpoint that the user wants; empty for the journal's.
            origin: Names the user's wish to start over or from there; empty if there is none.
            again: This coordinator replaces one that was started with the same wish.

        Raises:
            CheckpointError: It is damaged or does not fit; says what to do.
            StorageError, DeposedError: The journal could not be read or written.
            SourceError: A source could not find its splits.
        """
        records = self._records
        base = await self._journalled()
        fulfilled = again and bool(origin) and records.notes.origin == origin
        by_wish = bool(restore_from) and not fulfilled
        if self._reservations is not None:
            # Before any entry from which reading may follow: a crash in between finds the same reasons again.
            await self._reservations.take_over(void=base is None or by_wish or records.resumes_stop)
        if by_wish:
            return await self._adopt(restore_from, origin, base)
        if base is None:
            return await self._commit(self._draft(0), Notes(origin=origin))
        where = f"the checkpoint {records.uri}/{base.folder}"
        if base.manifest.drained:
            raise DrainedError(
                f"{where} is a savepoint for which the job was drained: windows have fired in it before they were complete, so the "
                "job does not go on from it by itself; to let it go on all the same name the savepoint in `restoreFrom` "
                "(`--restore-from`), or start over"
            )
        self._plan.judge(base.manifest, where, committed=records.notes.committed >= base.manifest.id)
        if records.resumes_stop:
            await records.resume()
        if all(source_id in base.manifest.sources for source_id in self._enumerators):
            return base
        return await self._commit(self._onto(base.manifest, base.manifest.id + 1), records.notes)

    async def _journalled(self) -> Base | None:
        """The journal's checkpoint, or the one before if that is damaged and the user lets us."""
        try:
            return await self._records.read_base()
        except CorruptCheckpointError as error:
            return await fall_back_or_raise(self._plan.job, self._records, [str(error)], BOOTSTRAP_ATTEMPT)

    async def _adopt(self, uri: str, origin: str, base: Base | None) -> Base:
        storage = self._plan.job.spec.checkpoint.storage
        foreign = await self._records.open_foreign(uri, self._base_folder, storage)
        self._plan.judge(foreign.manifest, f"the checkpoint {uri}", committed=foreign.manifest.committed)
        number = max(foreign.manifest.id, -1 if base is None else base.manifest.id) + 1
        draft = self._onto(foreign.manifest, number)
        adopted = await self._records.adopt(foreign, self._folder(draft))
        if adopted.committed:
            adopted = without_committables(adopted)
        if adopted.drained:
            adopted = with_event_time_back(adopted)
        draft = msgspec.structs.replace(draft, subtasks=adopted.subtasks)
        return await self._commit(draft, Notes(origin=origin, restored_from=uri))

    async def _commit(self, manifest: CheckpointManifest, notes: Notes) -> Base:
        """Find the splits of sources that `manifest` knows nothing of, and commit it with them."""
        sources: dict[str, SourceSnapshot] = {}
        for source_id, enumerator in self._enumerators.items():
            known = manifest.sources.get(source_id)
            if known is None:
                enumerator.found(await self._splits(enumerator))
                known = enumerator.snapshot()
                manifest = msgspec.structs.replace(manifest, final=False)
                _log.info("source `%s` has %d splits", source_id, len(known.seen))
            sources[source_id] = known
        manifest = msgspec.structs.replace(manifest, sources=sources)
        await self._records.commit(self._folder(manifest), manifest, "checkpoint", notes)
        return Base(self._folder(manifest), manifest)

    async def _splits(self, enumerator: Enumerator) -> list[Split]:
        try:
            return await self._discovery.run(enumerator.source.splits, self._plan.job.spec.parallelism)
        except CheckdamError:
            raise
        except Exception as error:
            # A user's own source: whatever it raises, it is the reason why the job cannot start.
            raise SourceError(f"source `{enumerator.source_id}` cannot find its splits: {error!r}") from error

    def _folder(self, manifest: CheckpointManifest) -> str:
        return self._records.folder(manifest.id, AttemptId(manifest.epoch, manifest.attempt))

    def _draft(self, checkpoint: int) -> CheckpointManifest:
        attempt = AttemptId(self._records.epoch, BOOTSTRAP_ATTEMPT)
        return self._plan.draft(checkpoint, attempt, self._plan.job.spec.parallelism, self._clock.now_ms())

    def _onto(self, manifest: CheckpointManifest, checkpoint: int) -> CheckpointManifest:
        """`manifest` as a checkpoint of this job and graph."""
        return msgspec.structs.replace(
            self._draft(checkpoint),
            # Of those who wrote its snapshots: an attempt with another parallelism redistributes them.
            parallelism=manifest.parallelism,
            operators=operator_infos(self._plan.graph, manifest.operators),
            sources=manifest.sources,
            subtasks=manifest.subtasks,
            processing_time_ms=manifest.processing_time_ms,
            final=manifest.final,
        )


async def fall_back_or_raise(job: StreamJob, records: Records, problems: list[str], attempt: int) -> Base:
    """The newest checkpoint is damaged: go back to the one before if the job says so, else raise.

    Raises:
        CorruptCheckpointError: `onCorrupt` is Fail, or there is none before; names the files and the remedies.
    """
    found = "\n".join(problems)
    if job.spec.checkpoint.on_corrupt != "FallBack":
        raise CorruptCheckpointError(
            f"the newest checkpoint is damaged:\n{found}\nput the files back, or set `spec.checkpoint.onCorrupt: FallBack` to go on "
            "from the one before (output since then repeats), or restore another checkpoint"
        )
    base = await records.fall_back(attempt)
    _log.warning(
        "the newest checkpoint is damaged: %s; going on from %s, and output since then repeats", found, base.folder
    )
    return base


__all__ = ["BOOTSTRAP_ATTEMPT", "Bootstrap", "JobGraph", "fall_back_or_raise"]
