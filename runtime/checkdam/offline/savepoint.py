"""Reading a checkpoint or savepoint without a job.

A `Savepoint` knows the manifest. Keyed state is fetched, verified and decoded one subtask at a time while the caller iterates, in
the order of key groups, into a temporary folder that goes with the iterator: so memory is bounded by a block, and disk by the
state of one subtask.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from checkdam.api.entrypoint import build_graph
from checkdam.api.pipeline import Pipeline
from checkdam.checkpoint.manifest import CheckpointManifest, SubtaskSnapshot
from checkdam.checkpoint.opening import open_checkpoint
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.stored import FetchedSnapshot
from checkdam.core.errors import CheckpointError
from checkdam.core.keys import key_group
from checkdam.graph.model import Graph
from checkdam.offline.contents import OperatorContents, contents_of, find_operator, find_state, own_serde_names
from checkdam.offline.keyed import KeyedPart, open_part
from checkdam.offline.own_state import OwnRow, SplitRow, own_rows, split_rows
from checkdam.offline.rewriting import Correct, StateName, rewrite
from checkdam.offline.rows import WINDOW_KINDS, BlockRows, RowView, StateRow, TimerRow, timer_rows
from checkdam.offline.serdes import Serdes
from checkdam.state.record import RECORD_NAME, SnapshotRecord, TableRecord, read_record

Build = Callable[[Pipeline, dict[str, Any]], None]
"""A build function, as in `spec.program.entrypoint`."""


class Savepoint:
    """A checkpoint or savepoint, to be read; made by `open_savepoint`.

    Attributes:
        uri: Where it is.
        manifest: What `_metadata` says.
        store: Where its files are.
        serdes: How its values are decoded.
    """

    def __init__(self, store: CheckpointStore, folder: str, graph: Graph | None = None) -> None:
        self.uri = f"{store.storage.uri}/{folder}"
        self.manifest: CheckpointManifest = store.read_manifest(folder)
        self.store = store
        self.serdes = Serdes(graph)

    def operators(self) -> list[OperatorContents]:
        """What it holds, operator by operator, in the pipeline's order.

        Raises:
            CorruptCheckpointError: A file of it is missing or damaged.
            StorageError: Storage failed.
        """
        return list(self._contents.values())

    def read(
        self, operator: str, state: str | None = None, *, types: Any = None, keys: Collection[Any] | None = None
    ) -> Iterator[StateRow]:
        """The entries of one keyed state, in the order of key groups, as they were at the checkpoint.

        What had expired by then is left out. Memory stays bounded however large the state is. Files are fetched anew by each call,
        and those of a RocksDB checkpoint converted; of a large one make a copy here first (`rewrite`).

        Args:
            operator: The operator's name.
            state: The state's name; may be left out where the operator has one.
            types: The type of the values as they are stored (of a `ListState`, a list). Without it that of the pipeline is taken,
                and without a pipeline MessagePack's own: classes as dictionaries, tuples and sets as lists.
            keys: Only entries of these keys. Of other key groups nothing is read.

        Raises:
            CheckpointError: There is no such operator or state, and then it names those that there are; or `keys` is no list.
            CorruptCheckpointError: A file is missing or damaged.
            KeyTypeError: Keys are of a class that cannot be imported.
            ValueTypeError: Values are not of that type, or pickled objects whose code is not at hand.
            StorageError: Storage failed.
        """
        found = self.find(operator)
        info = find_state(found, state, self.uri)
        serde = self.serdes.of(operator, info.name, info.type, types)
        groups = self._groups_of(keys)

        def rows() -> Iterator[StateRow]:
            for part in self.parts(operator, groups):
                table = next((table for table in part.record.tables if table.id == f"{operator}/{info.name}"), None)
                if table is not None:
                    view = self.view(table, keys)
                    for block in part.blocks(table):
                        yield from view.rows(block.group, BlockRows.of(block.open(table.id), serde, table.id))

        return rows()

    def timers(
        self, operator: str, domain: str | None = None, *, keys: Collection[Any] | None = None
    ) -> Iterator[TimerRow]:
        """The timers of an operator, in the order of key groups.

        Args:
            operator: The operator's name.
            domain: `event` or `processing`; `None` for both.
            keys: Only timers of these keys. Of other key groups nothing is read.

        Raises:
            CheckpointError: There is no such operator, or it has no timers there.
            CorruptCheckpointError: A file is missing or damaged.
            KeyTypeError: Keys are of a class that cannot be imported.
            StorageError: Storage failed.
        """
        found = self.find(operator)
        domains = found.timers if domain is None else (domain,)
        if not domains or not set(domains) <= set(found.timers):
            asked, has = "" if domain is None else f"{domain} ", ", ".join(found.timers) or "none"
            raise CheckpointError(f"operator `{operator}` has no {asked}timers in {self.uri}; it has: {has}")
        groups = self._groups_of(keys)

        def rows() -> Iterator[TimerRow]:
            for part in self.parts(operator, groups):
                for timers in part.record.timers:
                    if timers.operator == operator and timers.domain in domains:
                        for block in part.blocks(timers):
                            yield from timer_rows(timers, block.group, block.open(timers.id), keys)

        return rows()

    def splits(self, source: str) -> list[SplitRow]:
        """How far each split of a source has been read.

        Raises:
            CheckpointError: There is no such source.
        """
        if not self.find(source).splits:
            sources = ", ".join(f"`{name}`" for name in self.manifest.sources) or "none"
            raise CheckpointError(f"operator `{source}` is no source in {self.uri}; its sources are: {sources}")
        return list(split_rows(self.manifest, source))

    def own_state(self, operator: str) -> list[OwnRow]:
        """What each subtask of an operator keeps beside tables and timers, in the order of subtasks.

        Of a broadcast join that is its dictionary, the same in all subtasks; of `map_async` the records whose calls were under way,
        with their times; of others what the operator made, such as the committables that are pending in a sink.

        Raises:
            CheckpointError: There is no such operator.
            ValueTypeError: Values are pickled objects whose code is not at hand.
        """
        self.find(operator)
        info = next(info for info in self.manifest.operators if info.id == operator)
        serdes = {name: self.serdes.of(operator, name, stored) for name, stored in own_serde_names(info).items()}
        return list(own_rows(self.manifest, info, serdes))

    def rewrite(
        self,
        uri: str,
        changes: Mapping[StateName, Correct],
        *,
        drop: Collection[str | StateName] = (),
        types: Mapping[StateName, Any] | None = None,
    ) -> None:
        """Write a corrected copy, a savepoint that every backend restores; this one stays as it is.

        Args:
            uri: Where to: a new folder, by uri or path.
            changes: (operator, state) → a function that is given each row and returns the value to put in its place, or `DELETE`.
                Rows keep their keys and update times. What had expired is left out. Everything else is copied.
            drop: What to leave out: operators, with all that is stored of them, or single states as (operator, state).
            types: (operator, state) → the type of the values that a function returns, where it is another one than before: the job
                that restores the copy has to declare that one.

        Raises:
            CheckpointError: An operator or state does not exist, or must not be dropped; or something is at `uri`.
            CorruptCheckpointError: A file is missing or damaged.
            ValueTypeError: What a function returned does not fit the state's type, or values cannot be read without their code.
            UserCodeError: A function raised; names operator and row.
            StorageError: Storage failed.
        """
        rewrite(self, as_uri(uri), changes, drop, types or {})

    # What rewriting uses too

    def find(self, operator: str) -> OperatorContents:
        """What it holds of an operator.

        Raises:
            CheckpointError: There is no such operator; names those that there are.
        """
        return find_operator(self._contents, operator, self.uri)

    def view(self, table: TableRecord, keys: Collection[Any] | None = None) -> RowView:
        """How the rows of a table are shown."""
        windowed = self.find(table.operator).kind in WINDOW_KINDS
        now_ms = self.manifest.processing_time_ms
        return RowView(table, windowed, now_ms, None if keys is None else frozenset(keys))

    def parts(self, operator: str, groups: Collection[int] | None = None) -> Iterator[KeyedPart]:
        """The keyed state of the subtasks that hold some of an operator's, one at a time: each goes when the next one comes.

        Args:
            operator: The operator's name.
            groups: Only subtasks that own one of these key groups; `None` for all.

        Raises:
            CorruptCheckpointError: A file is missing or damaged.
            StorageError: Storage failed.
        """
        for snapshot, record in self.records:
            owned = range(*record.key_groups)
            looked_at = None if groups is None else [group for group in groups if group in owned]
            if operator in operators_in(record) and looked_at != []:
                with self.opened(snapshot, looked_at) as part:
                    yield part

    @contextmanager
    def opened(self, snapshot: SubtaskSnapshot, groups: Collection[int] | None = None) -> Iterator[KeyedPart]:
        """The keyed state of one subtask, on this machine until the context ends; arguments and errors as `parts`."""
        with tempfile.TemporaryDirectory(prefix="checkdam-state-") as name:
            folder = Path(name)
            fetched = FetchedSnapshot(snapshot, folder / "files", self.store.fetch_files)
            yield open_part(fetched, folder / "canonical", groups)

    @cached_property
    def records(self) -> Sequence[tuple[SubtaskSnapshot, SnapshotRecord]]:
        """All snapshots of keyed state, in the order of key groups, with what each says about itself."""
        keyed = [snapshot for snapshot in self.manifest.subtasks if snapshot.key_groups is not None]
        found = []
        with tempfile.TemporaryDirectory(prefix="checkdam-state-") as name:
            for number, snapshot in enumerate(sorted(keyed, key=lambda each: each.key_groups or (0, 0))):
                fetched = FetchedSnapshot(snapshot, Path(name) / str(number), self.store.fetch_files)
                found.append((snapshot, read_record(fetched.fetch([RECORD_NAME])[RECORD_NAME])))
        return found

    def _groups_of(self, keys: Collection[Any] | None) -> set[int] | None:
        if isinstance(keys, str | bytes):
            raise CheckpointError(f"`keys` must be a list of keys (got {keys!r}); for one key write [{keys!r}]")
        return None if keys is None else {key_group(key, self.manifest.max_parallelism) for key in keys}

    @cached_property
    def _contents(self) -> dict[str, OperatorContents]:
        return contents_of(self.manifest, [record for _, record in self.records])


def operators_in(record: SnapshotRecord) -> set[str]:
    """The operators whose tables or timers a snapshot holds."""
    return {section.operator for section in record.sections}


def open_savepoint(
    uri: str, *, pipeline: Build | Graph | None = None, args: Mapping[str, Any] | None = None
) -> Savepoint:
    """Open a savepoint or checkpoint of any storage and backend, to read it. Nothing is changed.

    Args:
        uri: Its folder, or a job's folder and then the latest checkpoint there: a uri or a path.
        pipeline: The job's build function: its types make objects of what is read, and its classes may be unpickled. Without it
            values come out as MessagePack's own (classes as dictionaries), and pickled objects are refused.
        args: The build function's arguments.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged or of a newer release.
        StorageError: The uri cannot be used, or storage failed.
        EntrypointError, PipelineError: The pipeline cannot be built.
    """
    store, folder = open_checkpoint(as_uri(uri))
    return Savepoint(store, folder, None if pipeline is None else graph_of(pipeline, args))


def graph_of(pipeline: Build | Graph, args: Mapping[str, Any] | None) -> Graph:
    """The graph that a build function makes."""
    return pipeline if isinstance(pipeline, Graph) else build_graph(pipeline, dict(args or {}))


def as_uri(text: str) -> str:
    """A place of storage as a uri; a plain path is taken from the current folder."""
    return text if "://" in text else Path(text).absolute().as_uri()
