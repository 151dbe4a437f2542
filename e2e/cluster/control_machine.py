"""What runs on the control machine: etcd, the API server, the controllers and the scheduler, all of them with default behaviour."""

from __future__ import annotations

from typing import Final

from server_process import until

from cluster.control_plane import ControlPlane
from cluster.credentials import ADMIN, write_credentials, write_secret
from cluster.layout import CONTROL, NODES, POD_RANGE, Layout
from cluster.machines import Machines
from cluster.programs import install
from cluster.server_flags import API_PORT, FIRST_SERVICE, api_server_flags, etcd_flags

URL: Final = f"https://{CONTROL.address}:{API_PORT}"
_SCHEDULER: Final = "kube-scheduler"
_MANAGER: Final = "kube-controller-manager"
_USERS: Final = {
    _MANAGER: f"system:{_MANAGER}",
    _SCHEDULER: f"system:{_SCHEDULER}",
    "kube-proxy": "system:kube-proxy",
    **{node.name: f"system:node:{node.name}" for node in NODES},
}
"""Program or node → user; the roles of all of them are there in every cluster."""
_PATIENCE_S: Final = 90.0


def start_api(machines: Machines, layout: Layout) -> ControlPlane:
    """Start etcd and the API server, and come back when they answer.

    Raises:
        RuntimeError: They do not start; the message has the end of the log.
    """
    layout.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    groups = {user: "system:nodes" if user.startswith("system:node:") else "" for user in _USERS.values()}
    credentials = write_credentials(layout.secrets, (CONTROL.address, FIRST_SERVICE), groups)
    write_secret(layout.kubeconfig, credentials.kubeconfig(URL))
    for name, user in _USERS.items():
        write_secret(layout.secrets / f"{name}.kubeconfig", credentials.kubeconfig(URL, user))
    start_etcd(machines, layout)
    start_api_server(machines, layout)
    plane = ControlPlane(URL, credentials.tokens[ADMIN], credentials.authority, layout.kubeconfig, {})
    until_api_answers(machines, layout, plane)
    return plane


def start_etcd(machines: Machines, layout: Layout) -> None:
    """Start etcd over what it has stored."""
    flags = etcd_flags(layout.of(CONTROL) / "etcd", "127.0.0.1")
    machines.daemon(CONTROL, "etcd", (str(install("etcd")), *flags))


def start_api_server(machines: Machines, layout: Layout) -> None:
    """Start the API server."""
    flags = api_server_flags(layout.secrets, CONTROL.address, "127.0.0.1")
    machines.daemon(CONTROL, "kube-apiserver", (str(install("kube-apiserver")), *flags))


def until_api_answers(machines: Machines, layout: Layout, plane: ControlPlane) -> None:
    """Come back when the API server is ready.

    Raises:
        RuntimeError: It, or etcd, ended, or it takes too long.
    """
    until(
        lambda: plane.answers() or None,
        lambda: not (machines.lives(CONTROL, "etcd") and machines.lives(CONTROL, "kube-apiserver")),
        "the control plane (kube-apiserver)",
        layout.log(CONTROL, "kube-apiserver"),
        _PATIENCE_S,
    )


def start_controllers(machines: Machines, layout: Layout) -> None:
    """Start the controller manager and the scheduler."""
    for program, flags in {
        _MANAGER: (
            f"--root-ca-file={layout.secrets / 'ca.crt'}",
            f"--service-account-private-key-file={layout.secrets / 'accounts.key'}",
            "--use-service-account-credentials=true",
            f"--cluster-cidr={POD_RANGE}",
            "--allocate-node-cidrs=false",
        ),
        _SCHEDULER: (),
    }.items():
        config = layout.secrets / f"{program}.kubeconfig"
        common = [f"--{kind}kubeconfig={config}" for kind in ("", "authentication-", "authorization-")]
        leadership = ["--leader-elect=false", "--bind-address=127.0.0.1", f"--cert-dir={layout.secrets / program}"]
        machines.daemon(CONTROL, program, (str(install(program)), *common, *leadership, *flags))


def restart_controllers(machines: Machines, layout: Layout) -> None:
    """Have the controller manager and the scheduler see the world as it is, after they were without an API server.

    They would ask anew for each kind of object by a clock of its own, whose pauses grow to half a minute: meanwhile a scheduler
    that knows of a pod puts it on a node of which it does not know yet that it takes none. One that starts waits for all kinds.

    Raises:
        RuntimeError: They do not end.
    """
    for program in (_MANAGER, _SCHEDULER):
        machines.stop(CONTROL, program)
    start_controllers(machines, layout)
