"""The quick start on Kubernetes: a user without anything does what the README says, to the letter, and gets what it promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cluster import Cluster
from installation import OPERATOR_NAMESPACE, README_NAMESPACE, install_operator, uninstall_operator
from orders_job import OrdersJob
from page_commands import commands
from user_shell import WHERE_TESTS_INSTALL, UserShell, says_ready


@pytest.fixture
def newcomer(checkdam: Cluster, namespace: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[UserShell]:
    """A user of a cluster that everything was taken away from, as the page on that has it; afterwards all is as it was."""
    request.node.user_properties.append(("namespace", README_NAMESPACE))  # for the evidence
    _, delete_jobs, uninstall, delete_definitions = commands("docs/how-to/install.md", "Uninstall")
    user = UserShell.of(checkdam, namespace, tmp_path)
    before = replace(user, names=WHERE_TESTS_INSTALL)
    try:
        before.run(delete_jobs)
        before.run(uninstall)
        before.run(delete_definitions)
        uninstall_operator(checkdam, OPERATOR_NAMESPACE)
        assert "checkdam.dev" not in checkdam.plane.kubectl("get", "crds", "--output=name")
        yield user
    finally:
        install_operator(checkdam)


def deployment(status: dict[str, Any]) -> tuple[int, int]:
    """The epoch and the attempt of a job: of two, the later one is greater."""
    return status["epoch"], status["attempt"]


@pytest.mark.alone
def test_the_quick_start_of_the_readme_does_what_it_says(
    checkdam: Cluster, namespace: str, newcomer: UserShell
) -> None:
    job = OrdersJob(checkdam, namespace)
    install, apply, watch, kill, watch_again, ask = commands("README.md", "On Kubernetes")
    newcomer.run(install)
    newcomer.run(apply)
    newcomer.watch(watch, says_ready)
    written = job.until_more(0)  # people are not as fast as the first checkpoint
    pods, before = job.names(), job.object()["status"]
    newcomer.run(kill)

    def is_ready_again(line: str) -> bool:
        # What the watch prints first may be from before the pods were killed.
        return says_ready(line) and deployment(job.object()["status"]) > deployment(before)

    newcomer.watch(watch_again, is_ready_again)
    assert not set(job.names()) & set(pods)
    job.until_more(written + 2000)
    assert re.fullmatch(r"[1-9]\d* orders; each has one receipt, and no receipt is missing\n", newcomer.run(ask))
