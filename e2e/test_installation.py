"""What becomes of jobs when the operator is upgraded, uninstalled and installed again, as the pages on that have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.cluster import Cluster
from installation import OPERATOR_NAMESPACE, README_NAMESPACE, install_operator, operator_pods
from orders_job import OrdersJob
from user_shell import UserShell, commands

OTHER_VALUES: Final = " --set jobs.image.tag=newer,jobs.unreachableToleration=20s"
"""What pods of jobs are made with: an image that there is not, and a toleration."""


@pytest.fixture
def administrator(checkdam: Cluster, namespace: str, tmp_path: Path) -> Iterator[UserShell]:
    """A user who may do with the operator what he likes; afterwards it is as it was."""
    try:
        yield UserShell.of(checkdam, namespace, tmp_path)
    finally:
        install_operator(checkdam)


def here(command: str) -> str:
    """A command of a page, for the namespace of the tests' operator."""
    return command.replace(f"--namespace {README_NAMESPACE}", f"--namespace {OPERATOR_NAMESPACE}")


def identities(pods: list[dict[str, Any]]) -> set[tuple[str, str, int]]:
    """What is different of pods that are others, or have been started again: name, image and starts."""
    return {
        (
            pod["metadata"]["name"],
            pod["spec"]["containers"][0]["image"],
            pod["status"]["containerStatuses"][0]["restartCount"],
        )
        for pod in pods
    }


def lose_a_worker(job: OrdersJob) -> None:
    """Delete a worker pod, and wait until the job goes on with another of the same image, and with all the others as they were."""
    before, lost = identities(job.pods()), job.names("worker")[0]
    job.kubectl("delete", "pod", lost)
    job.until_more(job.check() + 3000)
    after = identities(job.pods())
    assert {name for name, _, _ in before - after} == {lost}
    assert len(after) == len(before)
    assert {image for _, image, _ in after} == {image for _, image, _ in before}


@pytest.mark.alone
def test_an_operator_that_is_upgraded_uninstalled_and_installed_again_restarts_no_pod_of_a_job(
    job: OrdersJob, administrator: UserShell
) -> None:
    upgrade, watch, *_ = commands("docs/how-to/upgrade-the-operator.md", "Do it")
    uninstall, *_ = commands("docs/how-to/install.md", "Uninstall")
    pods = identities(job.pods())
    operators = [f"pod/{pod['metadata']['name']}" for pod in operator_pods(job.cluster)]
    gone = ("wait", f"--namespace={OPERATOR_NAMESPACE}", "--for=delete", "--timeout=60s")

    administrator.run(here(upgrade) + OTHER_VALUES)
    administrator.run(here(watch))
    job.cluster.plane.kubectl(*gone, *operators)
    job.until_more(job.check() + 3000)
    assert identities(job.pods()) == pods
    lose_a_worker(job)

    pods = identities(job.pods())
    administrator.run(here(uninstall))
    job.cluster.plane.kubectl(*gone, "pods", "--all")
    job.until_more(job.check() + 5000)
    assert job.kubectl("get", "streamjobs", "--output=name") == "streamjob.checkdam.dev/orders\n"
    install_operator(job.cluster)
    job.until_more(job.check() + 3000)
    assert identities(job.pods()) == pods
    lose_a_worker(job)
