"""A namespace that a job has no room in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cluster_job import ClusterJob

_QUOTA: Final = "few"


@contextmanager
def quota_exhausted(job: ClusterJob) -> Iterator[None]:
    """Allow no more than one pod in the job's namespace, besides those that are there. Begins when another one would be refused for that.

    Raises:
        CommandError: The quota does not come into force.
    """
    job.kubectl("create", "quota", _QUOTA, "--hard=pods=1")
    # Until a controller has counted what there is, pods are refused for that.
    job.kubectl("wait", f"quota/{_QUOTA}", "--for=jsonpath={.status.hard.pods}=1", "--timeout=120s")
    yield
    job.kubectl("delete", "quota", _QUOTA)
