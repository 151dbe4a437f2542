"""Memory and disk that run out: it is told with a remedy, and the job is right once there is enough again."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest
from example_modules import EXAMPLES

from cluster.cluster import Cluster
from node_strikes import nodes, small_disk
from orders_job import NAME, OrdersJob
from page_commands import commands
from user_shell import UserShell

_EXAMPLE: Final = EXAMPLES / NAME
_EATER: Final = '''
"""The example, with an operator that takes all memory there is as soon as it finds a certain file."""

import os

import orders
from orders import build


class Eater(orders.Register):
    def process(self, value, ctx):
        if os.path.exists("/checkpoints/eat"):
            try:
                os.unlink("/checkpoints/eat")
            except FileNotFoundError:
                return super().process(value, ctx)  # another one eats
            eaten = []
            while True:
                eaten.append(b"x" * 2**20)
        return super().process(value, ctx)


orders.Register = Eater
'''
_LIMIT: Final = {"limits": {"memory": "384Mi"}}
_REMEDY: Final = "raise `resources.limits.memory` of `spec.worker`"
_DISK_BYTES: Final = 16 * 2**20


@dataclass(frozen=True)
class JobOnSmallDisk(OrdersJob):
    """A job whose volume is a small file system on the only node that it runs on.

    Attributes:
        disk: As this computer sees it.
    """

    disk: Path = field(kw_only=True)

    def volume(self, claim: str) -> Path:
        return self.disk

    def fill(self) -> None:
        """Take all the room that is left."""
        with (self.disk / "ballast").open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def make_room(self) -> None:
        """Give back what `fill` has taken."""
        (self.disk / "ballast").unlink()

    def until_told(self, kind: str, reason: str) -> str:
        """Keep the disk full until a condition has a reason; its message."""

        def told() -> str | None:
            self.fill()
            return self.message_of(kind, "reason", reason)

        return self.until(told, f"condition {kind} with the reason {reason}")


@contextmanager
def _job_on_small_disk(cluster: Cluster, namespace: str, tolerated: int) -> Iterator[JobOnSmallDisk]:
    """A job that has written something."""
    claimed = OrdersJob(cluster, namespace)
    claimed.kubectl("apply", f"--filename={_EXAMPLE / 'claim.yaml'}")
    node = nodes(cluster)[-1]
    there = {"podTemplate": {"spec": {"nodeSelector": {"kubernetes.io/hostname": node}}}}
    storage = {"uri": "file:///checkpoints", "persistentVolumeClaim": {"claimName": NAME}}
    checkpoint = {"interval": "2s", "tolerableFailures": tolerated, "storage": storage}
    with small_disk(cluster, node, claimed.volume(NAME), _DISK_BYTES) as disk:
        job = JobOnSmallDisk(cluster, namespace, disk=disk)
        job.apply(coordinator=there, worker=there, checkpoint=checkpoint)
        job.wait("condition=Ready")
        job.until_more(0)
        yield job


def test_a_worker_that_takes_too_much_memory_is_told_and_goes_on_in_its_pod(checkdam: Cluster, namespace: str) -> None:
    job = OrdersJob(checkdam, namespace)
    inline = {"orders.py": (_EXAMPLE / "orders.py").read_text(), "eater.py": _EATER}
    program = {"entrypoint": "eater:build", "inline": inline, "args": {"out": "/checkpoints/results"}}
    job.apply(program=program, worker={"resources": _LIMIT})
    job.wait("condition=Ready")
    job.until_more(0)
    before = job.names()
    (job.volume(NAME) / "eat").touch()
    job.until(lambda: True if any(_REMEDY in said for said in _events(job)) else None, "Event about memory")
    # The Event may come before the attempt that follows, and that may come before the status says so.
    job.wait("jsonpath={.status.restarts}=1")
    job.until_more(job.check() + 3000)
    assert job.names() == before
    assert job.object()["status"]["restarts"] == 1


def test_a_limit_of_memory_that_is_too_low_is_told_until_it_is_raised(checkdam: Cluster, namespace: str) -> None:
    job = OrdersJob(checkdam, namespace)
    job.apply(worker={"resources": {"limits": {"memory": "24Mi"}}})
    assert _REMEDY in job.stalled("OutOfMemory")
    job.apply(worker={"resources": _LIMIT})
    job.wait("condition=Ready")
    job.until_more(0)


@pytest.mark.usefixtures("machines")
def test_a_job_that_tolerates_failed_checkpoints_runs_on_while_its_volume_is_full(
    checkdam: Cluster, namespace: str, tmp_path: Path
) -> None:
    [ask_why] = commands("docs/how-to/runbooks.md", "CheckdamCheckpointsFailing")
    user = replace(UserShell.of(checkdam, namespace, tmp_path), names={"NAMESPACE": namespace, "JOB": NAME})
    with _job_on_small_disk(checkdam, namespace, tolerated=1000) as job:
        attempt, written = job.object()["status"]["attempt"], job.check()
        assert "free space" in job.until_told("CheckpointHealthy", "CheckpointsFail")
        assert "free space" in user.run(ask_why)
        job.make_room()
        job.wait("condition=CheckpointHealthy")
        job.until_more(written + 3000)
        assert job.object()["status"]["attempt"] == attempt


@pytest.mark.usefixtures("machines")
def test_a_job_whose_volume_is_full_is_stalled_until_there_is_room_and_nothing_is_lost(
    checkdam: Cluster, namespace: str
) -> None:
    with _job_on_small_disk(checkdam, namespace, tolerated=0) as job:
        written = job.check()
        assert "free space" in job.until_told("Stalled", "AttemptsFail")
        job.make_room()
        job.wait("condition=Ready")
        job.until_more(written + 3000)
        job.wait("condition=CheckpointHealthy")


def _events(job: OrdersJob) -> list[str]:
    """What Events say of the job."""
    about = f"--field-selector=involvedObject.kind=StreamJob,involvedObject.name={job.name}"
    return [
        str(event["message"]) for event in json.loads(job.kubectl("get", "events", about, "--output=json"))["items"]
    ]
