"""What pods are given, and what is refused before a pod is made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pod_security import violations
from resource_jobs import CASES, OLD_POD_UID, Case, container, coordinator, environment, job, objects, worker

from checkdam.spec import ManifestError
from checkdam.spec.status import StartWish
from checkdam_operator.resources.pods import PodDefaults, Succession, pod_problems


def storage(uri: str, **options: Any) -> dict[str, Any]:
    return {"checkpoint": {"storage": {"uri": uri, **options}}}


def mount_paths(pod: dict[str, Any]) -> dict[str, str]:
    """Volume → where Checkdam's container sees it."""
    return {mount["name"]: mount["mountPath"] for mount in container(pod)["volumeMounts"]}


def volume(pod: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [found for found in pod["spec"]["volumes"] if found["name"] == name]
    return {key: value for key, value in found.items() if key != "name"}


def requests(pod: dict[str, Any]) -> dict[str, Any]:
    requested = container(pod)["resources"].get("requests", {})
    assert isinstance(requested, dict)
    return requested


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pods_keep_to_the_restricted_standard(case: Case) -> None:
    for pod in objects(case):
        if pod["kind"] == "Pod":
            assert violations(pod) == []
            assert pod["spec"]["automountServiceAccountToken"] is False
            assert container(pod)["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_mount_has_a_volume_and_every_volume_a_mount(case: Case) -> None:
    for pod in objects(case):
        if pod["kind"] == "Pod":
            paths = mount_paths(pod)
            assert paths.keys() == {found["name"] for found in pod["spec"]["volumes"]}
            assert len(set(paths.values())) == len(paths)


def test_a_pod_that_avoids_a_node_prefers_all_others_and_is_not_drawn_back_by_spreading() -> None:
    pod = worker(job(), Case({}, succession=Succession(avoids="node-b")))
    [preferred] = pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    [field] = preferred["preference"]["matchFields"]
    assert field == {"key": "metadata.name", "operator": "NotIn", "values": ["node-b"]}
    assert "topologySpreadConstraints" not in pod["spec"]


def test_a_worker_has_no_token_of_the_coordinators_api() -> None:
    items = {
        role: [item["key"] for item in volume(pod, "checkdam-auth")["secret"]["items"]]
        for role, pod in (("worker", worker(job())), ("coordinator", coordinator(job())))
    }
    assert items == {"worker": ["secret"], "coordinator": ["secret", "token", "metrics-token"]}


def test_a_worker_knows_its_index_and_where_the_coordinator_is() -> None:
    assert environment(worker(job(), Case({}, worker=7)))["CHECKDAM_INDEX"] == "7"
    for ip, address in (("10.96.0.17", "10.96.0.17:6470"), ("fd00::17", "[fd00::17]:6470")):
        assert environment(worker(job(), Case({}, coordinator_ip=ip)))["CHECKDAM_COORDINATOR"] == address


def test_a_coordinator_knows_how_to_begin() -> None:
    case = Case({}, start=StartWish(restore_from="s3://bucket/savepoint", request="r1"), since_epoch=8, start_number=3)
    assert json.loads(environment(coordinator(job(), case))["CHECKDAM_START"]) == {
        "resume": False,
        "fresh": False,
        "restoreFrom": "s3://bucket/savepoint",
        "request": "r1",
        "expectedCheckpoint": "",
        "sinceEpoch": 8,
        "startNumber": 3,
        "parallelism": 1,
    }


def test_a_pod_says_which_one_it_replaces() -> None:
    first, second = worker(job()), worker(job(), Case({}, succession=Succession(OLD_POD_UID, 2)))
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first["metadata"]["annotations"]["checkdam.dev/replaces"] == ""
    assert second["metadata"]["annotations"]["checkdam.dev/replaces"] == OLD_POD_UID
    assert second["metadata"]["annotations"]["checkdam.dev/replacements"] == "2"


def test_the_image_of_the_job_goes_before_the_default_one() -> None:
    defaults = PodDefaults("default:1", "Never", ("login",))
    pod = worker(job(), Case({}, defaults=defaults))
    assert container(pod)["image"] == "default:1"
    assert container(pod)["imagePullPolicy"] == "Never"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "login"}]
    assert container(worker(job({"image": "mine:2"}), Case({}, defaults=defaults)))["image"] == "mine:2"


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("file:///checkpoints", "/checkpoints"),
        ("file:///data//jobs/./a/", "/data/jobs/a"),
        ("file:///with%20space", "/with space"),
        ("file:////twice", "/twice"),
        ("file:///tmp/checkpoints", "/tmp/checkpoints"),
    ],
)
def test_a_claim_is_mounted_at_the_folder_of_the_uri(uri: str, folder: str) -> None:
    made = job(storage(uri, persistentVolumeClaim={"claimName": "claim"}))
    for pod in (worker(made), coordinator(made)):
        assert mount_paths(pod)["checkdam-storage"] == folder
        assert volume(pod, "checkdam-storage") == {"persistentVolumeClaim": {"claimName": "claim"}}


def test_credentials_are_mounted_where_s3_clients_look_for_them() -> None:
    made = job(storage("s3://checkpoints", s3={"credentialsSecret": "keys"}))
    for pod in (worker(made), coordinator(made)):
        assert mount_paths(pod)["checkdam-s3"] == "/var/run/secrets/checkdam/keys"
        assert volume(pod, "checkdam-s3")["secret"] == {"secretName": "keys", "defaultMode": 0o440}


def test_code_in_a_config_map_is_mounted_into_all_pods() -> None:
    made = job({"program": {"entrypoint": "a:b", "configMap": "code"}})
    for pod in (worker(made), coordinator(made)):
        assert mount_paths(pod)["checkdam-program"] == "/etc/checkdam/program"
        assert volume(pod, "checkdam-program") == {"configMap": {"name": "code"}}


def test_hdfs_is_told_who_we_are() -> None:
    assert environment(worker(job(storage("hdfs://n:9870/x", hdfs={"user": "me"}))))["HADOOP_USER_NAME"] == "me"
    assert "HADOOP_USER_NAME" not in environment(worker(job(storage("hdfs://n:9870/x"))))


@pytest.mark.parametrize(
    ("uri", "must"),
    [
        ("file://./checkpoints", "must be an absolute folder"),
        ("file:///", "must be an absolute folder"),
        ("file:///a:b", "must be an absolute folder without a colon"),
        ("file:///etc/checkdam/job", "must be a folder apart from"),
        ("file:///var/lib/checkdam/x", "must be a folder apart from"),
        ("file:///tmp/", "must be a folder apart from"),
    ],
)
def test_a_folder_that_no_pod_can_have_is_refused(uri: str, must: str) -> None:
    [problem] = pod_problems(job(storage(uri, persistentVolumeClaim={"claimName": "claim"})))
    assert problem.startswith(f"`spec.checkpoint.storage.uri` {must}")
    assert problem.endswith(f"(got '{uri}')")


def test_a_folder_needs_a_volume_in_every_pod() -> None:
    shared = {
        "podTemplate": {
            "spec": {
                "volumes": [{"name": "nfs", "nfs": {"server": "nfs.example", "path": "/"}}],
                "containers": [{"name": "checkdam", "volumeMounts": [{"name": "nfs", "mountPath": "/data/"}]}],
            }
        }
    }
    lone = storage("file:///data/checkpoints")
    assert len(pod_problems(job(lone))) == 2
    [problem] = pod_problems(job(lone | {"worker": shared}))
    assert "`spec.checkpoint.storage.persistentVolumeClaim.claimName`" in problem
    assert "podTemplate of `spec.coordinator`" in problem
    assert pod_problems(job(lone | {"worker": shared, "coordinator": shared})) == []
    with pytest.raises(ManifestError, match="a volume that all pods share"):
        worker(job(lone))


def test_a_worker_asks_for_the_memory_that_its_state_backend_may_take() -> None:
    rocksdb = {"stateBackend": {"type": "rocksdb", "rocksdb": {"memory": "1G"}}}
    assert requests(worker(job())) == {"cpu": "100m", "memory": "256Mi"}
    assert requests(worker(job(rocksdb))) == {"cpu": "100m", "memory": "1210Mi"}
    assert requests(coordinator(job(rocksdb))) == {"cpu": "100m", "memory": "256Mi"}


def test_a_coordinator_asks_for_the_memory_of_the_checkpoints_that_it_keeps() -> None:
    memory = storage("memory://", memory={"limit": "100Mi"}, allowVolatile=True)
    assert requests(coordinator(job(memory)))["memory"] == "356Mi"
    assert requests(worker(job(memory)))["memory"] == "256Mi"


@pytest.mark.parametrize(
    ("given", "requested"),
    [
        ({"limits": {"memory": "128Mi"}}, {"cpu": "100m"}),
        ({"requests": {"memory": "1Gi"}}, {"cpu": "100m", "memory": "1Gi"}),
        ({"limits": {"memory": "1Gi", "cpu": 2}}, {}),
        ({"requests": {"example.com/gpu": 1}}, {"cpu": "100m", "memory": "256Mi", "example.com/gpu": 1}),
    ],
)
def test_nothing_is_asked_for_beside_what_the_user_gave(given: dict[str, Any], requested: dict[str, Any]) -> None:
    template = {"spec": {"containers": [{"name": "checkdam", "resources": given}]}}
    for spec in ({"resources": given}, {"podTemplate": template}):
        for pod in (worker(job({"worker": spec})), coordinator(job({"coordinator": spec}))):
            assert requests(pod) == requested


def test_resources_of_the_whole_pod_are_the_users_too() -> None:
    template = {"spec": {"resources": {"limits": {"memory": "200Mi"}}}}
    assert requests(worker(job({"worker": {"podTemplate": template}}))) == {"cpu": "100m"}


def test_resources_of_the_wrong_shape_are_refused_by_name() -> None:
    assert pod_problems(job({"worker": {"resources": {"limits": "1Gi"}}})) == [
        "`spec.worker.resources.limits` must be a mapping (got '1Gi')"
    ]


def test_the_environment_of_the_user_goes_before_ours_where_it_may() -> None:
    found = environment(worker(job({"worker": {"env": [{"name": "HOME", "value": "/x"}, {"name": "A", "value": ""}]}})))
    assert (found["HOME"], found["A"], found["USER"]) == ("/x", None, "checkdam")


def test_variables_that_say_who_a_process_is_are_refused_without_their_value() -> None:
    variable = {"name": "CHECKDAM_POD_UID", "value": "hunter2"}
    template = {"spec": {"containers": [{"name": "checkdam", "env": [variable]}]}}
    problems = pod_problems(job({"worker": {"env": [variable]}, "coordinator": {"podTemplate": template}}))
    assert problems == [
        "`spec.coordinator.podTemplate.spec.containers[0].env[0].name` must be another one: Checkdam needs this one "
        "itself (got 'CHECKDAM_POD_UID')",
        "`spec.worker.env[0].name` must be another one: Checkdam needs this one itself (got 'CHECKDAM_POD_UID')",
    ]
