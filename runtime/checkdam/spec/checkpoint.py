"""When and where a job takes checkpoints: `spec.checkpoint`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.checks import Check, cel_matches, matching
from checkdam.spec.fields import Duration, Model, ObjectName, PositiveDuration, Quantity, quantity_bytes

Mode = Literal["ExactlyOnce", "AtLeastOnce", "AtMostOnce"]
"""What a job promises about records when something fails."""

_OWN_URI: Final = (
    r"s3://[a-z0-9][-a-z0-9.]{1,61}[a-z0-9](?:/[^?#]*)?"
    r"|file://(?:/|\.{1,2}(?:/|$))[^?#]*"
    r"|hdfs://[^/?#]*/[^?#]*"
    r"|memory://"
)
_MAX_URI_LENGTH: Final = 2048
_OTHER_URI: Final = r"[a-z][-a-z0-9+.]*://[^?#]+"
_OWN_SCHEME: Final = r"(?:s3|file|hdfs|memory)://.*"


def _is_uri(text: str) -> bool:
    own, other, own_scheme = (re.compile(it, re.ASCII | re.DOTALL) for it in (_OWN_URI, _OTHER_URI, _OWN_SCHEME))
    return bool(own.fullmatch(text) or (other.fullmatch(text) and not own_scheme.fullmatch(text)))


_IS_URI: Final = f"{cel_matches('self', _OWN_URI)} || {cel_matches('self', _OTHER_URI)} && !self.matches('^(?:s3|file|hdfs|memory)://')"


def _uri_check(*, optional: bool) -> Check:
    return Check(
        holds=lambda text: (optional and not text) or _is_uri(text),
        cel=f"self == '' || {_IS_URI}" if optional else _IS_URI,
        must="must be s3://bucket/prefix, file:///folder, file://./folder (below the manifest's folder, for local runs), "
        "hdfs://host:port/folder, memory://, or a uri that fsspec knows",
    )


StorageUri = Annotated[str, Field(max_length=_MAX_URI_LENGTH), _uri_check(optional=False)]
"""Where checkpoints are."""

OptionalStorageUri = Annotated[str, Field(max_length=_MAX_URI_LENGTH), _uri_check(optional=True)]
"""Where a checkpoint is, or an empty text for none."""

Endpoint = Annotated[
    str,
    # What is wrong is not shown: what is before an `@` may be a password.
    replace(
        matching(
            r"https?://[^/?#@\s]+/?",
            "must be a server's URL such as https://minio.example:9000, without user, path or query",
            optional=True,
        ),
        culprit=None,
    ),
]
"""The URL of an S3 server, or an empty text."""


class S3Options(Model):
    """How `s3://` storage is reached; what is left out comes from the environment, as for every S3 client."""

    endpoint: Endpoint = ""
    """URL of the server, for S3 that is not Amazon's."""

    region: str = ""
    """The bucket's region."""

    path_style: bool = False
    """Put the bucket into the path of requests instead of the host's name, as most servers that are not Amazon's need. Always so with
    an `endpoint` that is an IP address or `localhost`."""

    credentials_secret: ObjectName = ""
    """Name of a Secret of the job's namespace with the keys `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if they are temporary,
    `AWS_SESSION_TOKEN`; read again when they change. Empty: the pods' own identity. Where no Secrets are mounted, as in local runs, the
    usual places of S3 clients are looked at: environment, configuration files."""


class HdfsOptions(Model):
    """How `hdfs://` storage is reached: through WebHDFS, at the hosts and ports of the uri. The port is `dfs.namenode.http-address`'s, 9870
    if left out; several namenodes are separated by commas."""

    user: str = ""
    """Who Checkdam is to HDFS; empty: the environment's `HADOOP_USER_NAME`, or else the user of the process."""

    tls: bool = False
    """Whether WebHDFS is served by https."""


class PersistentVolumeClaimOptions(Model):
    """A volume for `file://` storage, mounted by coordinator and workers at the uri's folder."""

    claim_name: Annotated[ObjectName, Field(min_length=1)]
    """Name of a PersistentVolumeClaim of the job's namespace. Pods on several nodes need the access mode ReadWriteMany."""


class MemoryOptions(Model):
    """Options of `memory://` storage."""

    limit: Quantity = "64Mi"
    """Most bytes that all retained checkpoints together may take in the coordinator's memory. A checkpoint beyond it fails."""

    @property
    def limit_bytes(self) -> int:
        """`limit` in bytes."""
        return quantity_bytes(self.limit)


class CheckpointStorage(Model):
    """Where checkpoints and the job's journal are kept. Options of another scheme than the uri's are refused."""

    uri: StorageUri
    """`s3://bucket/prefix`, `file:///folder` (a volume that all pods share), `hdfs://host:port/folder`, or `memory://` (in the
    coordinator, lost with it). The job's folder below it is its job id. `file://./folder` is taken from the manifest's folder, in
    local runs only. Any other scheme is left to fsspec, as a best effort without the promises of these four."""

    s3: S3Options | None = None
    """Only with `s3://`."""

    hdfs: HdfsOptions | None = None
    """Only with `hdfs://`."""

    persistent_volume_claim: PersistentVolumeClaimOptions | None = None
    """Only with `file://`."""

    memory: MemoryOptions | None = None
    """Only with `memory://`."""

    parallel_transfers: Annotated[int, Field(ge=1, le=64)] = 4
    """So many files, or parts of large ones, each worker uploads or downloads at the same time. Each takes up to 8 MiB of memory."""

    allow_volatile: bool = False
    """Accept that `memory://` breaks the promise of ExactlyOnce and AtMostOnce: when the coordinator is lost, the job starts afresh and
    reads its input again."""

    @property
    def scheme(self) -> str:
        """`s3`, `file`, `hdfs`, `memory`, or one of fsspec's."""
        return urlsplit(self.uri).scheme

    def uri_of(self, job_id: str) -> str:
        """The uri of the folder that a job has here."""
        if self.uri.endswith("://"):
            return f"{self.uri}{job_id}"
        scheme, _, place = self.uri.partition("://")
        return f"{scheme}://{place.rstrip('/')}/{job_id}"

    @property
    def memory_limit_bytes(self) -> int:
        """The limit of `memory://` storage in bytes, given or default."""
        return (self.memory or MemoryOptions()).limit_bytes


class Checkpointing(Model):
    """Checkpoints: how often, with which promise, how many are kept."""

    interval: PositiveDuration = "10s"
    """From the start of one checkpoint to the start of the next. After a failure at most this much work is repeated; output of two-phase
    sinks appears this often."""

    mode: Mode = "ExactlyOnce"
    """`ExactlyOnce`: every record counts once in state and in two-phase sinks; barriers are aligned. `AtLeastOnce`: no alignment, so
    records may count again after a failure. `AtMostOnce`: no record is handed to the pipeline twice; some may be lost."""

    timeout: PositiveDuration = "10m"
    """A checkpoint that takes longer is aborted and counts as failed."""

    min_pause: Duration = "0s"
    """From the end of one checkpoint to the start of the next at least, so that slow checkpoints leave time for records."""

    tolerable_failures: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """So many checkpoints may fail one after another; with one more the attempt fails and the job restarts from the last good one."""

    incremental: bool = True
    """Upload only what the last checkpoint does not hold yet, where the state backend can tell: `rocksdb` can. Otherwise, and always
    with `false`, a checkpoint is full."""

    full_every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Every n-th checkpoint is full although the others are incremental, so that damage to a file in storage cannot be handed on for ever;
    0: none has to be. The first one after a change of parallelism or from a savepoint is full in any case."""

    local_recovery: bool = True
    """Workers keep the files of the last checkpoint on their own disk too, and restore from there what they still have, if it is still
    the same disk, boot and bytes. For `rocksdb` they are links, which take room only for what it has replaced since; for
    `hashmap` they take as much as a checkpoint."""

    retain: Annotated[int, Field(ge=1, le=1000)] = 3
    """At least so many completed checkpoints are kept; older ones are deleted after a newer one was journalled."""

    retain_for: Duration = "0s"
    """Checkpoints that were taken less than this before the newest are kept too, up to 1000 in all. Savepoints are never deleted."""

    on_corrupt: Literal["Fail", "FallBack"] = "Fail"
    """When the newest checkpoint is damaged: `Fail` stops the job and says what is missing; `FallBack` restores the one before, and output since
    then repeats."""

    storage: CheckpointStorage
    """Where checkpoints are kept."""

    @property
    def interval_ms(self) -> int:
        """`interval` in ms."""
        return parse_duration_ms(self.interval)

    @property
    def timeout_ms(self) -> int:
        """`timeout` in ms."""
        return parse_duration_ms(self.timeout)

    @property
    def min_pause_ms(self) -> int:
        """`minPause` in ms."""
        return parse_duration_ms(self.min_pause)

    @property
    def retain_for_ms(self) -> int:
        """`retainFor` in ms."""
        return parse_duration_ms(self.retain_for)
