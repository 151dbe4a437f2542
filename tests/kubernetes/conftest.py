"""A real Kubernetes API for the tests of this folder, one for all processes of a test run.

Its programs take minutes to build, so where they are missing the tests are left out, which the summary of the run says;
with `CHECKDAM_ALL_TESTS` in the environment they are built instead.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from job_scene import CRDS, Scene, job_scene
from s3_server import S3Bucket

from cluster.control_plane import ControlPlane, control_plane
from cluster.programs import API_PROGRAMS, REMEDY, missing
from cluster.stub_kubelet import StubKubelet, stub_kubelet

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = missing(API_PROGRAMS)
    if not lacking or os.environ.get("CHECKDAM_ALL_TESTS"):
        return
    reason = pytest.mark.skip(reason=f"`{REMEDY}` must build {', '.join(lacking)} first")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(reason)


@pytest.fixture(scope="session", name="control_plane")
def shared_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane of this test run, with the project's CRDs; its processes share it."""
    folder = tmp_path_factory.getbasetemp()
    with control_plane(
        (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "kubernetes", CRDS
    ) as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace that nobody else uses; deleted afterwards, without waiting for it."""
    name = control_plane.new_namespace()
    yield name
    control_plane.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def kubelet(control_plane: ControlPlane, namespace: str) -> AsyncIterator[StubKubelet]:
    """Plays the nodes for the test's namespace, so that pods become Ready; `kubelet.behaviour` may be replaced."""
    async with stub_kubelet(control_plane, namespace) as playing:
        yield playing


@pytest.fixture
async def scene(
    control_plane: ControlPlane, namespace: str, s3_bucket: S3Bucket, tmp_path: Path
) -> AsyncIterator[Scene]:
    """The test's namespace with an operator and a kubelet that runs pods as processes."""
    async with job_scene(control_plane, namespace, s3_bucket, tmp_path) as made:
        yield made
