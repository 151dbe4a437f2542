"""Runs a whole pipeline in the calling thread: the same plan, task loops, channels, operators and snapshots as a job.

What a coordinator does in a job, the harness does on demand: it gives out splits, triggers checkpoints, commits them, and
after a crash builds everything anew from the last one. Nothing happens between two calls, so a test sees every state.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from checkdam.api.entrypoint import build_graph
from checkdam.checkpoint.manifest import FORMAT_VERSION, CheckpointManifest, SourceSnapshot, SubtaskSnapshot
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.stored import FetchedSnapshot
from checkdam.connectors.base import Split
from checkdam.connectors.callbacks import CollectSink, forget_collected
from checkdam.coordinator.compatibility import check_compatible
from checkdam.coordinator.redistribution import redistribute
from checkdam.core.clock import ManualClock
from checkdam.core.errors import CheckdamError, CheckpointError, PipelineError
from checkdam.graph.model import Graph
from checkdam.graph.modes import check_mode
from checkdam.graph.plan import fingerprint, make_plan, operator_infos
from checkdam.operators.base import CommittingOperator
from checkdam.operators.sink import DirectSinkOperator, TwoPhaseSinkOperator
from checkdam.state.backends import BackendKind, make_backend, writes_anew
from checkdam.state.base import KeyedBackend
from checkdam.testing.checked_state import CheckedBackend
from checkdam.testing.loopback import ImmediateExecutor, LoopbackHub, LoopbackNetwork, LoopbackPort
from checkdam.testing.sources import ScriptedSource
from checkdam.wire.messages import (
    Abort,
    Ack,
    AssignSplits,
    AttemptId,
    Complete,
    Decline,
    Message,
    Reserved,
    Start,
    Trigger,
)
from checkdam.worker.assemble import Surroundings, WorkerSettings, assemble
from checkdam.worker.checkpoint_files import CheckpointFiles
from checkdam.worker.commits import CommitThread
from checkdam.worker.loop import TaskLoop
from checkdam.worker.snapshots import Snapshotter

M = TypeVar("M", bound=Message)

MODES: Final = ("ExactlyOnce", "AtLeastOnce", "AtMostOnce")
"""How a pipeline may treat failures."""


class Harness:
    """A pipeline under test.

    Args:
        build: The build function, `build(pipeline, args)`.
        args: Its arguments.
        parallelism: How many workers to play.
        max_parallelism: How many key groups there are.
        backend: `hashmap` or `rocksdb`.
        mode: `ExactlyOnce`, `AtLeastOnce` or `AtMostOnce`.
        clock: Processing time; a new `ManualClock` at 0 by default.
        batch_records: The most records of a batch.
        credit_bytes: Credit of each channel.
        check_state: Whether state that was changed without `update()` is an error.
        calls_timeout_s: How long `run` waits, in real time, for the calls of `map_async`.

    Use it as a context manager, or call `close`.

    Raises:
        CheckdamError: An argument is not allowed, or the pipeline cannot be built.
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
        calls_timeout_s: float = 10.0,
    ) -> None:
        _check_arguments(parallelism, max_parallelism, mode)
        self.clock = clock or ManualClock()
        self.last_checkpoint: CheckpointManifest | None = None
        self._args = args or {}
        self.graph: Graph = build_graph(build, self._args)
        self._plan = make_plan(self.graph)
        self._parallelism = parallelism
        self._max_parallelism = max_parallelism
        self._backend = backend
        self._mode = mode
        self._batch_records = batch_records
        self._credit_bytes = credit_bytes
        self._check_state = check_state
        self._calls_timeout_s = calls_timeout_s
        self._woken = threading.Event()
        self._reserved: dict[str, dict[str, Any]] = {}
        self._checked: list[CheckedBackend] = []
        check_mode(self.graph, mode)
        self._splits: dict[str, list[Split]] = {}
        self._find_splits()
        self._folder = tempfile.TemporaryDirectory(prefix="checkdam-harness-")
        self._attempt = 0
        self._checkpoint = 0
        self._committed = 0
        self._messages: list[Message] = []
        self._loops: list[TaskLoop] = []
        self._forget_collected(set())
        try:
            self._deploy()
        except BaseException:
            self.close()
            raise

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
        self._settle_with_calls(lambda: False)

    def settle(self) -> None:
        """Run until nothing more can be done, without letting time or scripts go on."""
        while self.step():
            pass

    def step(self) -> bool:
        """Let every worker do one step; False if none had anything to do."""
        worked = [loop.run_once() for loop in self._loops]
        return any(worked)

    def advance(self, by_ms: int) -> None:
        """Let time pass and run what is due."""
        self.clock.advance(by_ms)
        self.settle()

    def checkpoint(self, *, commit: bool = True) -> CheckpointManifest:
        """Take a checkpoint; with `commit` it completes and sinks commit, without it crashes right before.

        Raises:
            CheckpointError: A worker declined it.
            UnannouncedChangeError: State was changed without `update()`.
        """
        self.trigger()
        # A barrier can be behind records that `map_async` has no room for.
        self._settle_with_calls(lambda: len(self._messages_of(Ack, Decline)) == self._parallelism)
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
        """Complete the checkpoint that was triggered, whose barriers have all arrived.

        Raises:
            CheckpointError: A worker declined it, or a barrier has not arrived everywhere.
            UnannouncedChangeError: State was changed without `update()`.
        """
        for backend in self._checked:
            backend.check()
        declined = [message.error for message in self._messages_of(Decline)]
        if declined:
            self.abort()
            raise CheckpointError(f"checkpoint {self._checkpoint} was declined: {'; '.join(declined)}")
        acks = self._messages_of(Ack)
        if len(acks) != self._parallelism:
            raise CheckpointError(
                f"only {len(acks)} of {self._parallelism} workers have acknowledged checkpoint {self._checkpoint}; "
                "let the pipeline run until all barriers have arrived (`settle`)"
            )
        self.last_checkpoint = self._manifest([s for ack in acks for s in ack.snapshots])
        if commit:
            for loop in self._loops:
                loop.post(Complete(loop.attempt, self._checkpoint))
            self.settle()
            self._committed = self._checkpoint
        return self.last_checkpoint

    def crash(self, *, parallelism: int | None = None) -> None:
        """Lose everything that is in no checkpoint, and restore the last one (or start afresh).

        Args:
            parallelism: How many workers to play from now on; `None` for as many as before. State, splits and committables are
                redistributed as in a job.

        Raises:
            PipelineError: `parallelism` is not in 1..`max_parallelism`.
        """
        if parallelism is not None:
            _check_arguments(parallelism, self._max_parallelism, self._mode)
            self._parallelism = parallelism
        self._drop()
        self._deploy()

    def rescale(self, parallelism: int) -> None:
        """Take a checkpoint, which completes, and go on from it with another parallelism.

        Raises:
            PipelineError: `parallelism` is not in 1..`max_parallelism`.
            CheckpointError, UnannouncedChangeError: As `checkpoint`.
        """
        _check_arguments(parallelism, self._max_parallelism, self._mode)
        self.checkpoint()
        self.crash(parallelism=parallelism)

    def upgrade(
        self,
        build: Callable[[Any, dict[str, Any]], None],
        *,
        args: dict[str, Any] | None = None,
        allow_non_restored_state: bool = False,
    ) -> None:
        """Go on with another pipeline from the last checkpoint, as a job does whose code has changed since.

        Where it is refused, the harness goes on with the pipeline that it had.

        Args:
            build: The new build function.
            args: Its arguments; `None` for the same as before.
            allow_non_restored_state: As `spec.allowNonRestoredState`: state may be dropped, and operators may start empty.

        Raises:
            IncompatibleCheckpointError: The checkpoint does not fit the new pipeline, or types of state have changed in a way
                that stored values cannot follow.
            CheckdamError: There is no checkpoint yet, or the pipeline cannot be built.
        """
        manifest = self.last_checkpoint
        if manifest is None:
            raise CheckpointError("there is no checkpoint to go on from; call `checkpoint` first")
        args = self._args if args is None else args
        graph = build_graph(build, args)
        check_mode(graph, self._mode)
        check_compatible(
            manifest,
            graph,
            where=f"checkpoint {manifest.id}",
            job_id=manifest.job_id,
            max_parallelism=self._max_parallelism,
            allow_non_restored=allow_non_restored_state,
            committed=self._committed >= manifest.id,
        )
        self._drop()
        sinks = set(self.collected())
        self._args, self.graph, self._plan = args, graph, make_plan(graph)
        self._forget_collected(sinks)
        self._find_splits()
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
            if self._calls_under_way():
                raise CheckdamError(f"calls of `map_async` have not finished within {self._calls_timeout_s:g} s")
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
        self._checked = []

    def _settle_with_calls(self, enough: Callable[[], bool]) -> None:
        """Run until nothing more can be done, and, until that is enough, wait for calls of `map_async` and run on."""
        self.settle()
        deadline = time.monotonic() + self._calls_timeout_s
        while not enough() and self._calls_under_way() and self._woken.wait(deadline - time.monotonic()):
            self._woken.clear()
            self.settle()

    def _messages_of(self, *kinds: type[M]) -> list[M]:
        """What workers have said since the last trigger, of some kinds."""
        return [message for message in self._messages if isinstance(message, kinds)]

    def _calls_under_way(self) -> bool:
        return any(op.has_pending() for loop in self._loops for subtask in loop.subtasks for op in subtask.operators)

    def _forget_collected(self, known: set[str]) -> None:
        """Empty the `CollectSink`s but the `known` ones: what other tests have left is kept by name."""
        for sink in self._collect_sinks():
            if sink.name not in known:
                forget_collected(sink.name)

    def _find_splits(self) -> None:
        """Once for each source, as in a job: at another parallelism a source might cut its input otherwise."""
        self._splits = {
            node.id: self._splits.get(node.id) or node.source.source.splits(self._parallelism)
            for node in self.graph.nodes.values()
            if node.source is not None
        }

    def _deploy(self) -> None:
        self._attempt += 1
        hub = LoopbackHub()
        parts = self._parts_of_checkpoint()
        self._loops = [self._worker(index, hub, part) for index, part in enumerate(parts)]
        for loop in self._loops:
            for subtask in loop.subtasks:
                for operator in subtask.operators:
                    if isinstance(operator, CommittingOperator):
                        operator.restored_commit()()
        self._committed = self._checkpoint
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
            fresh = [s for s in self._splits[node.id] if s.id not in known]
            for index, loop in enumerate(self._loops):
                reserved = self._reserved.get(node.id, {})
                own = [(s.id, s.payload, reserved.get(s.id)) for s in fresh[index :: self._parallelism]]
                loop.post(AssignSplits(loop.attempt, node.id, own, exhausted=True, more=not source.bounded))

    def _worker(self, index: int, hub: LoopbackHub, part: CheckpointManifest | None) -> TaskLoop:
        attempt = AttemptId(1, self._attempt)
        folder = Path(self._folder.name) / f"{attempt}-{index}"
        folder.mkdir()
        executor = ImmediateExecutor()
        files = CheckpointFiles(MemoryStorage())
        snapshots = Snapshotter(
            attempt, index, len(self._plan.stages), files, folder, self._messages.append, self.clock, executor
        )
        loop: TaskLoop

        def fail(error: BaseException) -> None:
            def raise_it() -> None:
                raise error

            loop.post(raise_it)

        def grant(source: str, positions: dict[str, Any]) -> None:
            loop.post(Reserved(attempt, source, positions))

        def wake() -> None:
            loop.wake()
            self._woken.set()

        commits = CommitThread(lambda done: loop.post(done), fail, executor, pauses_s=(0.0,) * 5)
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
            port=LoopbackPort(self._reserved, grant),
            make_backend=lambda stage, groups: self._make_backend(folder / "state" / stage, groups),
            stored=lambda snapshot: FetchedSnapshot(
                snapshot, folder / "restore" / f"{snapshot.stage}-{snapshot.subtask}", files.fetch
            ),
            wake=wake,
            on_barrier=loop.on_barrier,
        )
        loop.adopt(assemble(self._plan, settings, around, part))
        return loop

    def _parts_of_checkpoint(self) -> Sequence[CheckpointManifest | None]:
        """What each worker restores: its part of the last checkpoint, and what has been reserved since."""
        manifest = self.last_checkpoint
        if manifest is None:
            return [None] * self._parallelism
        sources = {
            source: msgspec.structs.replace(snapshot, reserved=self._reserved.get(source, {}))
            for source, snapshot in manifest.sources.items()
        }
        return [
            msgspec.structs.replace(manifest, subtasks=part, sources=sources)
            for part in redistribute(manifest, self.graph, self._parallelism)
        ]

    def _make_backend(self, directory: Path, groups: range) -> KeyedBackend:
        directory.mkdir(parents=True)
        backend = make_backend(
            self._backend, groups, self._max_parallelism, directory, clock=self.clock, memory_bytes=64 << 20
        )
        if not self._check_state:
            return backend
        checked = CheckedBackend(backend)
        self._checked.append(checked)
        return checked

    def _manifest(self, snapshots: list[SubtaskSnapshot]) -> CheckpointManifest:
        before = self.last_checkpoint
        kept = () if before is None or writes_anew(self._backend) else before.operators
        sources = {
            source_id: SourceSnapshot(seen=[split.id for split in splits]) for source_id, splits in self._splits.items()
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
            operators=operator_infos(self.graph, kept),
            sources=sources,
            subtasks=snapshots,
        )


def _check_arguments(parallelism: int, max_parallelism: int, mode: str) -> None:
    if mode not in MODES:
        raise PipelineError(f"`mode` must be one of {', '.join(MODES)} (got {mode!r})")
    if not 1 <= parallelism <= max_parallelism:
        raise PipelineError(
            f"`parallelism` must be in 1..{max_parallelism}, which is `max_parallelism` (got {parallelism})"
        )
