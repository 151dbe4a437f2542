"""Nodes that are drained, or hang: their pods are replaced elsewhere, and what is left of them does no harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from psutil import Process

from checkdam_operator.kube.lease import EXIT_LOST
from cluster.cluster import Cluster
from cluster.layout import STAYS
from installation import leading_operator, operator_pods, until_operator_runs
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
def test_jobs_go_on_without_a_node_that_hangs_with_the_leading_operator_and_what_wakes_up_there_does_nothing(
    checkdam: Cluster, namespaces: Callable[[], str]
) -> None:
    whole, half = OrdersJob(checkdam, namespaces()), OrdersJob(checkdam, namespaces())
    stays, lost = nodes(checkdam)
    leader = _lead_from(whole, lost, stays)
    with cordoned(checkdam, stays):
        _start(whole)
    _start(half, coordinator={"podTemplate": {"spec": {"nodeSelector": dict([STAYS])}}})
    assert _places(whole.pods()) == {lost}
    assert _places(half.pods("worker")) == {stays, lost}
    zombies = [pod for job in (whole, half) for pod in job.pods() if pod["spec"]["nodeName"] == lost]
    with frozen(checkdam, lost):
        # Now, when none of them can end; each by more than its number, which others get in their turn.
        processes = [Process(pid) for pod in (*zombies, leader) for pid in processes_of(checkdam, pod).values()]
        _until_elsewhere(half, stays)
        assert nodes(checkdam) == [stays, lost], "the job has waited until Kubernetes gave the node up"
        half.until_more(half.check() + 2000)
        _until_elsewhere(whole, stays)
        whole.until_more(whole.check() + 2000)
        whole.kubectl("delete", "pods", *_names(zombies, whole.namespace), "--force", "--grace-period=0")
        successor, pods = leading_operator(checkdam), [*half.names(), *whole.names()]
        assert successor != leader["metadata"]["name"]
    half.until(lambda: None if any(process.is_running() for process in processes) else True, "end of the zombies")
    for job in (half, whole):
        job.until_more(job.check() + 2000)
        job.wait("condition=Ready")
    until_operator_runs(checkdam)
    assert [*half.names(), *whole.names()] == pods, "pods were replaced again"
    assert leading_operator(checkdam) == successor
    assert _ended_with(checkdam, leader) == EXIT_LOST


def _lead_from(job: OrdersJob, node: str, other: str) -> dict[str, Any]:
    """See to it that there is an operator on each node, and that the one on `node` leads; the pod of that one."""
    cluster = job.cluster
    with drained(cluster, other, *_OPERATOR):
        until_operator_runs(cluster)
    leads = job.until(lambda: _leader(cluster), "operator that leads")
    with cordoned(cluster, node):
        [stands_by] = [pod for pod in operator_pods(cluster) if pod["metadata"]["uid"] != leads["metadata"]["uid"]]
        cluster.plane.kubectl("delete", "--filename=-", stdin=json.dumps(stands_by))
        until_operator_runs(cluster)
    assert leads["spec"]["nodeName"] == node
    assert _places(operator_pods(cluster)) == {node, other}
    return leads


def _leader(cluster: Cluster) -> dict[str, Any] | None:
    name = leading_operator(cluster)
    return next((pod for pod in operator_pods(cluster) if pod["metadata"]["name"] == name), None)


def _ended_with(cluster: Cluster, pod: dict[str, Any]) -> int:
    """The exit code of the process that the container of an operator's pod had before."""
    [found] = [now for now in operator_pods(cluster) if now["metadata"]["uid"] == pod["metadata"]["uid"]]
    return int(found["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"])


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
