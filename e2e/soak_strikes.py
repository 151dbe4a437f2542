"""What may strike a job in a soak, by name: each finds itself a victim, and says whom it has hit.

All are over, and put right, when they return; what they have done to the job need not be. So the next may come while the job
still recovers from the one before, which then has fewer victims, or none.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from checkdam_operator.resources.names import JOB_LABEL
from cluster.cluster import Cluster
from cluster.commands import CommandError
from cluster_s3 import s3_address
from installation import OPERATOR_NAMESPACE
from job_savepoints import ask
from node_strikes import drained, frozen, nodes
from orders_job import OrdersJob
from strikes import (
    UnsupportedError,
    addresses,
    api_server_away,
    cut,
    etcd_paused,
    kill_container,
    operator_away,
    own,
)

Strike = Callable[[OrdersJob, random.Random], str]
"""Strikes at the job, with what is left to chance; returns whom it has hit, in a few words.

Raises `MissedError` if there was nobody to hit.
"""

_MOST_WORKERS: Final = 3
_FORCED: Final = ("--force", "--grace-period=0")


class MissedError(Exception):
    """There was nobody to hit."""


def strikes_on(cluster: Cluster) -> Mapping[str, Strike]:
    """All strikes that this kind of cluster can be given."""
    try:
        own(cluster)
    except UnsupportedError:
        return _ANYWHERE
    return _ANYWHERE | _WITH_MACHINES


def _delete_operators(job: OrdersJob, chance: random.Random) -> str:
    """One of the operator's pods, or all."""
    where = f"--namespace={OPERATOR_NAMESPACE}"
    names = job.cluster.plane.kubectl("get", "pods", where, "--output=name").split()
    hit = [chance.choice(sorted(names))] if chance.random() < 0.5 else names
    job.cluster.plane.kubectl("delete", where, *hit, "--wait=false", "--ignore-not-found")
    return ", ".join(name.removeprefix("pod/") for name in hit)


def _cut_storage(job: OrdersJob, chance: random.Random) -> str:
    pods = list(filter(runs, job.pods()))
    if not pods:
        raise MissedError("no pod runs")
    return _for_a_while(cut(job.cluster, addresses(pods), [s3_address(job.cluster)]), chance, 5, 30)


def _drain(job: OrdersJob, chance: random.Random) -> str:
    """Budgets for disruption may hold it back for as long as the job has not recovered from what was before."""
    node = chance.choice(nodes(job.cluster))
    try:
        lasted = _for_a_while(drained(job.cluster, node, f"{JOB_LABEL}={job.name}"), chance, 5, 20)
    except CommandError as error:
        if "timed out" not in str(error) and "timeout" not in str(error):
            raise
        raise MissedError(f"the pods of {node} could not be evicted in time") from None
    return f"{node}, {lasted}"


def _freeze(job: OrdersJob, chance: random.Random) -> str:
    """The last node; the first has what the job needs from outside."""
    node = nodes(job.cluster)[-1]
    return f"{node}, {_for_a_while(frozen(job.cluster, node), chance, 20, 45)}"


def _take_operators_away(job: OrdersJob, chance: random.Random) -> str:
    return _for_a_while(operator_away(job.cluster), chance, 10, 40)


def _take_api_server_away(job: OrdersJob, chance: random.Random) -> str:
    return _for_a_while(api_server_away(job.cluster), chance, 2, 20)


def _pause_etcd(job: OrdersJob, chance: random.Random) -> str:
    return _for_a_while(etcd_paused(job.cluster), chance, 5, 30)


def _scale(job: OrdersJob, chance: random.Random) -> str:
    now = int(job.object()["spec"]["parallelism"])
    wanted = chance.choice([workers for workers in range(1, _MOST_WORKERS + 1) if workers != now])
    job.kubectl("scale", f"streamjob/{job.name}", f"--replicas={wanted}")
    return f"{now} → {wanted}"


def _upgrade(job: OrdersJob, chance: random.Random) -> str:
    mode, nonce = chance.choice(("Savepoint", "LastState")), f"{chance.getrandbits(32):08x}"
    job.patch(upgrade={"mode": mode}, restartNonce=nonce)
    return mode


def _suspend_and_resume(job: OrdersJob, chance: random.Random) -> str:
    """The second may come before the first is done."""
    seconds = chance.uniform(0, 20)
    job.patch(suspend=True)
    time.sleep(seconds)
    job.patch(suspend=False)
    return f"for {seconds:.0f} s"


def _savepoint(job: OrdersJob, chance: random.Random) -> str:
    name, on_delete = f"soak-{chance.getrandbits(32):08x}", chance.choice(("Keep", "Delete"))
    ask(job, name, onDelete=on_delete)
    return f"{name}, {on_delete}"


def _kill_process(job: OrdersJob, chance: random.Random, component: str) -> str:
    name = str(_victim(job, component, chance)["metadata"]["name"])
    try:
        job.kill_process(name)
    except CommandError as error:
        raise MissedError(f"{name} could not be entered: {error}") from None
    return name


def _kill_container(job: OrdersJob, chance: random.Random, component: str) -> str:
    pod = _victim(job, component, chance)
    try:
        kill_container(job.cluster, pod)
    except (KeyError, ProcessLookupError):
        raise MissedError(f"the container of {pod['metadata']['name']} has just ended") from None
    return str(pod["metadata"]["name"])


def _delete_pod(job: OrdersJob, chance: random.Random, component: str) -> str:
    name, force = str(_victim(job, component, chance)["metadata"]["name"]), chance.random() < 0.5
    job.kubectl("delete", "pod", name, "--wait=false", "--ignore-not-found", *(_FORCED if force else ()))
    return f"{name}{', by force' if force else ''}"


def _cut(job: OrdersJob, chance: random.Random, component: str) -> str:
    workers, others = (list(filter(runs, job.pods(role))) for role in ("worker", component))
    if not workers or not others or workers == others == workers[:1]:
        raise MissedError("there are no two to cut from each other")
    return _for_a_while(cut(job.cluster, addresses(workers), addresses(others)), chance, 5, 30)


def _for_a_while(
    strike: AbstractContextManager[object], chance: random.Random, shortest_s: float, longest_s: float
) -> str:
    seconds = chance.uniform(shortest_s, longest_s)
    with strike:
        time.sleep(seconds)
    return f"for {seconds:.0f} s"


def _victim(job: OrdersJob, component: str, chance: random.Random) -> dict[str, Any]:
    there = sorted(filter(runs, job.pods(component)), key=lambda pod: str(pod["metadata"]["name"]))
    if not there:
        raise MissedError(f"no {component} runs")
    return chance.choice(there)


def runs(pod: dict[str, Any]) -> bool:
    """Whether all containers of a pod run."""
    statuses = pod["status"].get("containerStatuses", [])
    return bool(statuses) and all("running" in status["state"] for status in statuses)


_ANYWHERE: Final[dict[str, Strike]] = {
    "kill a task process": partial(_kill_process, component="worker"),
    "kill the coordinator's process": partial(_kill_process, component="coordinator"),
    "delete a worker pod": partial(_delete_pod, component="worker"),
    "delete the coordinator pod": partial(_delete_pod, component="coordinator"),
    "delete operator pods": _delete_operators,
    "drain a node": _drain,
    "take the operators away": _take_operators_away,
    "scale": _scale,
    "upgrade": _upgrade,
    "suspend and resume": _suspend_and_resume,
    "take a savepoint": _savepoint,
}
_WITH_MACHINES: Final[dict[str, Strike]] = {
    "kill a worker container": partial(_kill_container, component="worker"),
    "kill the coordinator's container": partial(_kill_container, component="coordinator"),
    "cut workers from each other": partial(_cut, component="worker"),
    "cut workers from the coordinator": partial(_cut, component="coordinator"),
    "cut the job from S3": _cut_storage,
    "freeze a node": _freeze,
    "take the API server away": _take_api_server_away,
    "pause etcd": _pause_etcd,
}
