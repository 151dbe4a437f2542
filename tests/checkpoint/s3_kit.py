"""S3 storage for tests: over a real server, perhaps behind a bad network, and impatient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from botocore.retries.standard import ExponentialBackoff
from faulty_proxy import FaultyProxy, faulty_proxy
from s3_server import S3Bucket

from checkdam.checkpoint.storage import s3, s3_clients, s3_downloads
from checkdam.checkpoint.storage.s3 import S3Storage
from checkdam.spec.checkpoint import S3Options


def storage_in(bucket: S3Bucket, folder: str = "ns/job", endpoint: str = "") -> S3Storage:
    """The storage of a job in `bucket`, through another endpoint if one is given."""
    return S3Storage(f"{bucket.uri}/{folder}", S3Options(endpoint=endpoint or bucket.server.endpoint))


@contextmanager
def impatient(timeout_s: float = 5.0) -> Iterator[None]:
    """Clients that are made meanwhile wait `timeout_s` for an answer and pause nowhere."""
    with (
        patch.object(s3_clients, "OBJECTS_READ_TIMEOUT_S", timeout_s),
        patch.object(s3_clients, "TRANSFERS_READ_TIMEOUT_S", timeout_s),
        patch.object(s3, "_PAUSES_S", (1e-6, 1e-6, 1e-6)),
        patch.object(s3_downloads, "PAUSES_S", (1e-6, 1e-6, 1e-6)),
        patch.object(ExponentialBackoff, "delay_amount", lambda self, context: 0.0),
    ):
        yield


@contextmanager
def bad_network(bucket: S3Bucket, timeout_s: float = 5.0) -> Iterator[tuple[S3Storage, FaultyProxy]]:
    """Impatient storage in `bucket` behind a proxy, which has no faults yet."""
    with faulty_proxy(bucket.server.endpoint) as proxy, impatient(timeout_s):
        yield storage_in(bucket, endpoint=proxy.endpoint), proxy
