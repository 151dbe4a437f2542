"""What runs on a node: containerd, kubelet and kube-proxy, and how each is told where it is.

The programs find most of their files in their usual places, since a machine has a `/run` and a `/var/lib` of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import yaml
from server_process import until

from cluster.cgroups import Cgroups
from cluster.commands import CommandError
from cluster.images import PAUSE
from cluster.layout import CGROUP, DNS_ADDRESS, POD_RANGE, Layout, Machine
from cluster.machines import Machines
from cluster.programs import install

_CNI_PROGRAMS: Final = "/usr/lib/cni"
_PATIENCE_S: Final = 60.0
_SYS_RESOURCE: Final = 24
"""CAP_SYS_RESOURCE, by number."""


def start_containerd(machines: Machines, layout: Layout, node: Machine) -> None:
    """Start containerd, and come back when it answers.

    Raises:
        RuntimeError: It does not start; the message has the end of its log.
    """
    folder = layout.of(node)
    network = folder / "cni"
    network.mkdir(exist_ok=True)
    (network / "10-bridge.conflist").write_text(json.dumps(_network_config(node)))
    config = folder / "containerd.toml"
    config.write_text(_containerd_config(network))
    process = machines.daemon(node, "containerd", ("containerd", "--config", str(config)))
    until(
        lambda: _answers(machines, node),
        lambda: not process.lives(),
        f"containerd of {node.name}",
        layout.log(node, "containerd"),
        _PATIENCE_S,
    )


def import_image(machines: Machines, node: Machine, archive: Path) -> None:
    """Give an image to a node's containerd.

    Raises:
        CommandError: It does not take it.
    """
    machines.run(node, "ctr", "--namespace=k8s.io", "images", "import", str(archive))


def start_kubelet(machines: Machines, layout: Layout, groups: Cgroups, node: Machine) -> None:
    """Start the kubelet, which registers the node when it can, and kube-proxy.

    Raises:
        CgroupError: It cannot have control groups.
    """
    group = f"{CGROUP}/{node.name}"
    groups.make(group)
    folder = layout.of(node)
    (folder / "resolv.conf").write_text("")
    labels = ",".join(f"{name}={value}" for name, value in node.labels)
    config = folder / "kubelet.yaml"
    config.write_text(yaml.safe_dump(_kubelet_config(layout, node, f"/{group}")))
    machines.daemon(
        node,
        "kubelet",
        (
            str(install("kubelet")),
            f"--config={config}",
            f"--kubeconfig={layout.secrets / f'{node.name}.kubeconfig'}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--node-labels={labels}",
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
        ),
    )
    machines.daemon(
        node,
        "kube-proxy",
        (
            str(install("kube-proxy")),
            f"--kubeconfig={layout.secrets / 'kube-proxy.kubeconfig'}",
            f"--hostname-override={node.name}",
            f"--cluster-cidr={POD_RANGE}",
            "--proxy-mode=iptables",
            # These would be settings of the computer, not of the machine.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ),
    )


def _answers(machines: Machines, node: Machine) -> bool | None:
    try:
        machines.run(node, "ctr", "--connect-timeout=1s", "version")
    except CommandError:
        return None
    return True


def _network_config(node: Machine) -> dict[str, Any]:
    """Pods hang on a bridge of the node; all addresses are routed, none is translated."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.pod_range}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/run/cni-addresses",
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "checkdam", "plugins": [bridge, ports]}


def _containerd_config(network: Path) -> str:
    return f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = {str(not _may_lower_oom_score()).lower()}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_CNI_PROGRAMS}"
    conf_dir = "{network}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def _kubelet_config(layout: Layout, node: Machine, group: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.secrets / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "address": node.address,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": group,
        "failSwapOn": False,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(layout.of(node) / "resolv.conf"),
        # Images are never pulled again, and pods do not end because the computer's disk is full of other things.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "nodeStatusUpdateFrequency": "1s",
    }


def _may_lower_oom_score() -> bool:
    """Whether we may protect processes from the kernel when memory is short."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _SYS_RESOURCE & 1)
