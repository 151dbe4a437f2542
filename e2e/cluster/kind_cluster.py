"""The cluster where a Docker engine answers: `kind`, with as many nodes, the same folder for volumes, and images from the Dockerfiles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml
from parts_cache import locked

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
from cluster.requirements import prepare_beside_docker

_NAME: Final = "checkdam"
_CONTROL_LABEL: Final = "node-role.kubernetes.io/control-plane"
_TOKEN_LIFE: Final = "8760h"
_PLAIN_IMAGES: Final = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
"""What describes a build has the time in it: an image would be another whenever it is built."""


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
        return self._layout.kubeconfig.exists() and self._exists() and self.plane.answers()

    def up(self, say: Say) -> None:
        prepare_beside_docker()
        self._layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._layout.folder / "lock"):
            if not self.is_up():
                self.down(say)
                self._create(say)
            # A test that was killed may have left them so.
            self.plane.kubectl("uncordon", f"--selector=!{_CONTROL_LABEL}")
            say("building the images and giving them to the nodes")
            for image in PROJECT_IMAGES:
                self._build(image)
            self._load_s3()
            self.plane.kubectl("delete", "storageclass", "standard", "--ignore-not-found")  # there is a default of ours
            say("waiting for the S3 server")
            add_ons(self.plane, self.volumes, ("s3",))

    def down(self, say: Say) -> bool:
        there = self._exists()
        if there:
            say("removing the cluster")
            with suppress(CommandError):  # the node may not run; what is left then is told by `left`
                _on_node("find", str(self.volumes), "-mindepth", "1", "-delete")
            _kind("delete", "cluster", *self._named())
        for file in (self._layout.kubeconfig, self._kind_kubeconfig):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.volumes, ignore_errors=True)
        return there

    def left(self) -> Sequence[str]:
        folder = [f"the folder {self.volumes}: `sudo rm -r {self.volumes}`"] if self.volumes.exists() else []
        return [*(f"the node {node}" for node in _nodes()), *folder]

    def status(self) -> Sequence[str]:
        return [f"{node}: {_doing(node)}" for node in _nodes()] or ["there is no cluster"]

    def remove_folder(self, folder: Path) -> None:
        _on_node("rm", "-r", str(folder))

    def load_image(self, archive: Path) -> None:
        _kind("load", "image-archive", f"--name={_NAME}", str(archive))

    def logs(self) -> Sequence[Path]:
        folder = self._layout.folder / "kind-logs"
        shutil.rmtree(folder, ignore_errors=True)
        _kind("export", "logs", f"--name={_NAME}", str(folder))
        return sorted(folder.rglob("*.log"))

    @property
    def _kind_kubeconfig(self) -> Path:
        """Where kind writes how it is reached, in place of the user's own file."""
        return self._layout.folder / "kind.kubeconfig"

    def _named(self) -> tuple[str, ...]:
        return f"--name={_NAME}", f"--kubeconfig={self._kind_kubeconfig}"

    def _exists(self) -> bool:
        return _NAME in _kind("get", "clusters").split()

    def _create(self, say: Say) -> None:
        if self.volumes.exists():
            raise CommandError(
                f"{self.volumes} must not be there, with what pods have left: `sudo rm -r {self.volumes}`"
            )
        self.volumes.mkdir(mode=0o700)
        say("waiting for kind")
        config = yaml.safe_dump(self._config())
        _kind("create", "cluster", *self._named(), "--config=-", "--wait=120s", stdin=config)
        self._write_access()

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
        """A kubeconfig with a token: requests of our own know nothing of certificates for users. It is there when all is done."""
        folder = self._layout.folder
        config = yaml.safe_load(self._kind_kubeconfig.read_text())
        kubectl = (str(install("kubectl")), f"--kubeconfig={self._kind_kubeconfig}", f"--cache-dir={folder / 'cache'}")
        run(*kubectl, "create", "serviceaccount", "checkdam-tests")
        grant = ("--clusterrole=cluster-admin", "--serviceaccount=default:checkdam-tests")
        run(*kubectl, "create", "clusterrolebinding", "checkdam-tests", *grant)
        token = run(*kubectl, "create", "token", "checkdam-tests", f"--duration={_TOKEN_LIFE}").strip()
        authority = run(*kubectl, "get", "configmap", "kube-root-ca.crt", "--output=jsonpath={.data.ca\\.crt}")
        (folder / "ca.crt").write_text(authority)
        config["users"][0]["user"] = {"token": token}
        write_secret(self._layout.kubeconfig, yaml.safe_dump(config))

    def _build(self, image: ProjectImage) -> None:
        name, folder = _tagged(image), image.name.rpartition("/")[2]
        dockerfile = PROJECT / "images" / folder / "Dockerfile"
        build = ("docker", "build", "--quiet", f"--tag={name}", f"--file={dockerfile}", str(PROJECT))
        run(*build, environment={**os.environ, **_PLAIN_IMAGES})
        _kind("load", "docker-image", f"--name={_NAME}", name)

    def _load_s3(self) -> None:
        with TemporaryDirectory() as folder:
            layer, archive = Path(folder) / "layer.tar", Path(folder) / "image.tar"
            pack_program(install("versitygw"), layer)
            pack_images(archive, [Image(S3, ImageConfig(("/versitygw",)), (layer,))])
            self.load_image(archive)


def _tagged(image: ProjectImage) -> str:
    return f"{image.name}:{version()}"


def _nodes() -> list[str]:
    return _kind("get", "nodes", f"--name={_NAME}").split()


def _doing(node: str) -> str:
    return run("docker", "container", "inspect", "--format={{.State.Status}}", node).strip()


def _on_node(*command: str) -> None:
    """Run a program as root, on a node that sees the volumes."""
    run("docker", "exec", f"{_NAME}-worker", *command)


def _kind(*arguments: str, stdin: str | None = None) -> str:
    try:
        return run(str(install("kind")), *arguments, stdin=stdin)
    except CommandError as error:
        raise CommandError(f"kind: {error}") from None
