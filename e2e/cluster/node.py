"""What else runs on a node: kubelet and kube-proxy, and how each is told where it is.

The programs find most of their files in their usual places, since a machine has a `/run` and a `/var/lib` of its own.
"""

from __future__ import annotations

from typing import Any

import yaml

from cluster.cgroups import Cgroups
from cluster.layout import CGROUP, DNS_ADDRESS, POD_RANGE, Layout, Machine
from cluster.machines import Machines
from cluster.programs import install


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
