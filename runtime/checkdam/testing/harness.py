"""Runs a whole pipeline in the calling thread: the same plan, task loops, channels, operators and snapshots as a job.

What a coordinator does in a job, the harness does on demand: it gives out splits, triggers checkpoints, commits them, and
after a crash builds everything anew from the last one. Nothing happens between two calls, so a test sees every state.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from checkdam.api.entrypoint import build_graph
from checkdam.checkpoint.manifest import FORMAT_VERSION, CheckpointManifest, SourceSnapshot, SubtaskSnapshot
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.connectors.callbacks import CollectSink, forget_collected
from checkdam.core.clock import ManualClock
from checkdam.core.errors import CheckdamError, CheckpointError
from checkdam.graph.model import Graph
from checkdam.graph.plan import fingerprint, make_plan, operator_infos
from checkdam.operators.base import CommittingOperator
from checkdam.operators.sink import DirectSinkOperator, TwoPhaseSinkOperator
from checkdam.state.backends import BackendKind, make_backend
from checkdam.state.base import KeyedBackend, LocalFile
from checkdam.testing.checked_state import CheckedBackend
from checkdam.testing.loopback import ImmediateExecutor, LoopbackHub, LoopbackNetwork
from checkdam.testing.sources import ScriptedSource
from checkdam.wire.messages import Abort, Ack, AssignSplits, AttemptId, Complete, Decline, Message, Start, Trigger
from checkdam.worker.assemble import Surroundings, WorkerSettings, assemble
from checkdam.worker.commits import CommitThread
from checkdam.worker.loop import TaskLoop
from checkdam.worker.snapshots import Snapshotter


class _Port:
    """Splits are given out by the harness at the start; nothing has to be asked for."""

    def request_splits(self, source: str) -> None: ...

    def finished_splits(self, source: str, splits: list[str]) -> None: ...

    def reserve(self, source: str, positions: dict[str, Any]) -> None: ...


class Harness:
    """A pipeline under test.

    Args:
        build: The build function, `build(pipeline, args)`.
        args: Its arguments.
        parallelism: How many workers to play.
        backend: `hashmap` or `rocksdb`.
        mode: `ExactlyOnce` or `AtLeastOnce`.
        clock: Processing time; a new `ManualClock` at 0 by default.
        batch_records: The most records of a batch.
        credit_bytes: Credit of each channel.
        check_state: Whether state that was changed without `update()` is an error.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        build: Callable[[Any, dict[str, Any]], None],
        *,
        args: dict[str, Any] | None = None,
        parallelism: int = 1,
        max_parallelism: int = 128,
        backend: BackendKind = "hashmap",
        mode: str = "ExactlyOnce",
        clock: ManualClock | None = None,
        batch_records: int = 4096,
        credit_bytes: int = 512 * 1024,
        check_state: bool = True,
    ) -> None:
        self.clock = clock or ManualClock()
        self.last_checkpoint: CheckpointManifest | None = None
        self.graph: Graph = build_graph(build, args or {})
        self._plan = make_plan(self.graph)
        self._parallelism = parallelism
        self._max_parallelism = max_parallelism
        self._backend = backend
        self._mode = mode
        self._batch_records = batch_records
        self._credit_bytes = credit_bytes
        self._check_state = check_state
        self._folder = tempfile.TemporaryDirectory(prefix="checkdam-harness-")
        self._attempt = 0
        self._checkpoint = 0
        self._messages: list[Message] = []
        self._loops: list[TaskLoop] = []
        for sink in self._collect_sinks():
            forget_collected(sink.name)
        self._deploy()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> None:
        """Run until nothing more can be done: scripts are at a pause or at their end. Raises what the pipeline raises."""
        for node in self.graph.nodes.values():
            if node.source is not None and isinstance(node.source.source, ScriptedSource):
                node.source.source.round += 1
        # Readers that had nothing to give are asked again after their wait hint.
        self.clock.advance(10)
        self.settle()

    def settle(self) -> None:
        """Run until nothing more can be done, without letting time or scripts go on."""
        while any([loop.run_once() for loop in self._loops]):
            pass

    def step(self) -> bool:
        """Let every worker do one step; False if none had anything to do."""
        return any([loop.run_once() for loop in self._loops])

    def advance(self, by_ms: int) -> None:
        """Let time pass and run what is due."""
        self.clock.advance(by_ms)
        self.settle()

    def checkpoint(self, *, commit: bool = True) -> CheckpointManifest:
        """Take a checkpoint; with `commit` it completes and sinks commit, without it crashes right before.

        Raises:
            CheckpointError: A worker declined it.
        """
        self.trigger()
        self.settle()
        return self.complete(commit=commit)

    def trigger(self) -> int:
        """Send the barriers of a new checkpoint on their way; returns its number."""
        self._checkpoint += 1
        self._messages.clear()
        for loop in self._loops:
            loop.post(Trigger(loop.attempt, self._checkpoint, f"chk-{self._checkpoint}", 0))
        return self._checkpoint

    def abort(self) -> None:
        """Abort the checkpoint that was triggered."""
        for loop in self._loops:
            loop.post(Abort(loop.attempt, self._checkpoint))
        self.settle()

    def complete(self, *, commit: bool = True) -> CheckpointManifest:
        """Complete the checkpoint that was triggered, whose barriers have all arrived."""
        declined = [message.error for message in self._messages if isinstance(message, Decline)]
        if declined:
            self.abort()
            raise CheckpointError(f"checkpoint {self._checkpoint} was declined: {'; '.join(declined)}")
        acks = [message for message in self._messages if isinstance(message, Ack)]
        if len(acks) != self._parallelism:
            raise CheckpointError(f"only {len(acks)} of {self._parallelism} workers have acknowledged")
        self.last_checkpoint = self._manifest([s for ack in acks for s in ack.snapshots])
        if commit:
            for loop in self._loops:
                loop.post(Complete(loop.attempt, self._checkpoint))
            self.settle()
        return self.last_checkpoint

    def crash(self) -> None:
        """Lose everything that is in no checkpoint, and restore the last one (or start afresh)."""
        self._drop()
        self._deploy()

    def finish(self) -> dict[str, list[Any]]:
        """Run to the end of all input, take the final checkpoint, and return what the `CollectSink`s hold, by sink name.

        Raises:
            CheckdamError: The input does not end.
        """
        for _ in range(10_000):
            self.run()
            if self.ended:
                self.checkpoint()
                return self.collected()
        raise CheckdamError("the pipeline does not end: is a source unbounded, or does a script pause for ever?")

    @property
    def ended(self) -> bool:
        """Whether all input has ended and everything was handed on."""
        return all(subtask.ended for loop in self._loops for subtask in loop.subtasks)

    def collected(self) -> dict[str, list[Any]]:
        """What the pipeline's `CollectSink`s hold now, by sink name."""
        return {sink.name: sink.values for sink in self._collect_sinks()}

    def close(self) -> None:
        """End the pipeline and remove its files."""
        self._drop()
        self._folder.cleanup()

    def _collect_sinks(self) -> list[CollectSink[Any]]:
        operators = [node.factory() for node in self.graph.nodes.values() if node.factory and node.kind == "sink"]
        sinks = [op.sink for op in operators if isinstance(op, DirectSinkOperator | TwoPhaseSinkOperator)]
        return [sink for sink in sinks if isinstance(sink, CollectSink)]

    def _drop(self) -> None:
        for loop in self._loops:
            loop.close()
        self._loops = []

    def _deploy(self) -> None:
        self._attempt += 1
        hub = LoopbackHub()
        self._loops = [self._worker(index, hub) for index in range(self._parallelism)]
        for loop in self._loops:
            for subtask in loop.subtasks:
                for operator in subtask.operators:
                    if isinstance(operator, CommittingOperator):
                        operator.restored_commit()()
        for loop in self._loops:
            loop.post(Start(loop.attempt))
        self._assign()

    def _assign(self) -> None:
        seen = {} if self.last_checkpoint is None else self.last_checkpoint.sources
        for node in self.graph.nodes.values():
            if node.source is None:
                continue
            source = node.source.source
            known = seen[node.id].seen if node.id in seen else []
            fresh = [s for s in source.splits(self._parallelism) if s.id not in known]
            for index, loop in enumerate(self._loops):
                own = [(s.id, s.payload, None) for s in fresh[index :: self._parallelism]]
                loop.post(AssignSplits(loop.attempt, node.id, own, exhausted=True, more=not source.bounded))

    def _worker(self, index: int, hub: LoopbackHub) -> TaskLoop:
        attempt = AttemptId(1, self._attempt)
        folder = Path(self._folder.name) / f"{attempt}-{index}"
        folder.mkdir()
        executor = ImmediateExecutor()
        storage = MemoryStorage()
        snapshots = Snapshotter(
            attempt, index, len(self._plan.stages), storage, folder, self._messages.append, self.clock, executor
        )
        loop: TaskLoop

        def fail(error: BaseException) -> None:
            raise error

        commits = CommitThread(lambda done: loop.post(done), fail, executor)
        loop = TaskLoop(attempt, [], snapshots, commits, self._messages.append, self.clock)
        settings = WorkerSettings(
            index,
            self._parallelism,
            self._max_parallelism,
            str(attempt),
            self._mode,
            self._credit_bytes,
            self._batch_records,
        )
        around = Surroundings(
            network=LoopbackNetwork(hub, index),
            clock=self.clock,
            port=_Port(),
            make_backend=lambda stage, groups: self._make_backend(folder / "state" / stage, groups),
            fetch=lambda snapshot: _inline_files(snapshot, folder / "restore" / snapshot.stage),
            wake=loop.wake,
            on_barrier=loop.on_barrier,
        )
        loop.adopt(assemble(self._plan, settings, around, _part_of(self.last_checkpoint, index)))
        return loop

    def _make_backend(self, directory: Path, groups: range) -> KeyedBackend:
        directory.mkdir(parents=True)
        backend = make_backend(
            self._backend, groups, self._max_parallelism, directory, clock=self.clock, memory_bytes=64 << 20
        )
        return CheckedBackend(backend) if self._check_state else backend

    def _manifest(self, snapshots: list[SubtaskSnapshot]) -> CheckpointManifest:
        sources = {
            node.id: SourceSnapshot(seen=[s.id for s in node.source.source.splits(self._parallelism)])
            for node in self.graph.nodes.values()
            if node.source is not None
        }
        return CheckpointManifest(
            version=FORMAT_VERSION,
            job_id="test",
            id=self._checkpoint,
            epoch=1,
            attempt=self._attempt,
            parallelism=self._parallelism,
            max_parallelism=self._max_parallelism,
            mode=self._mode,
            created_ms=self.clock.now_ms(),
            processing_time_ms=self.clock.now_ms(),
            fingerprint=fingerprint(self.graph),
            operators=operator_infos(self.graph),
            sources=sources,
            subtasks=snapshots,
        )


def _part_of(manifest: CheckpointManifest | None, index: int) -> CheckpointManifest | None:
    if manifest is None:
        return None
    return msgspec.structs.replace(manifest, subtasks=manifest.of_subtask(index))


def _inline_files(snapshot: SubtaskSnapshot, folder: Path) -> list[LocalFile]:
    files = []
    for handle in snapshot.files:
        path = folder / handle.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(handle.inline or b"")
        files.append(LocalFile(handle.name, path, handle.size_bytes, handle.sha256, handle.key_group_offsets))
    return files
