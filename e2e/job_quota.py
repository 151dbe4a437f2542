"""A namespace that a job has no room in."""

from __future__ import annotations

from typing import Final

from cluster_job import ClusterJob

QUOTA: Final = "few"


def exhaust_quota(job: ClusterJob) -> None:
    """Allow one pod in the job's namespace, until the quota `QUOTA` is deleted. Comes back when a second one would be refused for that.

    Raises:
        CommandError: The quota does not come into force.
    """
    job.kubectl("create", "quota", QUOTA, "--hard=pods=1")
    # Until a controller has counted what there is, pods are refused for that.
    job.kubectl("wait", f"quota/{QUOTA}", "--for=jsonpath={.status.hard.pods}=1", "--timeout=120s")
