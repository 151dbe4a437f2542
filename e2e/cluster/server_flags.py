"""How etcd and the API server are told where they are, whether there are nodes or not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

API_PORT: Final = 6443
SERVICE_RANGE: Final = "10.96.0.0/16"
FIRST_SERVICE: Final = "10.96.0.1"
"""The address by which pods know the API server."""
_ETCD_PORT: Final = 2379


def etcd_flags(data: Path, address: str) -> list[str]:
    """For an etcd that stores in `data`, for a while only."""
    clients, peers = f"http://{address}:{_ETCD_PORT}", f"http://{address}:{_ETCD_PORT + 1}"
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",  # what it stores need not outlive the machine
        "--log-level=warn",
    ]


def api_server_flags(secrets: Path, address: str, etcd_address: str = "") -> list[str]:
    """For an API server with the files of `credentials.write_credentials` in the folder `secrets`.

    Args:
        etcd_address: Where etcd is; at the same address if empty.
    """
    return [
        f"--etcd-servers=http://{etcd_address or address}:{_ETCD_PORT}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={API_PORT}",
        f"--cert-dir={secrets}",
        f"--tls-cert-file={secrets / 'apiserver.crt'}",
        f"--tls-private-key-file={secrets / 'apiserver.key'}",
        f"--client-ca-file={secrets / 'ca.crt'}",
        f"--token-auth-file={secrets / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={secrets / 'kubelet-client.crt'}",
        f"--kubelet-client-key={secrets / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={secrets / 'accounts.key'}",
        f"--service-account-key-file={secrets / 'accounts.pub'}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
    ]
