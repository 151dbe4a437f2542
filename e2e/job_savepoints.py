"""Savepoints of a job on a cluster: how they are asked for, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import yaml

from cluster_job import ClusterJob


def ask(job: ClusterJob, name: str, **spec: Any) -> None:
    """Create a Savepoint of the job."""
    body = {"apiVersion": "checkdam.dev/v1alpha1", "kind": "Savepoint", "metadata": {"name": name}}
    job.kubectl("create", "--filename=-", stdin=yaml.safe_dump(body | {"spec": {"job": job.name, **spec}}))


def completed(job: ClusterJob, name: str) -> dict[str, Any]:
    """The status of a Savepoint once it is completed.

    Raises:
        CommandError: It is not within two minutes.
    """
    job.kubectl("wait", f"savepoint/{name}", "--for=condition=Ready", "--timeout=120s")
    return dict(json.loads(job.kubectl("get", "savepoint", name, "--output=json"))["status"])
