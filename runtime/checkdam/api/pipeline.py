"""A pipeline under construction: the graph that the user's build function fills.

Streams (`stream.py` and beside) are thin descriptions of "what these operators yield"; every method of theirs adds a
node and its edges here. Whatever can be checked while building is checked here, with the user's call in the traceback.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from checkdam.api.stream import Stream
from checkdam.connectors.base import Source
from checkdam.connectors.collection import CollectionSource
from checkdam.core.errors import PipelineError
from checkdam.core.serde import serde_for
from checkdam.graph.model import Edge, Graph, Node, Partition, SourceSpec
from checkdam.operators.base import Operator
from checkdam.operators.watermarks import Watermarks

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


@dataclass(frozen=True)
class Producer:
    """Where a stream comes from: the output `tag` of operator `node`."""

    node: str
    tag: str = ""


@dataclass(frozen=True)
class Feed:
    """An input of an operator under construction: the streams' producers, how records are dealt out, and to which port."""

    producers: tuple[Producer, ...]
    value_type: Any
    partition: Partition = Partition.FORWARD
    port: int = 0


class Pipeline:
    """The pipeline that the entrypoint is given to fill.

    Args:
        allow_pickle: Whether values of undeclared types may be pickled; `spec.allowPickle`.
    """

    def __init__(self, allow_pickle: bool = True) -> None:
        self.allow_pickle = allow_pickle
        self._nodes: dict[str, Node] = {}
        self._edges: list[Edge] = []
        self._counters: dict[str, int] = {}

    def source(self, name: str, source: Source[Any], watermarks: Watermarks | None = None) -> Stream:
        """A stream of the records of `source`.

        Args:
            name: The source's stable name: its positions are found again under it.
            source: What to read; `checkdam.connectors` has files, a generator and collections.
            watermarks: How records get event times, such as `bounded_out_of_orderness("5s", timestamp="time")`;
                without it the stream has no event time, unless the source brings times of its own.

        Raises:
            PipelineError: The name is taken or not allowed.
        """
        if not isinstance(source, Source):
            raise PipelineError(f"the source `{name}` must be a checkdam.Source (got {source!r})")
        node_id = self.add(
            "source", name, None, [], source=SourceSpec(source, watermarks), state={"splits": type(source).__name__}
        )
        return Stream(self, (Producer(node_id),), source.value_type)

    def from_items(
        self, name: str, items: Iterable[Any], times: Iterable[int] | None = None, watermarks: Watermarks | None = None
    ) -> Stream:
        """A bounded stream of `items`, with event `times` in ms where given; for tests and first steps."""
        return self.source(name, CollectionSource(list(items), None if times is None else list(times)), watermarks)

    def graph(self) -> Graph:
        """The graph as built so far.

        Raises:
            PipelineError: It has no source or no sink.
        """
        kinds = {node.kind for node in self._nodes.values()}
        if "source" not in kinds:
            raise PipelineError("the pipeline has no source; begin with `pipeline.source(name, source)`")
        if "sink" not in kinds:
            raise PipelineError("the pipeline has no sink; end a stream with `.sink(name, sink)` or `.print()`")
        return Graph(dict(self._nodes), list(self._edges))

    # What streams call

    def add(
        self,
        kind: str,
        name: str | None,
        make: Callable[[str], Operator] | None,
        feeds: list[Feed],
        *,
        keyed: bool = False,
        source: SourceSpec | None = None,
        state: dict[str, str] | None = None,
        two_phase: bool = False,
    ) -> str:
        """Add an operator and the edges into it; returns its id.

        Args:
            kind: What it is; the beginning of its id where the user gave no name.
            name: The user's name for it.
            make: Operator id → a new operator.
            feeds: Its inputs.
            keyed: Whether it keeps keyed state.
            source: For sources.
            state: What a source's splits are; tables and own state are found out from a trial operator.
            two_phase: Whether it commits with checkpoints.

        Raises:
            PipelineError: The name is taken or not allowed.
            ValueTypeError: A type of a value cannot cross processes.
        """
        node_id = self._new_id(kind, name)
        factory, starts_stage, redistribution = None, False, Operator.redistribution
        state, schemas = dict(state or {}), {}
        if make is not None:
            factory = partial(make, node_id)
            trial = factory()
            starts_stage = type(trial).accepts_input is not Operator.accepts_input
            redistribution = trial.redistribution
            stored = [(spec.name, spec.kind, spec.serde) for spec in trial.tables()]
            stored += [(name, "own", serde) for name, serde in trial.own_serdes().items()]
            state |= {name: f"{table_kind}:{serde.name}" for name, table_kind, serde in stored}
            schemas = {name: serde.schema for name, _, serde in stored}
        self._nodes[node_id] = Node(
            node_id, kind, factory, source, keyed, state, two_phase, starts_stage, redistribution, schemas
        )
        for feed in feeds:
            for producer in feed.producers:
                serde = serde_for(feed.value_type, f"the output of operator `{producer.node}`", self.allow_pickle)
                self._edges.append(Edge(producer.node, node_id, feed.partition, serde, producer.tag, feed.port))
        return node_id

    def _new_id(self, kind: str, name: str | None) -> str:
        if name is None:
            self._counters[kind] = self._counters.get(kind, 0) + 1
            return f"{kind}-{self._counters[kind]}"
        if not _NAME.fullmatch(name):
            raise PipelineError(
                "an operator's name must be at most 63 letters, digits, `_`, `.` and `-`, beginning with a letter or digit "
                f"(got {name!r})"
            )
        if name in self._nodes:
            raise PipelineError(f"operator names must be unique, but {name!r} is used twice")
        return name
