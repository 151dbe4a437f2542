"""The control plane of the tests is a real one: it validates, authorizes, collects garbage, and ends with its users."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import is_over, wait_until

from cluster.commands import CommandError
from cluster.control_plane import ApiError, ControlPlane
from cluster.programs import HELM_VERSION, KUBERNETES_VERSION

WIDGETS = "/apis/tests.checkdam.dev/v1/namespaces/{}/widgets"

USER_OF_A_CONTROL_PLANE = """
import json, sys, time
from pathlib import Path
from cluster.control_plane import control_plane

with control_plane(Path(sys.argv[1])) as plane:
    print(json.dumps(plane.pids), flush=True)
    time.sleep(600)
"""


def widget(name: str, size: int, limit: int = 10) -> dict[str, Any]:
    return {
        "apiVersion": "tests.checkdam.dev/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": size, "limit": limit},
    }


def test_the_api_server_is_of_the_pinned_version(control_plane: ControlPlane) -> None:
    assert control_plane.call("GET", "/version")["gitVersion"] == KUBERNETES_VERSION


def test_a_token_is_needed(control_plane: ControlPlane) -> None:
    stranger = ControlPlane(control_plane.url, "wrong", control_plane.authority, control_plane.kubeconfig, {})
    with pytest.raises(ApiError) as refused:
        stranger.call("GET", "/api/v1/namespaces")
    assert refused.value.status == 401


def test_objects_are_validated_by_the_rules_of_their_crd(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.call("POST", WIDGETS.format(namespace), widget("fits", size=10))
    with pytest.raises(ApiError, match=r"`size` must be at most 10 \(got 11\)") as refused:
        control_plane.call("POST", WIDGETS.format(namespace), widget("too-big", size=11))
    assert refused.value.status == 422


def test_what_an_object_owned_is_collected_after_it(control_plane: ControlPlane, namespace: str) -> None:
    owner = control_plane.call("POST", WIDGETS.format(namespace), widget("owner", size=1))
    reference = {key: owner[key] for key in ("apiVersion", "kind")} | {
        key: owner["metadata"][key] for key in ("name", "uid")
    }
    config_maps = f"/api/v1/namespaces/{namespace}/configmaps"
    for name, owners in {"owned": [reference], "free": []}.items():
        control_plane.call("POST", config_maps, {"metadata": {"name": name, "ownerReferences": owners}})
    control_plane.call("DELETE", f"{WIDGETS.format(namespace)}/owner")

    def names() -> set[str]:
        return {found["metadata"]["name"] for found in control_plane.call("GET", config_maps)["items"]}

    wait_until(lambda: "owned" not in names())
    assert "free" in names()


def test_accounts_may_do_what_roles_say(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "role", "reader", "--verb=list", "--resource=pods", "-n", namespace)
    binding = ("--role=reader", f"--serviceaccount={namespace}:default")
    control_plane.kubectl("create", "rolebinding", "readers", *binding, "-n", namespace)
    user = f"--as=system:serviceaccount:{namespace}:default"
    assert control_plane.kubectl("get", "pods", "-n", namespace, user, "-o", "name") == ""
    with pytest.raises(CommandError, match="cannot list resource"):
        control_plane.kubectl("get", "secrets", "-n", namespace, user)


def test_kubectl_applies_and_explains(control_plane: ControlPlane, namespace: str) -> None:
    said = control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(widget("applied", size=3)))
    assert said == "widget.tests.checkdam.dev/applied created\n"
    assert "limit\t<integer>" in control_plane.kubectl("explain", "widget.spec")


def test_helm_installs_a_chart(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    chart = "apiVersion: v2\nname: tiny\nversion: 1.0.0\nkubeVersion: '>= 1.30.0'\n"
    (tmp_path / "Chart.yaml").write_text(chart)
    template = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-chart}\ndata: {word: {{ .Values.word | quote }}}\n"
    )
    (tmp_path / "templates" / "all.yaml").write_text(template)
    control_plane.helm("install", "tiny", str(tmp_path), "-n", namespace, "--set", "word=hello", "--wait")
    found = control_plane.call("GET", f"/api/v1/namespaces/{namespace}/configmaps/from-chart")
    assert found["data"] == {"word": "hello"}
    assert HELM_VERSION in control_plane.helm("version")


@pytest.mark.slow
def test_nothing_is_left_of_a_control_plane_whose_only_user_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", USER_OF_A_CONTROL_PLANE, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        pids = json.loads(user.stdout.readline())
        assert set(pids) == {"etcd", "kube-apiserver", "kube-controller-manager"}
        assert not any(is_over(pid) for pid in pids.values())
        assert (tmp_path / "etcd").exists()
        user.send_signal(signal.SIGKILL)
    wait_until(lambda: all(is_over(pid) for pid in pids.values()))
    wait_until(lambda: not (tmp_path / "etcd").exists())
