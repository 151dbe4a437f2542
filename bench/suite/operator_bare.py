"""What the operator is beside: loops that create as many objects as jobs have, by the operator's own client, and decide nothing.

They send the same objects by the same verbs, as many at once and as many a second as the operator would.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from checkdam.spec import parse_manifest
from checkdam.spec.status import Deployment, StartWish
from checkdam_operator.kube.client import KubeClient
from checkdam_operator.kube.connection import load_configuration
from checkdam_operator.kube.kinds import (
    CONFIG_MAP,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SECRET,
    SERVICE,
    STREAM_JOB,
    Kind,
)
from checkdam_operator.kube.limiter import TokenBucket, WriteLimiter
from checkdam_operator.resources import config
from checkdam_operator.resources.config import NetworkPeers
from checkdam_operator.resources.pods import PodDefaults, coordinator_pod, worker_pod
from checkdam_operator.settings import Settings
from cluster.control_plane import ControlPlane

IMAGE: Final = "checkdam-runtime:bench"
POLL_S: Final = 1.0
_PATIENCE_S: Final = 3600.0
_DEFAULTS: Final = Settings()

AT_ONCE: Final = _DEFAULTS.workers
"""Requests at once: as many as the operator looks at jobs at once."""


@dataclass(frozen=True)
class BareLoop:
    """What a loop took.

    Attributes:
        wall_s: From its first request until all pods are Running.
        cpu_s: Processor time of the loop.
        objects: How many it created.
    """

    wall_s: float
    cpu_s: float
    objects: int


def manifest(namespace: str, name: str, workers: int) -> dict[str, Any]:
    """The StreamJob that is measured."""
    return {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "program": {"entrypoint": "words:build"},
            "parallelism": workers,
            "checkpoint": {"interval": "10s", "storage": {"uri": "s3://bucket/jobs"}},
        },
    }


async def pods_alone(plane: ControlPlane, namespace: str, jobs: int, workers: int, writes_per_s: float) -> BareLoop:
    """Create the pods of so many jobs."""
    return await _loop(plane, namespace, jobs, workers, writes_per_s, only=POD)


async def all_objects(plane: ControlPlane, namespace: str, jobs: int, workers: int, writes_per_s: float) -> BareLoop:
    """Create all objects of so many jobs but the jobs themselves."""
    return await _loop(plane, namespace, jobs, workers, writes_per_s)


async def create_jobs(plane: ControlPlane, namespace: str, jobs: int, workers: int) -> None:
    """Create the StreamJobs."""
    client = KubeClient(await load_configuration(str(plane.kubeconfig)))
    bodies = (manifest(namespace, f"job-{number:04}", workers) for number in range(jobs))
    try:
        await at_once(client.create(STREAM_JOB, namespace, body) for body in bodies)
    finally:
        await client.close()


async def at_once(work: Iterable[Awaitable[Any]]) -> None:
    """Do all of it, `AT_ONCE` at once."""
    left = iter(work)

    async def run() -> None:
        for one in left:
            await one

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(run())


async def until_none(plane: ControlPlane, path: str, fields: str, still: Callable[[], None] = lambda: None) -> float:
    """Wait until there is no object of which the field selector holds; returns the time by the monotonic clock.

    Args:
        still: Called meanwhile; raises if there is nobody any more who would bring that about.
    """
    deadline = time.monotonic() + _PATIENCE_S
    # From the API server's memory, which costs little beside what is measured.
    query = f"{path}?fieldSelector={fields}&resourceVersion=0"
    while (await asyncio.to_thread(plane.call, "GET", query))["items"]:
        still()
        if time.monotonic() > deadline:
            raise RuntimeError(f"there are still objects with {fields} at {path} after {_PATIENCE_S:g} s")
        await asyncio.sleep(POLL_S)
    return time.monotonic()


async def _loop(
    plane: ControlPlane, namespace: str, jobs: int, workers: int, writes_per_s: float, only: Kind | None = None
) -> BareLoop:
    limiter = WriteLimiter(TokenBucket(writes_per_s, _DEFAULTS.write_burst))
    client = KubeClient(await load_configuration(str(plane.kubeconfig)), limiter=limiter)
    wanted = [
        (kind, body)
        for number in range(jobs)
        for kind, body in _objects(namespace, f"bare-{number:04}", workers)
        if only in (None, kind)
    ]
    started, cpu_before = time.monotonic(), time.process_time()
    try:
        await at_once(_send(client, kind, namespace, body) for kind, body in wanted)
    finally:
        await client.close()
    cpu_s = time.process_time() - cpu_before
    ended = await until_none(plane, f"/api/v1/namespaces/{namespace}/pods", "status.phase!=Running")
    return BareLoop(ended - started, cpu_s, len(wanted))


async def _send(client: KubeClient, kind: Kind, namespace: str, body: dict[str, Any]) -> None:
    if kind in (SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY):
        await client.apply(kind, namespace, body["metadata"]["name"], body)
    else:
        await client.create(kind, namespace, body)


def _objects(namespace: str, name: str, workers: int) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """What the operator makes for a job, but for the owner: there is none, and what has lost its owner is deleted."""
    body = manifest(namespace, name, workers)
    body["metadata"]["uid"] = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{namespace}"))
    job = parse_manifest(body)
    deployment = Deployment(revision=1, generation=1, hash="0" * 16, parallelism=workers, config_map=f"{name}-00000000")
    defaults = PodDefaults(IMAGE)
    objects = [
        (SECRET, config.auth_secret(job, "0" * 64, "0" * 64, "0" * 64)),
        (CONFIG_MAP, config.config_map(job, 1, IMAGE)),
        (SERVICE, config.service(job, "aaaaa")),
        (POD_DISRUPTION_BUDGET, config.disruption_budget(job)),
        (NETWORK_POLICY, config.network_policy(job, NetworkPeers())),
        (POD, coordinator_pod(job, deployment, defaults, start=StartWish(), since_epoch=0, start_number=1)),
        *((POD, worker_pod(job, deployment, defaults, at, coordinator_ip="10.96.0.9")) for at in range(workers)),
    ]
    for kind, made in objects:
        del made["metadata"]["ownerReferences"]
        yield kind, made
