"""What may be restored into what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from coordinator_kit import Numbers, graph_of, job_of

from checkdam.checkpoint.manifest import CheckpointManifest, SourceSnapshot, SubtaskSnapshot
from checkdam.coordinator.bootstrap import JobGraph
from checkdam.core.annotations import type_text
from checkdam.core.errors import CorruptCheckpointError, IncompatibleCheckpointError, PipelineError
from checkdam.core.schema import describe
from checkdam.graph.model import Graph
from checkdam.graph.plan import fingerprint
from checkdam.wire.messages import AttemptId


@dataclass
class Before:
    value: int


@dataclass
class After:
    """The class `Before` in later code."""

    value: int
    more: int = 0


After.__qualname__ = "Before"


def manifest_of(tmp_path: Path, graph: Graph | None = None, pending: list[Any] | None = None) -> CheckpointManifest:
    """A checkpoint of `graph`, whose sink holds `pending` committables."""
    plan = JobGraph.of(job_of(tmp_path), graph or graph_of())
    snapshot = SubtaskSnapshot(
        "count", 0, (0, 128), operators={"out": msgspec.msgpack.encode({"pending": pending or []})}
    )
    return msgspec.structs.replace(
        plan.draft(3, AttemptId(1, 1), 2, 0), sources={"numbers": SourceSnapshot()}, subtasks=[snapshot]
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
        IncompatibleCheckpointError,
        match="state `count/sum` of operator `count` is declared as `str` now, but the checkpoint chk-3 has it as `int`",
    ):
        judge(tmp_path, manifest_of(tmp_path), graph_of(state="str"), allowNonRestoredState=True)


def test_a_name_that_another_kind_of_operator_bears_now_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        IncompatibleCheckpointError, match="`out` is of the kind `aggregate` now but was of the kind `sink`"
    ):
        judge(tmp_path, manifest_of(tmp_path), graph_of(keyed="out", sink="end"), allowNonRestoredState=True)


def test_key_groups_and_job_must_be_the_same(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    with pytest.raises(IncompatibleCheckpointError, match=r"maxParallelism` 128, which cannot be changed \(got 64\)"):
        judge(tmp_path, manifest, graph_of(), maxParallelism=64)
    foreign = msgspec.structs.replace(manifest, job_id="default/other")
    with pytest.raises(IncompatibleCheckpointError, match=r"of job `default/other`, not of `default/test`.*allowNon"):
        judge(tmp_path, foreign, graph_of())
    judge(tmp_path, foreign, graph_of(), allowNonRestoredState=True)


def test_any_parallelism_up_to_the_highest_is_restored(tmp_path: Path) -> None:
    for parallelism in (1, 3, 128):
        judge(tmp_path, manifest_of(tmp_path), graph_of(), parallelism=parallelism)


@pytest.mark.parametrize(
    ("covered", "words"),
    [
        ([(0, 64)], "lacks the key groups 64 to 127"),
        ([(0, 43), (86, 128)], "lacks the key groups 43 to 85"),
        ([(0, 64), (60, 128)], "holds twice the key groups 60 to 63"),
    ],
)
def test_a_checkpoint_without_all_key_groups_is_refused(
    tmp_path: Path, covered: list[tuple[int, int]], words: str
) -> None:
    subtasks = [SubtaskSnapshot("count", number, groups) for number, groups in enumerate(covered)]
    manifest = msgspec.structs.replace(manifest_of(tmp_path), subtasks=subtasks)
    with pytest.raises(
        CorruptCheckpointError, match=rf"stage `count` in the checkpoint chk-3 {words}; restore another"
    ):
        judge(tmp_path, manifest, graph_of())


def test_at_most_once_refuses_a_source_that_cannot_reserve(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__mode="AtMostOnce")
    with pytest.raises(PipelineError, match=r"source `numbers` \(Numbers\) cannot reserve"):
        JobGraph.of(job, graph_of(Numbers(["a"], reserve=False)))
    JobGraph.of(job, graph_of())


def counting(declared: Any) -> Graph:
    """The graph with a state of a declared type."""
    graph = graph_of()
    state, schemas = {"sum": f"value:msgpack:{type_text(declared)}"}, {"sum": describe(declared)}
    return replace(graph, nodes=graph.nodes | {"count": replace(graph.nodes["count"], state=state, schemas=schemas)})


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleCheckpointError) as raised:
        judge(tmp_path, manifest_of(tmp_path), graph_of(keyed="sum", sink="end"))
    assert [line.split(" (")[0] for line in str(raised.value).split("\n")] == ["operator `count`", "operator `sum`"]


def test_a_type_may_widen_but_not_narrow(tmp_path: Path) -> None:
    judge(tmp_path, manifest_of(tmp_path, counting(int)), counting(float))
    words = "state `sum` of operator `count` is declared as `int` now, but the checkpoint chk-3 has it as `float`"
    with pytest.raises(IncompatibleCheckpointError, match=f"{words}: the value is `int` now but was `float`"):
        judge(tmp_path, manifest_of(tmp_path, counting(float)), counting(int), allowNonRestoredState=True)


@pytest.mark.parametrize("backend", ["rocksdb", "hashmap"])
def test_what_values_were_stored_as_stays_on_record_where_they_are_not_written_anew(
    tmp_path: Path, backend: str
) -> None:
    plan = JobGraph.of(job_of(tmp_path, stateBackend={"type": backend}), counting(float))
    attempt = AttemptId(1, 1)
    for _ in range(2):
        draft = plan.draft(4, attempt, 2, 0, manifest_of(tmp_path, counting(int)))
    [schemas] = [info.schemas["sum"] for info in draft.operators if info.id == "count"]
    assert schemas == ([describe(int), describe(float)] if backend == "rocksdb" else [describe(float)])
    judge(tmp_path, draft, counting(float))
    if backend == "rocksdb":
        draft = plan.draft(5, attempt, 2, 0, draft)
        assert [info.schemas["sum"] for info in draft.operators if info.id == "count"] == [schemas]


def test_workers_with_other_code_build_another_graph(tmp_path: Path) -> None:
    assert fingerprint(counting(int)) != fingerprint(counting(float))
    assert fingerprint(counting(Before)) != fingerprint(counting(After))
