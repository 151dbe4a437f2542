"""The cluster's S3 server, as tests and their jobs use it."""

from __future__ import annotations

import json
from typing import Any, Final

import yaml
from botocore.exceptions import BotoCoreError, ClientError
from s3_server import REGION, S3Server

from cluster.cluster import S3_ACCESS_KEY, S3_INSIDE, S3_SECRET_KEY, Cluster
from cluster_job import ClusterJob

_KEYS: Final = "s3-keys"
"""The Secret with the keys, in the namespace of a job."""


def s3_of(cluster: Cluster) -> S3Server:
    """The server, with the keys of the user who may do everything there."""
    return S3Server(cluster.s3_outside, S3_ACCESS_KEY, S3_SECRET_KEY)


def give_s3_keys(job: ClusterJob) -> None:
    """Make the Secret that `s3_storage` names."""
    keys = {"AWS_ACCESS_KEY_ID": S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _KEYS}, "stringData": keys}
    job.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(secret))


def s3_storage(bucket: str, endpoint: str = S3_INSIDE) -> dict[str, Any]:
    """`spec.checkpoint.storage` of a job for a folder in a bucket.

    Args:
        bucket: Its name.
        endpoint: The server, as pods reach it.
    """
    server = {"endpoint": endpoint, "region": REGION, "pathStyle": True, "credentialsSecret": _KEYS}
    return {"uri": f"s3://{bucket}/production", "s3": server}


def s3_address(cluster: Cluster) -> str:
    """The address of the server's pod, which packets from other pods are sent to in the end."""
    pods = json.loads(cluster.plane.kubectl("get", "pods", "--namespace=storage", "--selector=app=s3", "--output=json"))
    return str(next(pod["status"]["podIP"] for pod in pods["items"] if pod["status"]["phase"] == "Running"))


def s3_listing(cluster: Cluster) -> str:
    """All keys of all buckets, with their sizes.

    Raises:
        OSError: The server does not answer.
    """
    client = s3_of(cluster).client()
    lines = []
    try:
        for bucket in client.list_buckets()["Buckets"]:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                lines += [f"{found['Size']:12} {bucket['Name']}/{found['Key']}" for found in page.get("Contents", ())]
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"S3: {error}") from None
    return "\n".join(lines)
