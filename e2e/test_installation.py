"""What becomes of jobs when the operator is upgraded, uninstalled and installed again, in whichever way, as the pages on that have it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.cluster import Cluster
from installation import OPERATOR_NAMESPACE, PROJECT, README_NAMESPACE, install_operator, operator_pods
from orders_job import OrdersJob
from page_commands import commands
from user_shell import WHERE_TESTS_INSTALL, UserShell

OTHER_VALUES: Final = " --set jobs.image.tag=newer,jobs.unreachableToleration=20s"
"""What pods of jobs are made with: an image that there is not, and a toleration."""
WITHOUT_HELM: Final = PROJECT / "deploy" / "kustomize" / "operator"
TOKEN: Final = "{{.data.token | base64decode}}"
READ_METRICS: Final = (
    "import sys, urllib.request as r;"
    "metrics = r.Request('http://127.0.0.1:8080/metrics', headers={'Authorization': 'Bearer ' + sys.argv[1]});"
    "print(r.urlopen(metrics, timeout=5).status)"
)


@pytest.fixture
def administrator(
    checkdam: Cluster, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[UserShell]:
    """A user who may do with the tests' operator what he likes; afterwards it is as it was."""
    request.node.user_properties.append(("namespace", README_NAMESPACE))  # for the evidence
    try:
        yield replace(UserShell.of(checkdam, namespace, tmp_path), names=WHERE_TESTS_INSTALL)
    finally:
        # Helm takes away what it has installed or taken over, which is not all if the test has failed in between.
        checkdam.plane.kubectl("delete", f"--kustomize={WITHOUT_HELM}", "--ignore-not-found")
        install_operator(checkdam)
        checkdam.plane.kubectl("label", "namespace", OPERATOR_NAMESPACE, "pod-security.kubernetes.io/enforce-")


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
    pods = identities(job.pods())
    _upgrade(job, administrator)
    job.until_more(job.check() + 3000)
    assert identities(job.pods()) == pods
    lose_a_worker(job)

    _go_back(job, administrator)
    _change_hands(job, administrator)


def _upgrade(job: OrdersJob, user: UserShell) -> None:
    """Upgrade an operator in a namespace that enforces security, with other values and another token for metrics."""
    watch, enforce = commands("docs/how-to/install.md", "With Helm")
    change_token, restart = commands("docs/how-to/rotate-secrets.md", "For metrics")
    upgrade, _, define = commands("docs/how-to/upgrade-the-operator.md", "Do it")  # one watches both alike
    old = operator_pods(job.cluster)
    for command in (enforce, change_token, restart, define, upgrade + OTHER_VALUES, watch):
        user.run(command)
    _until_gone(job.cluster, *(f"pod/{pod['metadata']['name']}" for pod in old))
    token = f"kubectl --namespace checkdam get secret checkdam-metrics --output go-template='{TOKEN}'"
    read = f'kubectl --namespace checkdam exec deployment/checkdam -- python -c "{READ_METRICS}" "$({token})"'
    assert user.run(read) == "200\n"


def _go_back(job: OrdersJob, user: UserShell) -> None:
    [roll_back] = commands("docs/how-to/upgrade-the-operator.md", "Go back")
    show_operator, show_jobs, log = commands("docs/how-to/upgrade-the-operator.md", "Check it")
    user.run(roll_back)
    values = user.run("helm get values checkdam --namespace checkdam")
    assert "newer" not in values
    shown = user.run(show_operator)
    assert "lease.coordination.k8s.io/checkdam " in shown
    assert "pod/checkdam-" in shown
    [line] = [line for line in user.run(show_jobs).splitlines() if line.startswith(job.namespace)]
    assert line.split()[:4] == [job.namespace, job.name, "True", "Running"]
    assert '"message": ' in user.run(log)


def _change_hands(job: OrdersJob, user: UserShell) -> None:
    """Uninstall the operator, install it without Helm, where the pages do, and with Helm again; meanwhile the job goes on with its pods."""
    uninstall, token, take_over, back = commands(
        "docs/how-to/upgrade-the-operator.md", "From the chart to kustomize, or back"
    )
    create, _, apply = commands("docs/how-to/install.md", "Without Helm")
    watch, _ = commands("docs/how-to/install.md", "With Helm")
    pods = identities(job.pods())
    user.run(uninstall)
    _until_gone(job.cluster, "pods", "--all")
    job.until_more(job.check() + 5000)
    assert job.kubectl("get", "streamjobs", "--output=name") == "streamjob.checkdam.dev/orders\n"
    where_pages_install = replace(user, names={})
    for command in (create, token, take_over, apply, watch):
        where_pages_install.run(command)
    job.until_more(job.check() + 1000)
    assert identities(job.pods()) == pods
    lose_a_worker(job)

    pods = identities(job.pods())
    where_pages_install.run(back)
    job.until_more(job.check() + 1000)
    assert identities(job.pods()) == pods


def _until_gone(cluster: Cluster, *objects: str) -> None:
    cluster.plane.kubectl("wait", f"--namespace={OPERATOR_NAMESPACE}", "--for=delete", "--timeout=60s", *objects)
