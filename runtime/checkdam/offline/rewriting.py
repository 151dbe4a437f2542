"""Writing a corrected copy of a savepoint.

Subtask by subtask: where a table is changed, its blocks are opened, handed to the user's function row by row and encoded anew, in
the same order of key groups; all other blocks are copied. So memory stays bounded. What operators keep beside keyed state, and the
positions of sources, are copied as they are.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, OperatorInfo, SubtaskSnapshot
from checkdam.core.errors import CheckpointError
from checkdam.core.serde import Serde
from checkdam.offline.contents import find_state
from checkdam.offline.own_state import own_states
from checkdam.offline.rows import BlockRows, RowView, StateRow
from checkdam.offline.serdes import UntypedSerde, new_serde
from checkdam.offline.target import SavepointTarget
from checkdam.operators.user import user_error
from checkdam.state.base import LocalFile
from checkdam.state.blocks import Block, BlockWriter
from checkdam.state.record import BLOCKS_NAME, SnapshotRecord, TableRecord, TimersRecord, write_record

if TYPE_CHECKING:
    from checkdam.offline.keyed import KeyedPart
    from checkdam.offline.savepoint import Savepoint

StateName = tuple[str, str]
"""An operator's name and the name of a state of it."""

Correct = Callable[[StateRow], Any]
"""Row → the value to put in its place, or `DELETE`."""


class _Delete:
    def __repr__(self) -> str:
        return "DELETE"


DELETE: Final[Any] = _Delete()
"""What a function returns to `Savepoint.rewrite` for a row that is to go."""


@dataclass(frozen=True)
class _Change:
    """What happens to one table."""

    correct: Correct
    read: Serde
    write: Serde


@dataclass(frozen=True)
class Rewrite:
    """A copy of a savepoint with corrections.

    Attributes:
        savepoint: The savepoint.
        changes: Table id → what happens to it.
        dropped: Operators of which nothing is copied.
        dropped_states: Ids of tables that are not copied.
    """

    savepoint: Savepoint
    changes: Mapping[str, _Change]
    dropped: frozenset[str]
    dropped_states: frozenset[str]

    @classmethod
    def of(
        cls,
        savepoint: Savepoint,
        changes: Mapping[StateName, Correct],
        drop: Collection[str | StateName],
        types: Mapping[StateName, Any],
    ) -> Rewrite:
        """See `Savepoint.rewrite`, whose arguments these are.

        Raises:
            CheckpointError: An operator or state does not exist, or is changed and dropped at once, or must not be dropped.
        """
        wholes = frozenset(name for name in drop if isinstance(name, str))
        tables = [name for name in drop if not isinstance(name, str)]
        for operator in wholes:
            savepoint.find(operator)
            _check_nothing_pending(savepoint, operator)
        for operator, state in (*changes, *tables, *types):
            find_state(savepoint.find(operator), state, savepoint.uri)
        for operator, state in (*changes, *types):
            if operator in wholes or (operator, state) in tables:
                raise CheckpointError(
                    f"state `{state}` of operator `{operator}` is both changed and dropped; do one of it"
                )
        for operator, state in types:
            if (operator, state) not in changes:
                raise CheckpointError(
                    f"`types` names state `{state}` of operator `{operator}`, which no function changes"
                )
        made = {
            f"{operator}/{state}": _change(savepoint, operator, state, fn, types)
            for (operator, state), fn in changes.items()
        }
        return cls(savepoint, made, wholes, frozenset(f"{operator}/{state}" for operator, state in tables))

    def copy(self, target: SavepointTarget) -> CheckpointManifest:
        """Store all files of the copy; returns its manifest, which is still to be written.

        Raises:
            CorruptCheckpointError: A file of the savepoint is damaged.
            UserCodeError: A function raised.
            StorageError: Storage failed.
        """
        before = self.savepoint.manifest
        keyed = {(each.stage, each.subtask): record for each, record in self.savepoint.records}
        copies = []
        for snapshot in before.subtasks:
            own = {name: state for name, state in snapshot.operators.items() if name not in self.dropped}
            copy = msgspec.structs.replace(snapshot, operators=own)
            record = keyed.get((snapshot.stage, snapshot.subtask))
            if record is not None and snapshot.stage in self.dropped:
                copy = msgspec.structs.replace(copy, key_groups=None, files=[], group_watermarks=[])
            elif record is not None:
                copy = msgspec.structs.replace(copy, files=self._copy_keyed(snapshot, target))
            if own or copy.key_groups is not None:
                copies.append(copy)
        return msgspec.structs.replace(
            before,
            created_ms=time.time_ns() // 1_000_000,
            operators=[self._info(info) for info in before.operators if info.id not in self.dropped],
            sources={name: source for name, source in before.sources.items() if name not in self.dropped},
            subtasks=copies,
            kind="savepoint",
            increments=0,
        )

    def _copy_keyed(self, snapshot: SubtaskSnapshot, target: SavepointTarget) -> list[FileHandle]:
        with (
            self.savepoint.opened(snapshot) as part,
            tempfile.TemporaryDirectory(prefix="checkdam-rewrite-") as name,
        ):
            kept = [section for section in part.record.sections if self._keeps(section)]
            files = [
                write_record(Path(name), self._record(part.record, kept)),
                *self._write_blocks(part, kept, Path(name) / BLOCKS_NAME),
            ]
            return target.store(files, snapshot.stage, snapshot.subtask)

    def _write_blocks(self, part: KeyedPart, kept: list[TableRecord | TimersRecord], path: Path) -> list[LocalFile]:
        old, places = part.record.sections, {section: place for place, section in enumerate(kept)}
        written = False
        with contextlib.closing(BlockWriter(path)) as writer:
            for stored in part.blocks():
                section = old[stored.section]
                if section in places:
                    block = self._corrected(section, stored.group, stored.open(section.id))
                    if block is not None:
                        writer.write(stored.group, places[section], block)
                        written = True
            return [writer.finish()] if written else []

    def _corrected(self, section: TableRecord | TimersRecord, group: int, block: Block) -> Block | None:
        """A block as it goes into the copy; `None` if nothing is left of it."""
        change = self.changes.get(section.id)
        if change is None or not isinstance(section, TableRecord):
            return block
        found = BlockRows.of(block, change.read, section.id)
        rows = correct_rows(found, group, self.savepoint.view(section), change.correct)
        return rows.block(change.write) if rows.keys else None

    def _keeps(self, section: TableRecord | TimersRecord) -> bool:
        return section.operator not in self.dropped and section.id not in self.dropped_states

    def _record(self, before: SnapshotRecord, kept: list[TableRecord | TimersRecord]) -> SnapshotRecord:
        return msgspec.structs.replace(
            before,
            tables=[
                msgspec.structs.replace(each, serde=self.changes[each.id].write.name)
                if each.id in self.changes
                else each
                for each in kept
                if isinstance(each, TableRecord)
            ],
            timers=[each for each in kept if isinstance(each, TimersRecord)],
        )

    def _info(self, info: OperatorInfo) -> OperatorInfo:
        """What the copy says about an operator: less the states that are dropped, and with the types that have changed."""
        state = {name: text for name, text in info.state.items() if f"{info.id}/{name}" not in self.dropped_states}
        schemas = {name: known for name, known in info.schemas.items() if name in state}
        for name, text in state.items():
            change = self.changes.get(f"{info.id}/{name}")
            if change is not None and not isinstance(change.write, UntypedSerde):
                state[name] = f"{text.partition(':')[0]}:{change.write.name}"
                schemas[name] = [change.write.schema]
        return msgspec.structs.replace(info, state=state, schemas=schemas)


def correct_rows(found: BlockRows, group: int, view: RowView, correct: Correct) -> BlockRows:
    """The rows of a block as a function makes them; what it deletes, or had expired, is left out. Update times stay.

    Raises:
        UserCodeError: The function raised; names the operator and the row.
    """
    kept = BlockRows([], [], [], [], [])
    position = 0
    for head, count in zip(found.heads, found.counts, strict=True):
        before = len(kept.keys)
        for index in range(position, position + count):
            key, time_ms = found.keys[index], found.times[index]
            row = view.row(group, head, key, time_ms, found.values[index])
            if row is None:
                continue
            try:
                value = correct(row)
            except Exception as error:
                raise user_error(view.record.operator, row, error) from error
            if value is not DELETE:
                kept.keys.append(key)
                kept.times.append(time_ms)
                kept.values.append(value)
        position += count
        if len(kept.keys) > before:
            kept.heads.append(head)
            kept.counts.append(len(kept.keys) - before)
    return kept


def _change(
    savepoint: Savepoint, operator: str, state: str, correct: Correct, types: Mapping[StateName, Any]
) -> _Change:
    stored = find_state(savepoint.find(operator), state, savepoint.uri).type
    read = savepoint.serdes.of(operator, state, stored)
    declared = types.get((operator, state))
    return _Change(correct, read, read if declared is None else new_serde(operator, state, declared))


def _check_nothing_pending(savepoint: Savepoint, operator: str) -> None:
    two_phase = [info.id for info in savepoint.manifest.operators if info.two_phase]
    if operator in two_phase and any(state["pending"] for _, state in own_states(savepoint.manifest, operator)):
        raise CheckpointError(
            f"sink `{operator}` cannot be dropped: {savepoint.uri} holds output of it that may not be committed yet; "
            "run the job and take a savepoint that stops it, or rewrite without dropping the sink"
        )


def rewrite(
    savepoint: Savepoint,
    uri: str,
    changes: Mapping[StateName, Correct],
    drop: Collection[str | StateName],
    types: Mapping[StateName, Any],
) -> None:
    """See `Savepoint.rewrite`."""
    plan = Rewrite.of(savepoint, changes, drop, types)
    with SavepointTarget(uri) as target:
        target.finish(plan.copy(target))
