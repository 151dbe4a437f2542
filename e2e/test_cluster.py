"""The cluster itself: what every other test takes for granted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from waiting import wait_until

from cluster.cluster import Cluster
from cluster.commands import CommandError
from cluster.images import version
from cluster.layout import NODES
from cluster.mending import delete_orphaned_namespaces
from cluster.owners import CUT, SMALL_DISK
from cluster_s3 import s3_of
from strikes import own

IMAGE = f"checkdam/runtime:{version()}"
SERVER = [
    "python",
    "-c",
    "import http.server as h; h.test(h.SimpleHTTPRequestHandler, h.ThreadingHTTPServer, port=8000)",
]
KILLED_TEST = """
import os, signal, sys
from pathlib import Path
from cluster.choice import chosen_cluster
from cluster.owners import NAMESPACE, prefix
from node_strikes import cordoned, frozen, small_disk
from strikes import cut, etcd_paused

cluster, node, folder = chosen_cluster(), sys.argv[1], Path(sys.argv[2])
print(cluster.plane.new_namespace(prefix(NAMESPACE)))
with (
    cordoned(cluster, node),
    small_disk(cluster, node, folder, 2**20),
    cut(cluster, ["192.0.2.1"], ["192.0.2.2"]),
    frozen(cluster, node),
    etcd_paused(cluster),
):
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
RULES = ("iptables", "--wait", "-S")
READ = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).status)"


def nodes(cluster: Cluster) -> list[str]:
    """The nodes that pods may run on."""
    found = json.loads(cluster.plane.kubectl("get", "nodes", "--output=json"))["items"]
    return [node["metadata"]["name"] for node in found if not node["spec"].get("taints")]


def server(name: str, node: str) -> dict[str, object]:
    """A pod that answers HTTP."""
    container = {
        "name": "server",
        "image": IMAGE,
        "command": SERVER,
        "workingDir": "/tmp",
        "readinessProbe": {"httpGet": {"port": 8000}, "periodSeconds": 1},
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "server"}}, "spec": spec}


@pytest.fixture
def servers(cluster: Cluster, namespace: str) -> dict[str, str]:
    """A server on each of the nodes, behind the Service `server`: name → address."""
    names = {f"server-{number}": node for number, node in enumerate(nodes(cluster))}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    documents = [service, *(server(name, node) for name, node in names.items())]
    where = f"--namespace={namespace}"
    cluster.plane.kubectl("apply", where, "--filename=-", stdin=yaml.safe_dump_all(documents))
    cluster.plane.kubectl("wait", where, "--for=condition=Ready", "pods", "--all", "--timeout=120s")
    pods = json.loads(cluster.plane.kubectl("get", "pods", where, "--output=json"))["items"]
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods}


def test_pods_run_on_two_nodes_and_reach_each_other_directly(
    cluster: Cluster, namespace: str, servers: dict[str, str]
) -> None:
    assert len(servers) == 2
    for name in servers:
        for address in servers.values():
            url = f"http://{address}:8000"
            assert (
                cluster.plane.kubectl("exec", f"--namespace={namespace}", name, "--", "python", "-c", READ, url)
                == "200\n"
            )


def test_pods_reach_a_service_by_its_name_and_the_s3_server(
    cluster: Cluster, namespace: str, servers: dict[str, str]
) -> None:
    def reads(name: str, url: str) -> bool:
        try:
            return (
                cluster.plane.kubectl("exec", f"--namespace={namespace}", name, "--", "python", "-c", READ, url)
                == "200\n"
            )
        except CommandError:
            return False

    for name in servers:
        for url in ("http://server", f"http://server.{namespace}.svc.cluster.local", "http://s3.storage:7070/healthy"):
            # The name of a Service, and each node's rules for it, come a moment after its pods.
            wait_until(partial(reads, name, url))


def test_this_computer_reaches_the_s3_server(cluster: Cluster) -> None:
    bucket = s3_of(cluster).new_bucket()
    bucket.server.client().put_object(Bucket=bucket.name, Key="a", Body=b"1")
    assert bucket.keys() == {"a"}


def test_what_one_node_writes_to_a_volume_the_other_reads(cluster: Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "shared"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    volume = {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}
    documents: list[object] = [claim]
    writer, reader = nodes(cluster)
    for node, command in {
        # Under its name it is there whole.
        writer: "echo here > /shared/unfinished && mv /shared/unfinished /shared/file",
        reader: "until cat /shared/file; do sleep 0.1; done",
    }.items():
        container = {
            "name": "shell",
            "image": IMAGE,
            "command": ["sh", "-c", command],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }
        place = {"kubernetes.io/hostname": node}
        spec = {"nodeSelector": place, "restartPolicy": "Never", "containers": [container], "volumes": [volume]}
        documents.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"on-{node}"}, "spec": spec})
    where = f"--namespace={namespace}"
    cluster.plane.kubectl("apply", where, "--filename=-", stdin=yaml.safe_dump_all(documents))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.plane.kubectl("wait", where, done, f"pod/on-{writer}", f"pod/on-{reader}", "--timeout=120s")
    assert "here\n" in cluster.plane.kubectl("logs", where, f"on-{reader}")


@pytest.mark.alone
@pytest.mark.usefixtures("machines", "namespace")
def test_what_a_killed_test_has_broken_is_put_right_when_the_cluster_is_brought_up_again(
    cluster: Cluster, shared_folder: Path
) -> None:
    before, [stays, node] = cluster.plane.pids, nodes(cluster)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed_test = [sys.executable, "-c", KILLED_TEST, node, str(shared_folder)]
    try:
        killed = subprocess.run(killed_test, env=environment, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        broken = "\n".join(damage(cluster, shared_folder))
        assert CUT in broken
        assert SMALL_DISK in broken
        assert not cluster.is_up()
        stands_still = {line.partition(":")[0] for line in cluster.status() if "stands still" in line}
        assert {"control/etcd", f"{node}/kubelet"} <= stands_still
    finally:
        cluster.up(print)
    assert cluster.is_up()
    assert cluster.plane.pids == before
    assert nodes(cluster) == [stays, node]
    assert damage(cluster, shared_folder) == []
    delete_orphaned_namespaces(cluster.plane)
    cluster.plane.kubectl("wait", f"namespace/{killed.stdout.strip()}", "--for=delete", "--timeout=120s")


def damage(cluster: Cluster, folder: Path) -> list[str]:
    """Rules of nodes that drop packets on purpose, and mounts on a folder there."""
    machines = own(cluster).machines
    texts = [machines.run(node, *command) for node in NODES for command in (RULES, ("cat", "/proc/mounts"))]
    return [line for text in texts for line in text.splitlines() if CUT in line or str(folder) in line]
