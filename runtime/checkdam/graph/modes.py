"""Whether a graph can run in a mode: asked wherever a job, or a test of a pipeline, begins."""

from __future__ import annotations

from checkdam.core.errors import PipelineError
from checkdam.graph.model import Graph


def check_mode(graph: Graph, mode: str) -> None:
    """Check that a graph can run in the mode `ExactlyOnce`, `AtLeastOnce` or `AtMostOnce`.

    Raises:
        PipelineError: The mode is AtMostOnce and a source cannot reserve positions.
    """
    if mode != "AtMostOnce":
        return
    for node in graph.nodes.values():
        if node.source is not None and not node.source.source.can_reserve:
            raise PipelineError(
                f"source `{node.id}` ({type(node.source.source).__name__}) cannot reserve positions, which the mode "
                "AtMostOnce needs; use ExactlyOnce or AtLeastOnce, or a source that can"
            )


__all__ = ["check_mode"]
