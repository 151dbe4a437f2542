"""What a checkpoint holds, operator by operator: the names that reading and rewriting go by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from checkdam.checkpoint.manifest import CheckpointManifest, OperatorInfo
from checkdam.core.errors import CheckpointError
from checkdam.state.record import SnapshotRecord, TableRecord

OWN_PREFIX: Final = "own:"
"""What `OperatorInfo.state` says in front of the serde's name of values that are in no table."""


@dataclass(frozen=True)
class StateInfo:
    """One state of an operator.

    Attributes:
        name: The name that the pipeline gave it; of operators other than process functions, that of their table.
        kind: `value`, one for each key and, of windows, each window; `map`, one for each sub-key of a key.
        type: How values are stored: `msgpack:` and their declared type, or `pickle`.
        ttl_ms: How long an entry lives after its last update; 0 for ever.
    """

    name: str
    kind: Literal["value", "map"]
    type: str
    ttl_ms: int = 0


@dataclass(frozen=True)
class OperatorContents:
    """What a checkpoint holds of one operator.

    Attributes:
        name: The operator's name.
        kind: Such as `process`, `window` or `source`.
        states: Its keyed states, for `Savepoint.read`.
        timers: The time domains in which it has timers, `event` or `processing`, for `Savepoint.timers`.
        splits: Whether it is a source, for `Savepoint.splits`.
        own: Whether its subtasks stored something beside that, for `Savepoint.own_state`.
    """

    name: str
    kind: str
    states: tuple[StateInfo, ...] = ()
    timers: tuple[str, ...] = ()
    splits: bool = False
    own: bool = False


def contents_of(manifest: CheckpointManifest, records: Iterable[SnapshotRecord]) -> dict[str, OperatorContents]:
    """Operator → what a checkpoint holds of it, in the pipeline's order.

    Args:
        manifest: The checkpoint.
        records: Of all its snapshots of keyed state.
    """
    tables: dict[str, dict[str, StateInfo]] = {}
    timers: dict[str, dict[str, None]] = {}
    for record in records:
        for table in record.tables:
            tables.setdefault(table.operator, {})[table.name] = _state_info(table)
        for each in record.timers:
            timers.setdefault(each.operator, {})[each.domain] = None
    own = {operator for snapshot in manifest.subtasks for operator in snapshot.operators}
    return {
        info.id: OperatorContents(
            info.id,
            info.kind,
            tuple(tables.get(info.id, {}).values()),
            tuple(timers.get(info.id, {})),
            info.id in manifest.sources,
            info.id in own - set(manifest.sources),
        )
        for info in manifest.operators
    }


def own_serde_names(info: OperatorInfo) -> dict[str, str]:
    """Name → name of the serde, of users' values in an operator's own state."""
    return {name: text.removeprefix(OWN_PREFIX) for name, text in info.state.items() if text.startswith(OWN_PREFIX)}


def find_operator(contents: dict[str, OperatorContents], operator: str, where: str) -> OperatorContents:
    """The contents of `operator` in the checkpoint `where`.

    Raises:
        CheckpointError: There is no such operator; names those that there are.
    """
    if operator not in contents:
        raise CheckpointError(f"{where} has no operator `{operator}`; it has: {_listed(contents)}")
    return contents[operator]


def find_state(found: OperatorContents, state: str | None, where: str) -> StateInfo:
    """The keyed state `state` of an operator in the checkpoint `where`; its only one where no name is given.

    Raises:
        CheckpointError: There is no such state, or more than one to choose from; names those that there are.
    """
    names = [info.name for info in found.states]
    if not names:
        has = [f"timers ({', '.join(found.timers)})"] if found.timers else []
        has += ["splits"] if found.splits else []
        has += ["state of its own"] if found.own else []
        raise CheckpointError(
            f"operator `{found.name}` ({found.kind}) has no keyed state in {where}; it has: {', '.join(has) or 'nothing'}"
        )
    if state is None and len(names) > 1:
        raise CheckpointError(f"operator `{found.name}` has several states in {where}; name one of: {_listed(names)}")
    chosen = names[0] if state is None else state
    if chosen not in names:
        raise CheckpointError(f"operator `{found.name}` has no state `{chosen}` in {where}; it has: {_listed(names)}")
    return found.states[names.index(chosen)]


def _state_info(table: TableRecord) -> StateInfo:
    return StateInfo(table.name, "map" if table.kind == "map" else "value", table.serde, table.ttl_ms)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
