"""The objects of a job, as the golden files have them, are what the API server takes, in a namespace under the `restricted` standard."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from cluster.control_plane import ApiError, ControlPlane

GOLDEN = Path(__file__).resolve().parents[1] / "operator" / "golden"
DRY_RUN = {"dryRun": "All", "fieldValidation": "Strict"}
APPLY = {"fieldManager": "checkdam-operator", "force": "true"}

COLLECTIONS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
}
CREATED = {"ConfigMap", "Secret", "Pod"}
"""The others are applied."""


@pytest.fixture
def restricted(control_plane: ControlPlane, namespace: str) -> str:
    """A namespace that takes only pods under the `restricted` standard, with the service account of the golden files."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    path, merge = f"/api/v1/namespaces/{namespace}", "application/merge-patch+json"
    control_plane.call("PATCH", path, {"metadata": {"labels": labels}}, merge)
    control_plane.call("POST", f"{path}/serviceaccounts", {"metadata": {"name": "streams"}})
    return namespace


def golden(name: str, namespace: str) -> list[dict[str, Any]]:
    """The objects of a golden file, moved to another namespace."""
    found = list(yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")))
    for each in found:
        each["metadata"]["namespace"] = namespace
    return found


def send(control_plane: ControlPlane, body: dict[str, Any]) -> dict[str, Any]:
    """What the API server would make of an object."""
    path = COLLECTIONS[body["kind"]].format(body["metadata"]["namespace"])
    if body["kind"] in CREATED:
        answer = control_plane.call("POST", f"{path}?{urlencode(DRY_RUN)}", body)
    else:
        query = urlencode(DRY_RUN | APPLY)
        path = f"{path}/{body['metadata']['name']}?{query}"
        answer = control_plane.call("PATCH", path, body, "application/apply-patch+yaml")
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
def test_the_api_server_takes_the_objects_of_a_job(control_plane: ControlPlane, restricted: str, name: str) -> None:
    for body in golden(name, restricted):
        answer = send(control_plane, body)
        assert answer["metadata"]["name"] == body["metadata"]["name"]
        assert answer["metadata"]["labels"] == body["metadata"]["labels"]


def test_the_api_server_keeps_no_token_and_the_short_tolerations_of_a_pod(
    control_plane: ControlPlane, restricted: str
) -> None:
    """Its own admission plugins would add a token, and tolerations of five minutes."""
    for body in golden("s3", restricted):
        if body["kind"] == "Pod":
            spec = send(control_plane, body)["spec"]
            assert [volume["name"] for volume in spec["volumes"]] == [each["name"] for each in body["spec"]["volumes"]]
            assert [each["tolerationSeconds"] for each in spec["tolerations"]] == [10, 10]
            assert len(spec["containers"][0]["volumeMounts"]) == len(body["spec"]["containers"][0]["volumeMounts"])


def test_a_pod_without_one_of_its_restrictions_is_refused_there(control_plane: ControlPlane, restricted: str) -> None:
    [pod, *_] = [body for body in golden("s3", restricted) if body["kind"] == "Pod"]
    del pod["spec"]["securityContext"]["seccompProfile"]
    with pytest.raises(ApiError, match="violates PodSecurity") as refused:
        send(control_plane, pod)
    assert refused.value.status == 403


def test_two_operators_that_make_the_same_pod_collide(control_plane: ControlPlane, restricted: str) -> None:
    [pod, *_] = [body for body in golden("s3", restricted) if body["kind"] == "Pod"]
    path = COLLECTIONS["Pod"].format(restricted)
    del pod["metadata"]["ownerReferences"]  # Nobody owns it here, and it would be collected.
    control_plane.call("POST", path, pod)
    with pytest.raises(ApiError, match="already exists") as refused:
        control_plane.call("POST", path, pod)
    assert refused.value.status == 409
