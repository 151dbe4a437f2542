"""Where the API server is and how the operator proves who it is: from the pod it runs in, or from a kubeconfig.

Both the client and the watch use what is loaded here. The two clients come from different libraries and live in different threads, so each loads a
configuration of its own.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration

from checkdam.core.errors import CheckdamError


class ConnectionSettingsError(CheckdamError):
    """There is no way to the API server in what the operator was given."""


async def load_configuration(kubeconfig: str = "") -> Configuration:
    """How to reach the API server.

    Args:
        kubeconfig: Path of a kubeconfig file; empty for the service account of the pod, and, outside of a cluster, for `KUBECONFIG` or
            `~/.kube/config`.

    Raises:
        ConnectionSettingsError: There is nothing that says how, or it cannot be read.
    """
    configuration = Configuration()
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        if not kubeconfig and inside:
            config.load_incluster_config(client_configuration=configuration)
        else:
            path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
            # The loader would write tokens that it has refreshed back into the user's file.
            await config.load_kube_config(
                os.path.expanduser(path), client_configuration=configuration, persist_config=False
            )
    except (config.ConfigException, OSError, ValueError) as error:
        source = "the service account of this pod" if not kubeconfig and inside else f"kubeconfig {kubeconfig or path}"
        raise ConnectionSettingsError(
            f"cannot read how to reach the API server from {source}: {error}; run inside a cluster with a service account token, or name a "
            "kubeconfig with CHECKDAM_OPERATOR_KUBECONFIG"
        ) from error
    configuration.proxy = configuration.proxy or _proxy_to(configuration.host)
    # Its session would look for proxies in the environment, and for passwords in a file, anew for each request and in other threads.
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration


def _proxy_to(url: str) -> str | None:
    """The proxy that the environment names for a server, by `HTTPS_PROXY` and `NO_PROXY`."""
    server = urlsplit(url)
    if not server.hostname or proxy_bypass(server.hostname):
        return None
    return getproxies().get(server.scheme)
