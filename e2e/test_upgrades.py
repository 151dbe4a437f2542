"""Edits of a job: what it goes on with by each upgrade mode, what becomes of a wrong one, and of one that comes while it rests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from cluster.cluster import Cluster
from cluster.image_definitions import RUNTIME
from cluster.images import version
from orders_job import NAME, OrdersJob

IMAGE: Final = f"docker.io/{RUNTIME.name}:{version()}"
"""The default image by its whole name: another spec, and an image that the nodes of every cluster have."""
ABSENT_IMAGE: Final = "127.0.0.1:1/nothing:1"
_KEPT: Final = 6
CONFIG: Final = {"checkpoint": {"interval": "500ms", "retain": _KEPT}}


@pytest.mark.parametrize(("mode", "kind"), [("Savepoint", "savepoint"), ("LastState", "chk")])
def test_edits_of_image_config_and_args_go_on_with_the_state_that_the_job_was_stopped_with(
    job: OrdersJob, mode: str, kind: str
) -> None:
    _deploy(job, upgrade={"mode": mode}, image=IMAGE)
    assert _images(job) == {IMAGE}
    assert _restored_from(job).startswith(f"{kind}-")
    _deploy(job, **CONFIG)
    assert _restored_from(job).startswith(f"{kind}-")
    _until_kept(job)
    # No order above this number is read before the edit: a thousand come each second.
    count = job.check() + 30_000
    job.patch(program={"args": {"count": count, "rate": 10_000}})
    job.wait("jsonpath={.status.state}=Completed")
    assert job.check() == count


def test_stateless_edits_of_image_config_and_args_commit_what_there_is_and_start_anew(job: OrdersJob) -> None:
    edits: list[dict[str, Any]] = [{"upgrade": {"mode": "Stateless"}, "image": IMAGE}, CONFIG, {}]
    for number, edit in enumerate(edits):
        anew = replace(job, results=f"anew-{number}")
        _deploy(job, **edit, program={"args": {"out": f"/checkpoints/{anew.results}"}})
        written = job.check()
        anew.until_more(1000)
        assert job.check() == written
        job = anew
    assert _images(job) == {IMAGE}
    _until_kept(job)


def test_a_suspended_job_has_no_pods_and_goes_on_where_it_was_as_its_spec_is_then(job: OrdersJob) -> None:
    job.patch(suspend=True)
    job.wait("jsonpath={.status.state}=Suspended")
    job.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=90s")
    job.wait("condition=Ready")
    assert "/savepoint-" in job.object()["status"]["lastSavepoint"]["uri"]
    written = job.check()
    _deploy(job, parallelism=3)
    assert job.names() == []
    assert job.check() == written
    _deploy(job, suspend=False)
    assert len(job.names("worker")) == 3
    job.until_more(written + 1000)


def test_wrong_edits_are_told_and_rolled_back_and_the_next_right_one_is_deployed(job: OrdersJob) -> None:
    right = job.object()["spec"]["program"]["entrypoint"]
    job.patch(program={"entrypoint": "orders:absent"})
    assert "absent" in job.stalled("RolledBack")
    job.until_more(job.check() + 1000)
    assert job.condition("Ready")["status"] == "False"
    rolled_back = job.names()
    _deploy(job, program={"entrypoint": right})
    assert job.condition("Stalled")["status"] == "False"
    assert job.names() == rolled_back

    # Long enough for a kubelet that is busy to find that there is no such image: from then on the rollback is told in place of that.
    job.patch(image=ABSENT_IMAGE, upgrade={"progressDeadline": "30s"})
    assert ABSENT_IMAGE in job.stalled("ImagePullFailed")
    assert ABSENT_IMAGE in job.stalled("RolledBack")
    job.until_more(job.check() + 1000)
    assert job.condition("Ready")["status"] == "False"
    _deploy(job, image=IMAGE, upgrade={"progressDeadline": None})
    assert job.condition("Stalled")["status"] == "False"
    assert _images(job) == {IMAGE}
    job.until_more(job.check() + 1000)


def test_a_version_that_had_worked_is_not_rolled_back_and_goes_on_when_its_spec_is_changed(job: OrdersJob) -> None:
    _deploy(job, restart={"strategy": "Never"})
    job.until_more(job.check() + 3000)
    job.kill_process(job.names("worker")[0])
    assert "spec.restartNonce" in job.stalled("JobFailed")
    job.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=90s")
    written = job.check()
    _deploy(job, restartNonce="again")
    job.until_more(written + 1000)


def test_a_completed_job_still_takes_edits_and_starts_over_when_it_is_told_so(
    checkdam: Cluster, namespace: str
) -> None:
    job = OrdersJob(checkdam, namespace)
    job.apply(args={"count": 5000, "rate": 5000})
    _until_completed(job)
    job.patch(parallelism=1)
    _until_completed(job)
    assert job.object()["status"]["deployment"]["revision"] == 2
    assert job.check() == 5000
    anew = replace(job, results="anew")
    job.patch(restoreFrom="Fresh", program={"args": {"out": f"/checkpoints/{anew.results}"}})
    _until_completed(job)
    assert (job.check(), anew.check()) == (5000, 5000)
    job.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=90s")


def _deploy(job: OrdersJob, **spec: Any) -> None:
    """Edit the spec, and wait until the job does as it says: `kubectl wait` takes no condition for true that is of an older one."""
    job.patch(**spec)
    job.wait("condition=Ready")


def _until_completed(job: OrdersJob) -> None:
    job.wait("condition=Ready")
    job.wait("jsonpath={.status.state}=Completed")


def _until_kept(job: OrdersJob) -> None:
    """Wait until there are as many checkpoints of the job's current life as only the edited config keeps."""
    of_this_life = f"chk-*-{job.object()['status']['epoch']}.*/_metadata"
    folder = job.volume(NAME) / job.namespace / NAME
    job.until(lambda: True if len(list(folder.glob(of_this_life))) >= _KEPT else None, "checkpoints that are kept")


def _images(job: OrdersJob) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in job.pods()}


def _restored_from(job: OrdersJob) -> str:
    """The folder of what the job began with."""
    return str(job.object()["status"]["restoredFrom"]).rpartition("/")[2]
