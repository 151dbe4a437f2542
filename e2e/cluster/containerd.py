"""The containerd of a node, and the images that it has.

Giving all images to a node takes longer than everything else together, so they stay when the cluster goes, for the next one. What
else containerd has kept belongs to pods that are no more: it is taken away while the part of containerd that would look after
pods is not running.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from server_process import until

from cluster.commands import CommandError
from cluster.images import PAUSE
from cluster.layout import Layout, Machine
from cluster.machines import Machines

_CNI_PROGRAMS: Final = "/usr/lib/cni"
_PATIENCE_S: Final = 60.0
_SYS_RESOURCE: Final = 24
"""The capability, by number."""
_CTR: Final = ("ctr", "--namespace=k8s.io", "--connect-timeout=1s")
_PODS: Final = "io.containerd.grpc.v1.cri"
"""The part that looks after pods."""


def start_containerd(machines: Machines, layout: Layout, node: Machine, archives: Sequence[Path]) -> None:
    """Start containerd with the images of these archives, and come back when it answers.

    Raises:
        CommandError: It does not take the images.
        RuntimeError: It does not start; the message has the end of its log.
    """
    network = layout.of(node) / "cni"
    network.mkdir(exist_ok=True)
    (network / "10-bridge.conflist").write_text(json.dumps(_network_config(node)))
    if layout.images(node).exists():
        try:
            _forget_pods(machines, layout, node)
        except (CommandError, RuntimeError):
            layout.given_images(node).unlink(missing_ok=True)
            shutil.rmtree(layout.images(node))
    _start(machines, layout, node, _config(network))
    import_images(machines, layout, node, archives)


def import_images(machines: Machines, layout: Layout, node: Machine, archives: Sequence[Path]) -> None:
    """Give the images of the cluster, as far as they are new, to a node's containerd in place of those that it has.

    Raises:
        CommandError: It does not take them.
    """
    file = layout.given_images(node)
    given = file.read_text().splitlines() if file.exists() else []
    missing = [archive for archive in archives if str(archive) not in given]
    for archive in missing:
        import_image(machines, node, archive)
    file.write_text("\n".join(map(str, archives)))
    if missing:
        _forget_replaced_images(machines, node)


def _forget_replaced_images(machines: Machines, node: Machine) -> None:
    """Each image has a second name, made of its digest, which stays when the first is given to another."""
    rows = [line.split() for line in machines.run(node, *_CTR, "images", "ls").splitlines()[1:]]
    named = {row[2] for row in rows if not row[0].startswith("sha256:")}
    replaced = [row[0] for row in rows if row[2] not in named]
    if replaced:
        machines.run(node, *_CTR, "images", "rm", *replaced)


def import_image(machines: Machines, node: Machine, archive: Path) -> None:
    """Give the images of an archive to a node's containerd, beside those that it has.

    Raises:
        CommandError: It does not take them.
    """
    machines.run(node, *_CTR, "images", "import", str(archive))


def _forget_pods(machines: Machines, layout: Layout, node: Machine) -> None:
    for folder in ("containers", "sandboxes"):
        shutil.rmtree(layout.images(node) / _PODS / folder, ignore_errors=True)
    _start(machines, layout, node, f'version = 2\ndisabled_plugins = ["{_PODS}"]\n')
    containers = machines.run(node, *_CTR, "containers", "ls", "--quiet").split()
    if containers:
        machines.run(node, *_CTR, "containers", "rm", *containers)
    machines.stop(node, "containerd")


def _start(machines: Machines, layout: Layout, node: Machine, config: str) -> None:
    file = layout.of(node) / "containerd.toml"
    file.write_text(config)
    process = machines.daemon(node, "containerd", ("containerd", "--config", str(file)))
    until(
        lambda: _answers(machines, node),
        lambda: not process.lives(),
        f"containerd of {node.name}",
        layout.log(node, "containerd"),
        _PATIENCE_S,
    )


def _answers(machines: Machines, node: Machine) -> bool | None:
    try:
        machines.run(node, *_CTR, "version")
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


def _config(network: Path) -> str:
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


def _may_lower_oom_score() -> bool:
    """Whether we may protect processes from the kernel when memory is short."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _SYS_RESOURCE & 1)
