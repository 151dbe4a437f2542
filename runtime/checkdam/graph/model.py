"""The graph of a job as data: operators and edges, nothing that runs yet.

Every process of a job builds the same graph by calling the user's build function; graphs are never shipped.
`plan.py` turns it into stages, and a fingerprint tells whether two processes, or a process and a checkpoint, agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from checkdam.connectors.base import Source
from checkdam.core.schema import Schema
from checkdam.core.serde import Serde
from checkdam.operators.base import Operator, Redistribution
from checkdam.operators.watermarks import Watermarks


class Partition(StrEnum):
    """How the records of an edge find their subtask."""

    FORWARD = "forward"
    """To the subtask of the same index; never crosses a process."""

    HASH = "hash"
    """To the owner of the key's key group."""

    BROADCAST = "broadcast"
    """To every subtask."""

    REBALANCE = "rebalance"
    """Round robin, batch by batch."""


@dataclass(frozen=True)
class Edge:
    """A stream between two operators.

    Attributes:
        source: Id of the operator that yields.
        target: Id of the operator that receives.
        tag: The side output of `source` that flows here; empty for the main output.
        port: The input of `target`: 0, or 1 for the second input of a join.
        partition: How records find their subtask.
        serde: How values cross processes.
    """

    source: str
    target: str
    partition: Partition
    serde: Serde
    tag: str = ""
    port: int = 0

    @property
    def id(self) -> str:
        """Unique within the graph."""
        return f"{self.source}{'!' + self.tag if self.tag else ''}>{self.target}:{self.port}"


@dataclass(frozen=True)
class SourceSpec:
    """What a source operator reads and how it finds event time."""

    source: Source[Any]
    watermarks: Watermarks | None


@dataclass(frozen=True)
class Node:
    """An operator of the graph.

    Attributes:
        id: Stable: the name that the user gave, or kind and a number.
        kind: Such as `map`, `window`, `sink`.
        factory: Makes an operator. Pure: called while the graph is built, and for every subtask and attempt.
        source: For sources, what is read; `factory` then makes no operator and is `None`.
        keyed: Whether it keeps keyed state, so that its subtask owns key groups.
        state: table name → kind and serde name, as far as it is known before running; part of the fingerprint.
        two_phase: Whether it is a sink that commits with checkpoints.
        starts_stage: Whether it must not be chained to what is before it: it may refuse input for a while.
        redistribution: What becomes of its own state at another parallelism; of a source, splits are redistributed.
        schemas: table name → type of its values; part of the fingerprint.
    """

    id: str
    kind: str
    factory: Callable[[], Operator] | None
    source: SourceSpec | None = None
    keyed: bool = False
    state: dict[str, str] = field(default_factory=dict)
    two_phase: bool = False
    starts_stage: bool = False
    redistribution: Redistribution = Redistribution.SPLIT
    schemas: dict[str, Schema] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Operators in topological order, and the edges between them."""

    nodes: dict[str, Node]
    edges: list[Edge]

    def inputs(self, node: str) -> list[Edge]:
        """Edges into `node`."""
        return [edge for edge in self.edges if edge.target == node]

    def outputs(self, node: str) -> list[Edge]:
        """Edges out of `node`."""
        return [edge for edge in self.edges if edge.source == node]
