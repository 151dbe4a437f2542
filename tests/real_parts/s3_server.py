"""A real S3 server for tests: versitygw, over a folder, on a free port of the loopback.

It is built by Go into the parts' cache once and starts in a fraction of a second, so each process of a test run has its
own. A shell in between holds the server's life on a pipe: whichever way the process that uses it ends, the server ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from go_programs import go_install
from parts_cache import installed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

VERSION: Final = "v1.8.0"
REGION: Final = "us-east-1"
PACKAGE: Final = "github.com/versity/versitygw/cmd/versitygw"
_PATIENCE_S: Final = 30.0
_TRIES: Final = 3
_WHILE_STDIN_IS_OPEN: Final = '"$@" & server=$!; read -r _; kill $server; wait $server'


@dataclass(frozen=True)
class S3Server:
    """A running server, and the keys of the user who may do everything there."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """What S3 clients need to find beside the endpoint."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> S3Client:
        """A plain boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=5),
        )

    def new_bucket(self) -> S3Bucket:
        """An empty bucket that nobody else uses."""
        name = f"test-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=name)
        return S3Bucket(self, name)


@dataclass(frozen=True)
class S3Bucket:
    """A bucket on a server."""

    server: S3Server
    name: str

    @property
    def uri(self) -> str:
        """`s3://name`."""
        return f"s3://{self.name}"

    def storage(self, folder: str = "") -> dict[str, Any]:
        """`spec.checkpoint.storage` of a manifest for the bucket, or for a folder in it; keys come from the environment."""
        return {"uri": f"{self.uri}/{folder}".rstrip("/"), "s3": {"endpoint": self.server.endpoint}}

    def keys(self) -> set[str]:
        """All that is stored."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {found["Key"] for page in pages for found in page.get("Contents", ())}


def install() -> Path:
    """The folder with the program `versitygw`, built on first use.

    Raises:
        RuntimeError: Go is not installed, or it cannot build the server.
    """
    return installed(f"versitygw-{VERSION}", _build)


@contextmanager
def s3(folder: Path) -> Iterator[S3Server]:
    """A server over `folder`, which must be on a file system with extended attributes, for as long as the context is open.

    Raises:
        RuntimeError: It does not start; the message has the end of its log.
    """
    command = [str(install() / "versitygw"), "--quiet", "--keep-alive", "--region", REGION]
    for attempt in range(_TRIES):
        port = _free_port()
        server = S3Server(f"http://127.0.0.1:{port}", "checkdam-tests", uuid.uuid4().hex)
        log = folder / "server.log"
        (folder / "buckets").mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *("sh", "-c", _WHILE_STDIN_IS_OPEN, "sh"),
                    *(*command, "--port", f"127.0.0.1:{port}", "posix", str(folder / "buckets")),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "ROOT_ACCESS_KEY": server.access_key, "ROOT_SECRET_KEY": server.secret_key},
            )
        try:
            if _answers(server):
                yield server
                return
        finally:
            process.communicate()
        if attempt + 1 == _TRIES:
            raise RuntimeError(f"versitygw did not start; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")


def _build(folder: Path) -> None:
    go_install(folder, PACKAGE, VERSION)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(server: S3Server) -> bool:
    """Whether the server is up, and is ours: somebody may have taken the port in between."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            server.client().list_buckets()
        except ClientError:
            return False
        except BotoCoreError:
            time.sleep(0.02)
        else:
            return True
    return False
