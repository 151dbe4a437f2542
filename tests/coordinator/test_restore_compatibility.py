"""What may be restored into what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from coordinator_kit import Numbers, graph_of, job_of

from checkdam.checkpoint.manifest import CheckpointManifest, SourceSnapshot, SubtaskSnapshot
from checkdam.coordinator.bootstrap import JobGraph
from checkdam.core.errors import IncompatibleCheckpointError, PipelineError
from checkdam.graph.model import Graph
from checkdam.wire.messages import AttemptId


def manifest_of(tmp_path: Path, graph: Graph | None = None, pending: list[Any] | None = None) -> CheckpointManifest:
    """A checkpoint of `graph`, whose sink holds `pending` committables."""
    plan = JobGraph.of(job_of(tmp_path), graph or graph_of())
    snapshot = SubtaskSnapshot(
        "count", 0, (0, 64), operators={"out": msgspec.msgpack.encode({"pending": pending or []})}
    )
    return msgspec.structs.replace(
        plan.draft(3, AttemptId(1, 1), 0), sources={"numbers": SourceSnapshot()}, subtasks=[snapshot]
    )


def judge(
    tmp_path: Path, manifest: CheckpointManifest, graph: Graph, *, committed: bool = False, **settings: Any
) -> None:
    JobGraph.of(job_of(tmp_path, **settings), graph).judge(manifest, "the checkpoint chk-3", committed=committed)


def test_an_unchanged_graph_is_restored(tmp_path: Path) -> None:
    judge(tmp_path, manifest_of(tmp_path, pending=[[1, ["part-0"]]]), graph_of())


def test_an_operator_whose_state_would_be_dropped_needs_the_flag(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleCheckpointError, match=r"`count` \(aggregate\) has state.*allowNonRestoredState"):
        judge(tmp_path, manifest_of(tmp_path), graph_of(keyed="sum"))
    judge(tmp_path, manifest_of(tmp_path), graph_of(keyed="sum"), allowNonRestoredState=True)


def test_a_sink_with_output_that_may_not_be_committed_is_not_removed_whatever_the_flag(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, pending=[[3, ["part-0"]]])
    with pytest.raises(IncompatibleCheckpointError, match="sink `out` is not in the pipeline any more"):
        judge(tmp_path, manifest, graph_of(sink="other"), allowNonRestoredState=True)
    judge(tmp_path, manifest, graph_of(sink="other"), committed=True)
    judge(tmp_path, manifest_of(tmp_path), graph_of(sink="other"))


def test_a_state_type_that_changed_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        IncompatibleCheckpointError, match="`count/sum` of operator `count` is of type str now but was int"
    ):
        judge(tmp_path, manifest_of(tmp_path), graph_of(state="str"), allowNonRestoredState=True)


def test_a_name_that_another_kind_of_operator_bears_now_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleCheckpointError, match="`out` is a aggregate now but was a sink"):
        judge(tmp_path, manifest_of(tmp_path), graph_of(keyed="out", sink="end"), allowNonRestoredState=True)


def test_key_groups_parallelism_and_job_must_be_the_same(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    with pytest.raises(IncompatibleCheckpointError, match=r"maxParallelism` 128, which cannot be changed \(got 64\)"):
        judge(tmp_path, manifest, graph_of(), maxParallelism=64)
    with pytest.raises(IncompatibleCheckpointError, match="redistribute"):
        judge(tmp_path, manifest, graph_of(), parallelism=3)
    foreign = msgspec.structs.replace(manifest, job_id="default/other")
    with pytest.raises(IncompatibleCheckpointError, match=r"of job `default/other`, not of `default/test`.*allowNon"):
        judge(tmp_path, foreign, graph_of())
    judge(tmp_path, foreign, graph_of(), allowNonRestoredState=True)


def test_at_most_once_refuses_a_source_that_cannot_reserve(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__mode="AtMostOnce")
    with pytest.raises(PipelineError, match="source `numbers` cannot reserve"):
        JobGraph.of(job, graph_of(Numbers(["a"], reserve=False)))
    JobGraph.of(job, graph_of())
