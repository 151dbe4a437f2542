"""What end-to-end tests share: the cluster, Checkdam installed on it, a namespace for each test, and evidence when one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import pytest

from cluster.choice import chosen_cluster
from cluster.cluster import Cluster, reclaim_volumes
from cluster.mending import delete_orphaned_namespaces
from cluster.owners import NAMESPACE, prefix
from evidence import collect
from installation import OPERATOR_NAMESPACE, PROJECT, install_operator
from orders_job import OrdersJob
from strikes import UnsupportedError, own
from turns import turn

_EVIDENCE: Final = PROJECT / "out" / "e2e"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=int, default=180, help="How long the soak strikes at its job.")
    parser.addoption("--seed", type=int, help="Decides how the soak strikes; by chance if it is left out.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The soak comes last: whatever breaks by itself is to be told by its own test."""
    items.sort(key=lambda item: item.path.stem == "test_soak")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """A Kubernetes with two nodes, up to date; it stays when the tests are over, for `run.py` or whoever brought it up."""
    chosen = chosen_cluster()
    # A test that has broken it for a moment is waited for, or it would be taken for one that is not up, and be made anew.
    with turn(chosen.volumes.parent, alone=False):
        chosen.up(lambda what: print(what, flush=True))
        delete_orphaned_namespaces(chosen.plane)
    return chosen


@pytest.fixture(scope="session")
def checkdam(cluster: Cluster) -> Cluster:
    """The cluster, with the operator installed by its chart as it is, and Ready."""
    with turn(cluster.volumes.parent, alone=False):
        install_operator(cluster)
    return cluster


@pytest.fixture
def namespaces(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes namespaces for one test, whose pods are gone before the next. A test marked `alone` has the cluster for itself."""
    plane = cluster.plane
    made: list[str] = []

    def another() -> str:
        made.append(plane.new_namespace(prefix(NAMESPACE)))
        request.node.user_properties.append(("namespace", made[-1]))
        return made[-1]

    with turn(cluster.volumes.parent, alone=request.node.get_closest_marker("alone") is not None):
        reclaim_volumes(cluster)
        yield another
        if made:
            plane.kubectl("delete", "namespace", *made, "--wait=false")
        for name in made:
            plane.kubectl("wait", "pods", "--all", f"--namespace={name}", "--for=delete", "--timeout=120s")


@pytest.fixture
def namespace(namespaces: Callable[[], str]) -> str:
    """A namespace for one test."""
    return namespaces()


@pytest.fixture
def shared_folder(cluster: Cluster) -> Iterator[Path]:
    """A folder that all nodes see under the same path. It outlives the pods of namespaces that are made after it."""
    folder = Path(mkdtemp(prefix="shared-", dir=cluster.volumes))
    yield folder
    cluster.remove_folder(folder)


@pytest.fixture
def job(checkdam: Cluster, namespace: str) -> OrdersJob:
    """A job that has written its first receipts, and does not end."""
    made = OrdersJob(checkdam, namespace)
    made.apply()
    made.wait("condition=Ready")
    made.until_more(0)
    return made


@pytest.fixture
def machines(cluster: Cluster) -> None:
    """The cluster has machines that can be broken; a test that needs them is skipped elsewhere."""
    try:
        own(cluster)
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """When a test fails, say where the evidence is, before anything is cleaned up."""
    report = yield
    if report.failed and report.when in ("setup", "call"):  # type: ignore[attr-defined]
        namespaces = [str(value) for name, value in item.user_properties if name == "namespace"]
        folder = _EVIDENCE / item.name
        collect(folder, chosen_cluster(), [OPERATOR_NAMESPACE, *namespaces])
        report.sections.append(("evidence", f"in {folder}"))  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have to report beside whether they passed, wherever they ran."""
    for found in terminalreporter.stats.values():
        for test in (each for each in found if isinstance(each, pytest.TestReport) and each.when == "call"):
            for text in (str(value) for name, value in test.user_properties if name == "report"):
                terminalreporter.write_sep("=", test.location[2])
                terminalreporter.write_line(text)
