"""Who may do what at an API server: certificates, keys and tokens, as the files that its programs read.

Users show a token rather than a certificate: it is a line in a file, and fits into a kubeconfig that names no other file.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from cluster.pki import Authority, key_pair

ADMIN: Final = "admin"
_NAMES: Final = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
_MASTERS: Final = "system:masters"


@dataclass(frozen=True)
class Credentials:
    """What was written.

    Attributes:
        authority: Certificate of the authority behind the API server's, as PEM.
        tokens: User → token.
    """

    authority: str = field(repr=False)
    tokens: Mapping[str, str] = field(repr=False)

    def kubeconfig(self, url: str, user: str = ADMIN) -> str:
        """What tells a client how to reach the API server as this user, as YAML."""
        context = {"name": "checkdam-tests", "context": {"cluster": "checkdam-tests", "user": user}}
        server = {
            "server": url,
            "certificate-authority-data": base64.b64encode(self.authority.encode()).decode(),
        }
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "checkdam-tests", "cluster": server}],
                "users": [{"name": user, "user": {"token": self.tokens[user]}}],
                "contexts": [context],
                "current-context": context["name"],
            }
        )


def write_credentials(folder: Path, addresses: Sequence[str], users: Mapping[str, str] | None = None) -> Credentials:
    """Make all that an API server needs, in a folder that is there.

    Args:
        addresses: Those that clients know the API server by.
        users: Beside `ADMIN`, who may do everything: user → group, which may be empty.
    """
    authority, accounts = Authority(), key_pair()
    server = authority.server("kube-apiserver", _NAMES, addresses)
    to_kubelets = authority.client("kube-apiserver-kubelet-client", _MASTERS)
    groups = {ADMIN: _MASTERS, **(users or {})}
    tokens = {user: secrets.token_hex(16) for user in groups}
    for name, content in {
        "ca.crt": authority.certificate,
        "apiserver.crt": server.certificate,
        "apiserver.key": server.key,
        "kubelet-client.crt": to_kubelets.certificate,
        "kubelet-client.key": to_kubelets.key,
        "accounts.key": accounts.private,
        "accounts.pub": accounts.public,
        "tokens.csv": "".join(f'{token},{user},{user},"{groups[user]}"\n' for user, token in tokens.items()),
    }.items():
        write_secret(folder / name, content)
    return Credentials(authority.certificate, tokens)


def write_secret(file: Path, content: str) -> None:
    """Write a file that only we can read."""
    file.touch(mode=0o600)
    file.write_text(content)
