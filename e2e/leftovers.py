"""What a job leaves behind: in Kubernetes once it is deleted, and in its storage beside what its checkpoints and savepoints consist of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from checkdam_operator.resources.names import JOB_LABEL
from cluster.commands import CommandError
from cluster_job import ClusterJob
from cluster_s3 import s3_of


def objects_of(job: ClusterJob) -> list[str]:
    """Everything in the job's namespace that is labelled as its own, of whatever kind, but what has happened to it."""
    resources = job.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "--output=name").split()
    kinds = [kind for kind in resources if kind.partition(".")[0] != "events"]
    return job.kubectl("get", ",".join(kinds), f"--selector={JOB_LABEL}={job.name}", "--output=name").split()


@dataclass(frozen=True)
class Stored:
    """What is in a job's folder in S3.

    Attributes:
        problems: What is damaged or missing, a sentence each.
        kept: The checkpoints and savepoints that count.
        orphans: Files that none of them names.
    """

    problems: list[str]
    kept: list[str]
    orphans: list[str]


def stored_by(job: ClusterJob, uri: str) -> Stored:
    """What `checkdam checkpoints verify` says of the job's folder below `uri`, on the cluster's S3 server.

    Raises:
        CommandError: It cannot be looked at.
    """
    server = s3_of(job.cluster)
    folder = f"{uri}/{job.namespace}/{job.name}"
    done = subprocess.run(
        [sys.executable, "-m", "checkdam", "checkpoints", "verify", folder, "--json"],
        env={**os.environ, **server.environment(), "AWS_ENDPOINT_URL": server.endpoint},
        capture_output=True,
        text=True,
    )
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise CommandError(f"{folder} cannot be verified: {done.stdout + done.stderr}") from None
    wrong = [f"{name}: {problem}" for name, problems in found["checkpoints"].items() for problem in problems]
    return Stored([*found["journal"], *wrong], list(found["checkpoints"]), [file["path"] for file in found["orphans"]])
