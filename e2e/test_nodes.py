"""Nodes that are drained, or hang: their pods are replaced elsewhere, and what is left of them does no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.cluster import Cluster
from cluster.layout import STAYS
from installation import until_operator_runs
from node_strikes import cordoned, drained, frozen, nodes
from orders_job import OrdersJob
from strikes import processes_of

pytestmark = pytest.mark.alone
_OPERATOR: Final = ("app.kubernetes.io/name=checkdam", "app.kubernetes.io/component=operator")
_PATIENCE_S: Final = 180.0
"""A node is called lost after 50 s, and its pods 10 s later."""


def test_a_drain_takes_one_worker_at_a_time_and_the_output_stays_right(checkdam: Cluster, namespace: str) -> None:
    job = OrdersJob(checkdam, namespace)
    node, other = nodes(checkdam)
    with cordoned(checkdam, other):
        _start(job)
    assert _places(job.pods()) == {node}
    with drained(checkdam, node, f"checkdam.dev/job={job.name}"):
        job.wait("condition=Ready")
        job.until_more(job.check() + 2000)
        first, last = sorted(job.pods("worker"), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        assert _places(job.pods()) == {other}
        assert _ready_since(first) <= last["metadata"]["creationTimestamp"], "both workers were away at once"
    assert nodes(checkdam) == [node, other]


@pytest.mark.usefixtures("machines")
def test_jobs_go_on_without_a_node_that_hangs_and_what_wakes_up_there_commits_nothing(
    checkdam: Cluster, namespaces: Callable[[], str]
) -> None:
    whole, half = OrdersJob(checkdam, namespaces()), OrdersJob(checkdam, namespaces())
    stays, lost = nodes(checkdam)
    with drained(checkdam, lost, *_OPERATOR):  # its loss is another test's
        until_operator_runs(checkdam)
    with cordoned(checkdam, stays):
        _start(whole)
    _start(half, coordinator={"podTemplate": {"spec": {"nodeSelector": dict([STAYS])}}})
    assert _places(whole.pods()) == {lost}
    assert _places(half.pods("worker")) == {stays, lost}
    zombies = [pod for job in (whole, half) for pod in job.pods() if pod["spec"]["nodeName"] == lost]
    processes = [pid for pod in zombies for pid in processes_of(checkdam, pod).values()]
    with frozen(checkdam, lost):
        _until_elsewhere(half, stays)
        assert nodes(checkdam) == [stays, lost], "the job has waited until Kubernetes gave the node up"
        half.until_more(half.check() + 2000)
        _until_elsewhere(whole, stays)
        whole.until_more(whole.check() + 2000)
        whole.kubectl("delete", "pods", *_names(zombies, whole.namespace), "--force", "--grace-period=0")
    half.until(lambda: None if any(Path(f"/proc/{pid}").exists() for pid in processes) else True, "end of the zombies")
    for job in (half, whole):
        job.until_more(job.check() + 2000)
        job.wait("condition=Ready")
        assert _places(job.pods()) == {stays}, "pods were replaced again"


def _start(job: OrdersJob, **spec: Any) -> None:
    job.apply(**spec)
    job.wait("condition=Ready")
    job.until_more(0)


def _until_elsewhere(job: OrdersJob, node: str) -> None:
    """Wait until all pods of the job run on this node."""

    def there() -> bool | None:
        pods = job.pods()
        running = len(pods) == 3 and all(pod["status"]["phase"] == "Running" for pod in pods)
        return True if running and _places(pods) == {node} else None

    job.until(there, f"job on {node} alone", _PATIENCE_S)


def _places(pods: list[dict[str, Any]]) -> set[str]:
    """The nodes that pods are on."""
    return {pod["spec"].get("nodeName", "") for pod in pods}


def _names(pods: list[dict[str, Any]], namespace: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods if pod["metadata"]["namespace"] == namespace]


def _ready_since(pod: dict[str, Any]) -> str:
    return next(str(found["lastTransitionTime"]) for found in pod["status"]["conditions"] if found["type"] == "Ready")
