"""What serves the API of a Kubernetes: etcd, an API server and a controller manager, on an address of the loopback of their own.

There are no nodes: whatever a pod's status says was written by somebody who plays a node (`stub_kubelet`). Everything is
kept in one folder and dies with it. An address of its own, out of the 16 million of the loopback, spares looking for free
ports that somebody else takes a moment later.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, TypeVar

from server_process import server_process, until
from shared_servers import shared

from cluster.commands import CommandError, run
from cluster.credentials import ADMIN, write_credentials, write_secret
from cluster.programs import install
from cluster.server_flags import API_PORT, FIRST_SERVICE, api_server_flags, etcd_flags

_PATIENCE_S: Final = 60.0
_REQUEST_S: Final = 15.0
_CONTROLLERS: Final = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
)
"""Those that watch over nodes would take every pod for lost."""

T = TypeVar("T")


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        status: Of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane, and the one user that may do everything there.

    Attributes:
        url: Of the API server.
        token: Of the user.
        authority: Certificate of the authority behind the API server's, as PEM.
        kubeconfig: File that says all of this to clients, without naming other files.
        pids: Program → process.
    """

    url: str
    token: str = field(repr=False)
    authority: str = field(repr=False)
    kubeconfig: Path
    pids: dict[str, int]

    def tls(self) -> ssl.SSLContext:
        """What a client needs to trust the API server."""
        return ssl.create_default_context(cadata=self.authority)

    def environment(self) -> dict[str, str]:
        """What processes need to find in their environment to use it."""
        folder = self.kubeconfig.parent
        # By default kubectl would leave what it learns of each server in the user's home.
        return {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(folder / "cache")}

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """Send one request as JSON and return the answer, parsed if it is JSON.

        Args:
            path: With the query.

        Raises:
            ApiError: It was refused.
            OSError: The API server does not answer.
        """
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": content_type},
        )
        # The environment may name a proxy, which cannot know this loopback.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.tls())
        )
        try:
            with opener.open(request, timeout=_REQUEST_S) as answer:
                content = answer.read()
                return json.loads(content) if "json" in answer.headers.get_content_type() else content.decode()
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(error.code, error.read().decode(errors="replace")) from None
        except HTTPException as error:
            raise ConnectionError(f"the API server has ended in the middle of an answer: {error!r}") from error

    def answers(self) -> bool:
        """Whether the API server is ready at this moment."""
        try:
            self.call("GET", "/readyz")
        except (ApiError, OSError):
            return False
        return True

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints.

        Raises:
            CommandError: It failed.
        """
        return self._run("kubectl", arguments, stdin)

    def helm(self, *arguments: str, stdin: str | None = None) -> str:
        """What helm prints.

        Raises:
            CommandError: It failed.
        """
        return self._run("helm", arguments, stdin)

    def new_namespace(self, prefix: str = "test") -> str:
        """A namespace that nobody else uses, as soon as pods may be created there."""
        name = f"{prefix}-{secrets.token_hex(5)}"
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        until(
            lambda: _none_if_refused(lambda: self.call("GET", _account(name))),
            lambda: False,
            f"the namespace {name}",
            self.kubeconfig.parent / "kube-controller-manager.log",
            _PATIENCE_S,
        )
        return name

    def _run(self, program: str, arguments: Sequence[str], stdin: str | None) -> str:
        return run(str(install(program)), *arguments, stdin=stdin, environment={**os.environ, **self.environment()})


def control_plane(folder: Path, crds: Sequence[Path] = ()) -> AbstractContextManager[ControlPlane]:
    """The control plane that lives in `folder`, shared with all other processes that name the same one.

    Args:
        folder: Made if missing. What is stored there goes at the end, logs and kubeconfig stay.
        crds: Files of CustomResourceDefinitions. The controller manager knows these from the start; of later ones it
            collects no garbage for up to half a minute.

    Raises:
        RuntimeError: A program cannot be built, or does not start.
    """
    for program in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
        install(program)
    return shared(run_control_plane, ControlPlane, folder, *map(str, crds))


@contextmanager
def run_control_plane(folder: Path, *crds: str) -> Iterator[ControlPlane]:
    """A control plane of this process alone, for as long as the context is open."""
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder / "etcd", ignore_errors=True)
        address = _own_address()
        url = f"https://{address}:{API_PORT}"
        credentials = write_credentials(folder, (address, FIRST_SERVICE))
        write_secret(folder / "kubeconfig", credentials.kubeconfig(url))
        start = _Starter(folder, stack)
        start("etcd", *etcd_flags(folder / "etcd", address))
        # The endpoint of a Service, as of the API itself, cannot be on the loopback.
        start("kube-apiserver", *api_server_flags(folder, address), "--endpoint-reconciler-type=none")
        token = credentials.tokens[ADMIN]
        plane = ControlPlane(url, token, credentials.authority, folder / "kubeconfig", start.pids)
        start.wait("kube-apiserver", lambda: plane.call("GET", "/readyz"))
        for crd in crds:
            plane.kubectl("create", "-f", crd)
            # kubectl fails where there is no condition at all yet.
            start.wait("kube-apiserver", partial(plane.kubectl, "wait", "--for=condition=Established", "-f", crd))
        start("kube-controller-manager", *_controller_manager_flags(folder))
        start.wait("kube-controller-manager", lambda: plane.call("GET", _account("default")))
        yield plane


class _Starter:
    """Starts programs whose logs are `folder/<program>.log`, and waits until they answer."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.pids: dict[str, int] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._stack = stack

    def __call__(self, program: str, *flags: str) -> None:
        command = [str(install(program)), *flags]
        process = self._stack.enter_context(server_process(command, self._log(program), self._folder))
        self._processes.append(process)
        self.pids[program] = process.pid

    def wait(self, program: str, request: Callable[[], T]) -> T:
        """The answer to the request, which is repeated until it is not refused."""
        return until(
            lambda: _none_if_refused(request),
            lambda: any(process.poll() is not None for process in self._processes),
            f"the control plane ({program})",
            self._log(program),
            _PATIENCE_S,
        )

    def _log(self, program: str) -> Path:
        return self._folder / f"{program}.log"


def _none_if_refused(request: Callable[[], T]) -> T | None:
    try:
        return request()
    except (ApiError, CommandError, OSError):
        return None


def _account(namespace: str) -> str:
    """Without the default account no pod is let in."""
    return f"/api/v1/namespaces/{namespace}/serviceaccounts/default"


def _own_address() -> str:
    return f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}"


def _controller_manager_flags(folder: Path) -> list[str]:
    return [
        f"--kubeconfig={folder / 'kubeconfig'}",
        f"--controllers={','.join(_CONTROLLERS)}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--root-ca-file={folder / 'ca.crt'}",
        f"--service-account-private-key-file={folder / 'accounts.key'}",
        # The defaults, 20 requests a second, make the deletion of a thousand pods a matter of a minute.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]
