"""The named state backends, each on storage that it is known with: a worker is lost, and nothing of the output."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import fsspec
import pytest
from example_modules import check_statements
from hdfs_server import HdfsServer, hdfs

from backend_job import StateBackendJob
from cluster.cluster import Cluster
from cluster_s3 import s3_of, s3_storage

ARGS: Final = {"count": 40_000, "rate": 2_000}
"""Twenty seconds of work: enough to lose a worker in the middle of it, also where it takes some of them until that is asked for."""
Names = Callable[[], list[str]]


def checkpoints(names: Names) -> set[str]:
    """The checkpoints that are whole in the storage, by the folders that have a `_metadata`."""
    return {Path(name).parent.name for name in names() if Path(name).name == "_metadata"}


def lose_a_worker(job: StateBackendJob, storage: dict[str, Any]) -> None:
    """Run the job to its end, delete a worker pod once there is output, and look at all that it has written."""
    job.apply(storage, ARGS)
    job.wait("condition=Ready")
    job.until(lambda: job.rows() or None, "output")
    before = job.names("worker")
    assert len(before) == 2
    job.kubectl("delete", "pod", before[0], "--wait=false")
    job.wait("jsonpath={.status.state}=Completed")
    check_statements(job.rows(), ARGS["count"])
    status = job.object()["status"]
    assert status["restarts"] >= 1
    assert status["lastCheckpoint"]["id"] >= 1


@pytest.fixture
def hdfs_server(cluster: Cluster, tmp_path: Path) -> Iterator[HdfsServer]:
    """An HDFS that pods reach. Its two JVMs run on this computer, and only for the test: nothing else is in need of them."""
    with hdfs(tmp_path, cluster.computer) as server:
        yield server


def test_a_job_with_the_memory_state_backend_outlives_a_worker(checkdam: Cluster, namespace: str) -> None:
    job = StateBackendJob(checkdam, namespace, "memory-state-backend")
    lose_a_worker(job, {})
    assert job.object()["status"]["lastCheckpoint"]["uri"].startswith("memory://")


def test_a_job_with_the_fs_state_backend_has_its_checkpoints_on_a_volume(checkdam: Cluster, namespace: str) -> None:
    job = StateBackendJob(checkdam, namespace, "fs-state-backend")
    lose_a_worker(job, {})
    volume = job.volume("checkpoints")
    assert checkpoints(lambda: [str(file) for file in volume.rglob("*")])


def test_a_job_with_the_fs_state_backend_has_its_checkpoints_in_hdfs(
    hdfs_server: HdfsServer, checkdam: Cluster, namespace: str
) -> None:
    host, port = hdfs_server.webhdfs.split(":")
    client = fsspec.filesystem("webhdfs", host=host, port=int(port), user=getpass.getuser())
    client.mkdir("/checkpoints")
    client.chown("/checkpoints", owner="checkdam")  # the user of the example
    job = StateBackendJob(checkdam, namespace, "fs-state-backend-hdfs")
    lose_a_worker(job, {"uri": f"{hdfs_server.uri}/checkpoints"})
    assert checkpoints(lambda: client.find("/checkpoints"))


def test_a_job_with_the_rocksdb_state_backend_has_its_checkpoints_in_s3(checkdam: Cluster, namespace: str) -> None:
    bucket = s3_of(checkdam).new_bucket()
    job = StateBackendJob(checkdam, namespace, "rocksdb-state-backend")
    lose_a_worker(job, s3_storage(bucket.name))
    assert checkpoints(lambda: list(bucket.keys()))
