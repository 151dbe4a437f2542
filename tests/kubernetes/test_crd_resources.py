"""StreamJobs and Savepoints in a real API server: what may change, how they are shown, found and scaled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from crd_calls import Resources, refusal
from spec_samples import manifest, savepoint

from checkdam.spec import parse_manifest, parse_savepoint
from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import Condition, StreamJobStatus
from cluster.commands import CommandError
from cluster.control_plane import ApiError, ControlPlane

NOW = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@pytest.fixture
def jobs(control_plane: ControlPlane, namespace: str) -> Resources:
    return Resources(control_plane, namespace)


@pytest.fixture
def savepoints(control_plane: ControlPlane, namespace: str) -> Resources:
    return Resources(control_plane, namespace, "savepoints")


def refused(resources: Resources, name: str, changes: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        resources.patch(name, changes)
    return refusal(caught.value)


def spaced(line: str) -> str:
    return " ".join(line.split())


def status_of(state: str, **fields: Any) -> dict[str, Any]:
    ready = Condition(type="Ready", status="True", reason="Running", message="as asked for", last_transition_time=NOW)
    status = StreamJobStatus.model_validate({"state": state, "conditions": [ready.model_dump(by_alias=True)], **fields})
    return {"status": status.model_dump(by_alias=True, mode="json", exclude_none=True)}


def test_the_number_of_key_groups_stays_as_it_is(jobs: Resources) -> None:
    jobs.create(manifest({"spec.maxParallelism": 256}))
    sentence = (
        "`spec.maxParallelism` must stay as it is: it is the number of key groups, which all keyed state lies in "
        "(was 256, got {})"
    )

    assert sentence.format(64) in refused(jobs, "flight-delays", {"spec": {"maxParallelism": 64}})
    assert sentence.format(128) in refused(jobs, "flight-delays", {"spec": {"maxParallelism": None}})


@pytest.mark.parametrize(("before", "after"), [("", "other"), ("one", "two"), ("one", "")])
def test_the_job_id_stays_as_it_is_given_or_not(jobs: Resources, before: str, after: str) -> None:
    jobs.create(manifest({"spec.jobId": before} if before else {}))

    assert (
        "`spec.jobId` must stay as it is: it is the job's identity and the name of its folder in storage "
        f"(was '{before}', got '{after}')"
    ) in refused(jobs, "flight-delays", {"spec": {"jobId": after}})


def test_a_savepoint_stays_the_one_it_is_but_its_files_may_be_given_up(savepoints: Resources) -> None:
    savepoints.create(savepoint())

    why = "must stay as it is: another savepoint is another resource"
    assert f"`spec.job` {why} (was 'flight-delays', got 'other')" in refused(
        savepoints, "before-friday", {"spec": {"job": "other"}}
    )
    assert f"`spec.uri` {why} (was '', got 's3://bucket/x')" in refused(
        savepoints, "before-friday", {"spec": {"uri": "s3://bucket/x"}}
    )
    assert savepoints.patch("before-friday", {"spec": {"onDelete": "Delete"}})["spec"]["onDelete"] == "Delete"


def test_kubectl_shows_how_a_job_is(jobs: Resources) -> None:
    jobs.create(manifest({"spec.parallelism": 2}))
    jobs.patch(
        "flight-delays",
        status_of("Running", workersText="1/2", restarts=3, lastCheckpoint={"id": 4, "time": NOW}, image="example/a:1"),
        "status",
    )

    table = jobs.plane.kubectl("get", "sjob", "-n", jobs.namespace).splitlines()
    wide = jobs.plane.kubectl("get", "streamjob", "-n", jobs.namespace, "-o", "wide").splitlines()

    columns = "NAME READY STATE WORKERS PARALLELISM CHECKPOINT AGE RESTARTS AGE"
    assert spaced(table[0]) == columns
    assert spaced(wide[0]) == f"{columns} REASON MESSAGE IMAGE"
    assert table[1].split()[:5] == ["flight-delays", "True", "Running", "1/2", "2"]
    assert "as asked for" in wide[1]
    assert wide[1].split()[-1] == "example/a:1"


def test_kubectl_shows_how_a_savepoint_is(savepoints: Resources) -> None:
    savepoints.create(savepoint())
    status = SavepointStatus(state="Completed", uri="s3://bucket/savepoint-1", message="done").model_dump(
        by_alias=True, mode="json", exclude_none=True
    )
    savepoints.patch("before-friday", {"status": status}, "status")

    table = savepoints.plane.kubectl("get", "sjsp", "-n", savepoints.namespace, "-o", "wide").splitlines()

    assert spaced(table[0]) == "NAME STATE JOB URI AGE MESSAGE"
    assert table[1].split()[:4] == ["before-friday", "Completed", "flight-delays", "s3://bucket/savepoint-1"]


def test_both_kinds_belong_to_streaming(jobs: Resources, savepoints: Resources) -> None:
    jobs.create(manifest())
    savepoints.create(savepoint())

    shown = jobs.plane.kubectl("get", "streaming", "-n", jobs.namespace, "-o", "name").split()

    assert shown == ["savepoint.checkdam.dev/before-friday", "streamjob.checkdam.dev/flight-delays"]


def test_jobs_are_found_by_their_state_and_by_being_suspended(jobs: Resources) -> None:
    jobs.create(manifest({"metadata.name": "a"}))
    jobs.create(manifest({"metadata.name": "b", "spec.suspend": True}))
    jobs.patch("a", status_of("Running"), "status")

    assert jobs.select("spec.suspend=true") == ["b"]
    assert jobs.select("status.state=Running") == ["a"]


def test_savepoints_are_found_by_their_job(savepoints: Resources) -> None:
    savepoints.create(savepoint())
    savepoints.create(savepoint({"metadata.name": "other", "spec.job": "other"}))

    assert savepoints.select("spec.job=other") == ["other"]


def test_kubectl_scales_a_job_within_its_bounds(jobs: Resources) -> None:
    jobs.create(manifest())
    scale = ("scale", "sjob/flight-delays", "-n", jobs.namespace)

    jobs.plane.kubectl(*scale, "--replicas=5")
    with pytest.raises(CommandError, match=r"must be less than or equal to `spec\.maxParallelism`, 128 \(got 500\)"):
        jobs.plane.kubectl(*scale, "--replicas=500")

    assert jobs.read("flight-delays")["spec"]["parallelism"] == 5
    assert jobs.read("flight-delays")["metadata"]["generation"] == 2


def test_whoever_writes_the_spec_does_not_write_the_status_and_the_other_way_round(jobs: Resources) -> None:
    jobs.create(manifest())
    jobs.patch("flight-delays", {**status_of("Running"), "spec": {"parallelism": 9}}, "status")
    jobs.patch("flight-delays", {"status": {"state": "Failed"}})

    read = jobs.read("flight-delays")
    assert (read["status"]["state"], read["spec"]["parallelism"], read["metadata"]["generation"]) == ("Running", 1, 1)


def test_a_status_applied_anew_keeps_one_condition_of_each_type(jobs: Resources) -> None:
    jobs.create(manifest())
    body = {"apiVersion": "checkdam.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": "flight-delays"}}
    path = f"/apis/checkdam.dev/v1alpha1/namespaces/{jobs.namespace}/streamjobs/flight-delays/status"
    for state in ("Running", "Restarting"):
        applied = {**body, **status_of(state)}
        jobs.plane.call("PATCH", f"{path}?fieldManager=a&force=true", applied, "application/apply-patch+yaml")

    status = jobs.read("flight-delays")["status"]
    assert (status["state"], [condition["type"] for condition in status["conditions"]]) == ("Restarting", ["Ready"])
    twice = {**body, "status": {"conditions": status["conditions"] * 2}}
    with pytest.raises(ApiError, match="duplicate"):
        jobs.plane.call("PATCH", f"{path}?fieldManager=a&force=true", twice, "application/apply-patch+yaml")


def test_kubectl_explains_the_fields(control_plane: ControlPlane) -> None:
    interval = control_plane.kubectl("explain", "streamjob.spec.checkpoint.interval")
    on_delete = control_plane.kubectl("explain", "savepoint.spec.onDelete")

    assert "From the start of one checkpoint to the start of the next." in spaced(interval)
    assert "What happens to the files when this resource is deleted." in spaced(on_delete)


def test_what_is_read_back_is_a_manifest(jobs: Resources, savepoints: Resources) -> None:
    jobs.create(manifest({"metadata.namespace": jobs.namespace}))
    jobs.patch("flight-delays", status_of("Running"), "status")
    savepoints.create(savepoint({"metadata.namespace": jobs.namespace}))

    job, taken = parse_manifest(jobs.read("flight-delays")), parse_savepoint(savepoints.read("before-friday"))

    assert job.metadata.uid
    assert job.spec == parse_manifest(manifest()).spec
    assert StreamJobStatus.model_validate(job.status).state == "Running"
    assert taken.spec == parse_savepoint(savepoint()).spec
