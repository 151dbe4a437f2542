"""The cluster's S3 server, as tests use it."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError
from s3_server import S3Server

from cluster.cluster import S3_ACCESS_KEY, S3_SECRET_KEY, Cluster


def s3_of(cluster: Cluster) -> S3Server:
    """The server, with the keys of the user who may do everything there."""
    return S3Server(cluster.s3_outside, S3_ACCESS_KEY, S3_SECRET_KEY)


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
