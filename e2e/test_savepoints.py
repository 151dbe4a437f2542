"""Savepoints as resources: taken on demand and by the clock, deleted with their files, and what another job begins from."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import yaml

from cluster.cluster import Cluster
from cluster_job import ClusterJob
from job_savepoints import ask, completed
from orders_job import NAME, OrdersJob

_COUNT: Final = 50_000
_STORAGE: Final = "file:///checkpoints/"
"""The volume of the example, as its job names it."""
_SCHEDULED: Final = "checkdam.dev/scheduled=true"
_KEPT: Final = 2


def scheduled(job: ClusterJob) -> dict[str, dict[str, Any]]:
    """The Savepoints that were made by the clock: name → status."""
    found = json.loads(job.kubectl("get", "savepoints", f"--selector={_SCHEDULED}", "--output=json"))["items"]
    return {savepoint["metadata"]["name"]: savepoint.get("status", {}) for savepoint in found}


def folder(job: ClusterJob, status: dict[str, Any]) -> Path:
    """Where the files of a completed Savepoint are, as this computer sees them."""
    return job.volume(NAME) / str(status["uri"]).removeprefix(_STORAGE)


def rows(output: Path) -> list[dict[str, Any]]:
    """All receipts in a folder."""
    return [json.loads(row) for file in output.glob("*.jsonl") for row in file.read_text().splitlines()]


def by_shop(receipts: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Shop → the numbers of its receipts, in order."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for row in receipts:
        numbers[row["shop"]].append(row["receipt"])
    return {shop: sorted(found) for shop, found in numbers.items()}


def test_a_savepoint_disturbs_no_job_and_another_job_goes_on_from_it_with_each_order_once(
    checkdam: Cluster, namespace: str
) -> None:
    job = OrdersJob(checkdam, namespace)
    # So slow that it is not over before the other job is, wherever this runs.
    job.apply(args={"count": _COUNT, "rate": 100})
    job.wait("condition=Ready")
    job.until_more(0)
    pods, attempt = job.names(), job.object()["status"]["attempt"]

    ask(job, "before-the-sale")
    taken = completed(job, "before-the-sale")
    assert (folder(job, taken) / "_metadata").exists()
    job.wait("jsonpath={.status.lastSavepoint.name}=before-the-sale")

    spec = job.object()["spec"] | {"restoreFrom": "before-the-sale"}
    spec["program"]["args"] |= {"out": "/checkpoints/trial", "rate": 50_000}
    trial = ClusterJob(checkdam, namespace, "orders-trial")
    body = {"apiVersion": "checkdam.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": trial.name}, "spec": spec}
    trial.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(body))
    trial.wait("condition=Stalled")
    assert "`spec.allowNonRestoredState: true`" in trial.condition("Stalled")["message"]
    spec["allowNonRestoredState"] = True
    trial.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(body))
    trial.wait("jsonpath={.status.state}=Completed")
    assert trial.object()["status"]["restoredFrom"] == taken["uri"]

    of_trial = rows(job.volume(NAME) / "trial")
    first = {shop: numbers[0] for shop, numbers in by_shop(of_trial).items()}
    before = [row for row in rows(job.output) if row["receipt"] < first[row["shop"]]]
    assert before
    assert sorted(row["order"] for row in (*before, *of_trial)) == list(range(_COUNT))
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_shop([*before, *of_trial]).values())

    job.until_more(job.check())
    assert job.names() == pods
    assert job.object()["status"]["attempt"] == attempt


def test_savepoints_by_the_clock_are_kept_as_many_as_the_spec_says_and_files_go_with_those_that_say_so(
    checkdam: Cluster, namespace: str
) -> None:
    job = OrdersJob(checkdam, namespace)
    job.apply(savepoints={"interval": "2s", "retain": _KEPT})
    job.wait("condition=Ready")
    ask(job, "mine")
    mine = folder(job, completed(job, "mine"))
    first = job.until(lambda: next(iter(scheduled(job)), None), "savepoint by the clock")
    job.kubectl("wait", f"savepoint/{first}", "--for=delete", "--timeout=120s")

    job.patch(savepoints={"interval": ""})
    kept = job.until(lambda: _kept(job, mine), f"{_KEPT} savepoints by the clock, and no files but theirs and mine")
    # Nothing waits for a job that is away: what is to go is noted, and goes when the job is back.
    job.patch(suspend=True)
    job.wait("jsonpath={.status.state}=Suspended")
    gone, stays = sorted(kept)
    job.kubectl("delete", "savepoint", gone, "mine", "--timeout=10s")
    assert kept[gone].exists()
    job.patch(suspend=False)
    job.until(lambda: True if not kept[gone].exists() else None, "end of the files of the savepoint that is gone")
    assert (kept[stays] / "_metadata").exists()
    assert (mine / "_metadata").exists()
    job.until_more(job.check() + 1000)


def _kept(job: ClusterJob, mine: Path) -> dict[str, Path] | None:
    """The folders of the savepoints that were made by the clock, once they are as many as they are to be, and no other is left."""
    found = scheduled(job)
    if len(found) != _KEPT or any(status.get("state") != "Completed" for status in found.values()):
        return None
    folders = {name: folder(job, status) for name, status in found.items()}
    there = {path for path in mine.parent.glob("savepoint-*") if (path / "_metadata").exists()}
    return folders if there == {mine, *folders.values()} else None
