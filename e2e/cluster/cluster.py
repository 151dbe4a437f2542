"""What tests may ask of a cluster, whichever kind it is, and what every cluster is given beside Kubernetes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from parts_cache import locked

from cluster.control_plane import ControlPlane

S3_INSIDE: Final = "http://s3.storage:7070"
"""The S3 server, as pods name it."""
S3_ACCESS_KEY: Final = "checkdam-tests"
S3_SECRET_KEY: Final = "checkdam-tests-secret"
S3_NODE_PORT: Final = 30070
_MANIFESTS: Final = Path(__file__).parent / "manifests"
VOLUMES: Final = 20
"""How many PersistentVolumes there are."""
_DEPLOYMENTS: Final = {"dns": ("kube-system", "coredns"), "s3": ("storage", "s3")}
"""Manifest → namespace and name of what must become Ready."""
_ADD_ONS_WAIT: Final = "--timeout=120s"

Say = Callable[[str], None]
"""Told what a cluster waits for."""


class Cluster(ABC):
    """A Kubernetes with two nodes, Checkdam's images on them, an S3 server, and a folder that all nodes see."""

    @property
    @abstractmethod
    def plane(self) -> ControlPlane:
        """Its API, as the user who may do everything.

        Raises:
            RuntimeError: It is not up.
        """

    @property
    @abstractmethod
    def volumes(self) -> Path:
        """A folder of this computer that all nodes see under the same path."""

    @property
    @abstractmethod
    def s3_outside(self) -> str:
        """The S3 server, as processes of this computer reach it."""

    @property
    @abstractmethod
    def computer(self) -> str:
        """The address of this computer, as pods reach it."""

    @property
    @abstractmethod
    def images_version(self) -> str:
        """Tells the images that the nodes have from those that they had before: all are under the same names."""

    @abstractmethod
    def is_up(self) -> bool:
        """Whether it was brought up to the end, and everything that was started runs; what stands still does not."""

    @abstractmethod
    def up(self, say: Say) -> None:
        """Bring it up, or bring one that is up to the current images; remove first what is left of one that was killed.

        In one that is up, put right what tests have done to it that were killed. So nobody may be breaking it meanwhile.

        Raises:
            UnavailableError: This computer lacks something.
            CommandError: Something cannot be done.
            RuntimeError: A program cannot be built, or does not start.
        """

    @abstractmethod
    def down(self, say: Say) -> bool:
        """Remove it and all it has made but logs; whether there was anything.

        Raises:
            CommandError: Something cannot be removed.
            CgroupError: A process does not end.
        """

    @abstractmethod
    def left(self) -> Sequence[str]:
        """What of it is there although it was taken down; nothing if all is well."""

    @abstractmethod
    def status(self) -> Sequence[str]:
        """What it is made of and what of that runs, a line each."""

    @abstractmethod
    def remove_folder(self, folder: Path) -> None:
        """Remove a folder in `volumes` with all that pods have put there, whose users are not this one.

        Raises:
            CommandError: It cannot be removed.
        """

    @abstractmethod
    def load_image(self, archive: Path) -> None:
        """Give the images of an archive, as `docker save` makes it, to all nodes.

        Raises:
            CommandError: A node does not take it.
        """

    @abstractmethod
    def logs(self) -> Sequence[Path]:
        """The logs of its programs."""


def reclaim_volumes(cluster: Cluster) -> None:
    """Empty the PersistentVolumes whose claims are gone, and offer them to others.

    Raises:
        CommandError: The API server refuses, or one cannot be emptied.
    """
    plane = cluster.plane
    with locked(cluster.volumes.parent / "volumes.lock"):  # two at once would also empty what has been claimed since
        for volume in plane.call("GET", "/api/v1/persistentvolumes")["items"]:
            if volume["status"].get("phase") == "Released":
                name = volume["metadata"]["name"]
                cluster.remove_folder(cluster.volumes / name)
                _make_volume_folder(cluster.volumes / name)
                plane.kubectl("patch", "persistentvolume", name, "--type=merge", '--patch={"spec":{"claimRef":null}}')


def add_ons(plane: ControlPlane, volumes: Path, names: Sequence[str]) -> None:
    """Apply what is in `manifests/`, with PersistentVolumes for whoever claims one, and wait until it is Ready.

    Raises:
        CommandError: It does not become Ready.
    """
    for name in names:
        manifest = (_MANIFESTS / f"{name}.yaml").read_text().replace("VOLUMES", str(volumes))
        plane.kubectl("apply", "--filename=-", stdin=manifest)
    plane.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(_volumes(volumes)))
    for name in names:
        namespace, deployment = _DEPLOYMENTS[name]
        plane.kubectl("rollout", "status", f"--namespace={namespace}", f"deployment/{deployment}", _ADD_ONS_WAIT)


def _volumes(folder: Path) -> Iterator[dict[str, Any]]:
    """Nobody makes volumes on demand here, so they are there beforehand; the default class has no other."""
    yield {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "shared", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
    }
    for number in range(VOLUMES):
        place = folder / f"volume-{number}"
        _make_volume_folder(place)
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": place.name},
            "spec": {
                "storageClassName": "shared",
                "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                "capacity": {"storage": "10Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(place)},
            },
        }


def _make_volume_folder(place: Path) -> None:
    place.mkdir(exist_ok=True)
    place.chmod(0o777)  # Kubernetes gives volumes of this kind to no group
