"""Which kind of cluster this computer can have."""

from __future__ import annotations

from cluster.cluster import Cluster
from cluster.kind_cluster import KindCluster
from cluster.own_cluster import OwnCluster
from cluster.requirements import docker_answers


def chosen_cluster() -> Cluster:
    """By `kind` where a Docker engine answers, and of our own making elsewhere."""
    return KindCluster() if docker_answers() else OwnCluster()
