"""The cluster where a Docker engine answers: `kind`, with as many nodes, the same folder for volumes, and images from the Dockerfiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from cluster.cluster import S3_NODE_PORT, Cluster, Say, add_ons
from cluster.commands import CommandError, run
from cluster.control_plane import ControlPlane
from cluster.credentials import write_secret
from cluster.image_archive import Image, ImageConfig, pack_images, pack_program
from cluster.image_definitions import PROJECT_IMAGES, ProjectImage
from cluster.image_layers import PROJECT
from cluster.images import S3, version
from cluster.layout import STAYS, layout
from cluster.programs import install

_NAME: Final = "checkdam"
_TOKEN_LIFE: Final = "24h"


class KindCluster(Cluster):
    """See `Cluster`."""

    def __init__(self) -> None:
        self._layout: Final = layout()

    @property
    def plane(self) -> ControlPlane:
        kubeconfig = self._layout.kubeconfig
        if not kubeconfig.exists():
            raise RuntimeError("the cluster must be up: `python -m cluster up`")
        config = yaml.safe_load(kubeconfig.read_text())
        return ControlPlane(
            url=config["clusters"][0]["cluster"]["server"],
            token=config["users"][0]["user"]["token"],
            authority=(self._layout.folder / "ca.crt").read_text(),
            kubeconfig=kubeconfig,
            pids={},
        )

    @property
    def volumes(self) -> Path:
        return self._layout.volumes

    @property
    def s3_outside(self) -> str:
        return f"http://127.0.0.1:{S3_NODE_PORT}"

    @property
    def computer(self) -> str:
        [network] = json.loads(run("docker", "network", "inspect", "kind"))
        gateways = (str(config.get("Gateway", "")) for config in network["IPAM"]["Config"])
        return next(gateway for gateway in gateways if "." in gateway)

    @property
    def images_version(self) -> str:
        ids = (run("docker", "images", "--no-trunc", "--quiet", _tagged(image)) for image in PROJECT_IMAGES)
        return hashlib.sha256("".join(ids).encode()).hexdigest()[:16]

    def is_up(self) -> bool:
        return self._layout.kubeconfig.exists() and _NAME in _kind("get", "clusters").split()

    def up(self, say: Say) -> None:
        self.volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.is_up():
            self.down(say)
            say("waiting for kind")
            _kind(
                "create",
                "cluster",
                "--name",
                _NAME,
                "--config",
                "-",
                "--wait",
                "120s",
                stdin=yaml.safe_dump(self._config()),
            )
            self._write_access()
        say("building the images and giving them to the nodes")
        for image in PROJECT_IMAGES:
            name = _tagged(image)
            dockerfile = PROJECT / "images" / image.name.rpartition("/")[2] / "Dockerfile"
            run("docker", "build", "--quiet", "--tag", name, "--file", str(dockerfile), str(PROJECT))
            _kind("load", "docker-image", "--name", _NAME, name)
        self._load_s3()
        self.plane.kubectl("delete", "storageclass", "standard", "--ignore-not-found")  # there is a default of ours
        say("waiting for the S3 server")
        add_ons(self.plane, self.volumes, ("s3",))

    def down(self, say: Say) -> bool:
        there = _NAME in _kind("get", "clusters").split()
        if there:
            say("removing the cluster")
            _kind("delete", "cluster", "--name", _NAME)
        self._layout.kubeconfig.unlink(missing_ok=True)
        return there

    def left(self) -> Sequence[str]:
        return [f"the node {node}" for node in _kind("get", "nodes", "--name", _NAME).split() if node.startswith(_NAME)]

    def status(self) -> Sequence[str]:
        return [f"{node}: runs" for node in _kind("get", "nodes", "--name", _NAME).split()]

    def load_image(self, archive: Path) -> None:
        _kind("load", "image-archive", "--name", _NAME, str(archive))

    def logs(self) -> Sequence[Path]:
        folder = self._layout.folder / "kind-logs"
        _kind("export", "logs", "--name", _NAME, str(folder))
        return sorted(folder.rglob("*.log"))

    def _config(self) -> dict[str, Any]:
        mounts = [{"hostPath": str(self.volumes), "containerPath": str(self.volumes)}]
        ports = [{"containerPort": S3_NODE_PORT, "hostPort": S3_NODE_PORT, "listenAddress": "127.0.0.1"}]
        return {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [
                {"role": "control-plane"},
                {"role": "worker", "extraMounts": mounts, "labels": dict([STAYS]), "extraPortMappings": ports},
                {"role": "worker", "extraMounts": mounts},
            ],
        }

    def _write_access(self) -> None:
        """A kubeconfig with a token: requests of our own know nothing of certificates for users."""
        config = yaml.safe_load(_kind("get", "kubeconfig", "--name", _NAME))
        write_secret(self._layout.kubeconfig, yaml.safe_dump(config))
        kubectl = (str(install("kubectl")), f"--kubeconfig={self._layout.kubeconfig}")
        run(*kubectl, "create", "serviceaccount", "checkdam-tests")
        grant = ("--clusterrole=cluster-admin", "--serviceaccount=default:checkdam-tests")
        run(*kubectl, "create", "clusterrolebinding", "checkdam-tests", *grant)
        token = run(*kubectl, "create", "token", "checkdam-tests", f"--duration={_TOKEN_LIFE}").strip()
        authority = run(*kubectl, "get", "configmap", "kube-root-ca.crt", "--output=jsonpath={.data.ca\\.crt}")
        (self._layout.folder / "ca.crt").write_text(authority)
        config["users"][0]["user"] = {"token": token}
        write_secret(self._layout.kubeconfig, yaml.safe_dump(config))

    def _load_s3(self) -> None:
        with TemporaryDirectory() as folder:
            layer, archive = Path(folder) / "layer.tar", Path(folder) / "image.tar"
            pack_program(install("versitygw"), layer)
            pack_images(archive, [Image(S3, ImageConfig(("/versitygw",)), (layer,))])
            self.load_image(archive)


def _tagged(image: ProjectImage) -> str:
    return f"{image.name}:{version()}"


def _kind(*arguments: str, stdin: str | None = None) -> str:
    try:
        return run(str(install("kind")), *arguments, stdin=stdin)
    except CommandError as error:
        raise CommandError(f"kind: {error}") from None
