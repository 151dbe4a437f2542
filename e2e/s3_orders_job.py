"""The example `orders` with its checkpoints in S3, where another cluster or namespace would find them too.

Its receipts are in a folder that all nodes see: the volume behind a claim is one namespace's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cluster.cluster import S3_INSIDE
from cluster_s3 import give_s3_keys, s3_storage
from orders_job import OrdersJob

_OUT: Final = "/receipts"


@dataclass(frozen=True, kw_only=True)
class S3OrdersJob(OrdersJob):
    """See `OrdersJob`.

    Attributes:
        bucket: The bucket with its checkpoints.
        folder: The folder with its receipts, made when it is applied.
        endpoint: The S3 server, as its pods are told to reach it.
    """

    bucket: str
    folder: Path
    endpoint: str = S3_INSIDE

    def apply(self, **spec: Any) -> None:
        """See `OrdersJob`; `checkpoint` is laid over `spec.checkpoint`."""
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o777)  # Kubernetes gives volumes of this kind to no group
        give_s3_keys(self)
        mounted = {"name": "checkdam", "volumeMounts": [{"name": "receipts", "mountPath": _OUT}]}
        volume = {"name": "receipts", "hostPath": {"path": str(self.folder)}}
        super().apply(
            checkpoint={"interval": "2s", "storage": s3_storage(self.bucket, self.endpoint)}
            | spec.pop("checkpoint", {}),
            worker={"podTemplate": {"spec": {"containers": [mounted], "volumes": [volume]}}},
            args={"out": _OUT} | spec.pop("args", {}),
            **spec,
        )

    @cached_property
    def output(self) -> Path:
        return self.folder
