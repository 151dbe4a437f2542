"""From a graph to what workers run: stages, and a fingerprint that tells whether two graphs are the same.

A *stage* is a chain of operators joined by forward edges with nothing else in between: it runs as one subtask per worker,
without queues between its operators. Everything that crosses from stage to stage goes through channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from checkdam.checkpoint.manifest import OperatorInfo
from checkdam.graph.model import Edge, Graph, Node, Partition


@dataclass(frozen=True)
class StageOutput:
    """An edge that leaves a stage: from the operator at `position` in the chain."""

    position: int
    edge: Edge
    index: int


@dataclass(frozen=True)
class StageInput:
    """An edge into the first operator of a stage."""

    edge: Edge
    index: int


@dataclass(frozen=True)
class Stage:
    """A chain of operators that runs as one subtask per worker.

    Attributes:
        id: Id of its first operator.
        nodes: The operators, in order.
        inputs: Edges into the first operator; empty for a source.
        outputs: Edges to other stages.
    """

    id: str
    nodes: tuple[Node, ...]
    inputs: tuple[StageInput, ...]
    outputs: tuple[StageOutput, ...]

    @property
    def keyed(self) -> bool:
        """Whether its subtasks own key groups."""
        return any(node.keyed for node in self.nodes)

    @property
    def name(self) -> str:
        """All operators, for people: `lines → split → word`."""
        return " → ".join(node.id for node in self.nodes)


@dataclass(frozen=True)
class Plan:
    """All stages, sources first, each after those that it reads from. Edges are numbered as `StageInput.index`."""

    graph: Graph
    stages: tuple[Stage, ...]


def make_plan(graph: Graph) -> Plan:
    """Cut a graph into stages."""
    chained = {edge.target: edge.source for edge in graph.edges if _is_chained(graph, edge)}
    # By place and not by id: a stream that is united with itself has two edges of one id.
    edges = list(enumerate(graph.edges))
    follower = {source: target for target, source in chained.items()}
    stages = []
    for node_id in graph.nodes:
        if node_id in chained:
            continue
        chain = [node_id]
        while chain[-1] in follower:
            chain.append(follower[chain[-1]])
        stages.append(
            Stage(
                id=node_id,
                nodes=tuple(graph.nodes[member] for member in chain),
                inputs=tuple(StageInput(edge, number) for number, edge in edges if edge.target == node_id),
                outputs=tuple(
                    StageOutput(position, edge, number)
                    for position, member in enumerate(chain)
                    for number, edge in edges
                    if edge.source == member and (chained.get(edge.target) != member or edge.tag)
                ),
            )
        )
    return Plan(graph, tuple(stages))


def _is_chained(graph: Graph, edge: Edge) -> bool:
    """Whether `target` runs in the subtask of `source`: the only consumer of its main output, with no other input."""
    return (
        edge.partition is Partition.FORWARD
        and not edge.tag
        and not graph.nodes[edge.target].starts_stage
        and len(graph.inputs(edge.target)) == 1
        and sum(not other.tag for other in graph.outputs(edge.source)) == 1
    )


def operator_infos(graph: Graph, restored: Iterable[OperatorInfo] = ()) -> list[OperatorInfo]:
    """What a checkpoint records of the operators, to compare with the graph that restores it.

    Args:
        graph: The graph.
        restored: Those of a checkpoint whose values may still be stored as they were there.
    """
    before = {info.id: info.schemas for info in restored}
    return [
        OperatorInfo(
            node.id,
            node.kind,
            dict(node.state),
            node.two_phase,
            {
                table: [*(each for each in before.get(node.id, {}).get(table, []) if each != schema), schema]
                for table, schema in node.schemas.items()
            },
        )
        for node in graph.nodes.values()
    ]


def fingerprint(graph: Graph) -> str:
    """A digest of ids, kinds, types of state and edges: equal in all processes that may work together."""
    described = (
        [
            (info.id, info.kind, sorted(info.state.items()), sorted(info.schemas.items()))
            for info in operator_infos(graph)
        ],
        sorted((edge.id, str(edge.partition), edge.serde.name) for edge in graph.edges),
        {edge.id: edge.serde.schema for edge in graph.edges},
    )
    return hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:32]
