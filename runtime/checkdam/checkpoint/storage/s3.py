"""Checkpoint storage in a bucket of Amazon S3 or of a server that speaks its protocol (`s3://bucket/prefix`).

`create` is one `PutObject` with `If-None-Match: *`, which lets one caller win. A client that retries by itself may have won
with an attempt whose answer got lost, and then find the name taken: `create` reports it as taken, and its caller reads
back. Files go up and down in parallel parts; they are put under the same condition, and an upload carries a mark of its
own, so that `put_file` itself can tell a lost answer from a stranger's file.

Names are keys below the prefix; folders are only in names, and listings by delimiter cost what their answer is long.
"""

from __future__ import annotations

import builtins
import logging
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from checkdam.checkpoint.storage.base import StoredFile
from checkdam.checkpoint.storage.naming import check_name, check_prefix
from checkdam.checkpoint.storage.probing import probe_conditional_create
from checkdam.checkpoint.storage.s3_clients import S3Clients
from checkdam.checkpoint.storage.s3_errors import S3_ERRORS, is_conflict, is_taken, may_have_happened, storage_error
from checkdam.core.errors import AlreadyExistsError, NotFoundError, StorageError, UnknownOutcomeError
from checkdam.spec.checkpoint import S3Options

UPLOAD_AGE: Final = timedelta(days=1)
"""A multipart upload that began a day ago belongs to no living writer; one that wakes up later fails and stores nothing."""

DELETE_BATCH: Final = 1000
"""Keys in one request, as many as S3 allows."""

_PAUSES_S: Final = (0.1, 0.3, 1.0)
"""Longest random pauses before trying again what botocore does not: a conflict between two creates, an answer that breaks off."""

_MARK: Final = "checkdam-upload"
_log = logging.getLogger(__name__)


class S3Storage:
    """`Storage` below a prefix of a bucket.

    Args:
        uri: `s3://bucket` or `s3://bucket/prefix`.
        options: How it is reached.
        parallel_transfers: So many files, or parts of files, travel at the same time, in each process.

    Raises:
        StorageError: The uri names no bucket, or its prefix cannot be one.
    """

    shared = True

    def __init__(self, uri: str, options: S3Options, parallel_transfers: int = 4) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError("open", uri, "s3:// needs a bucket's name", "write s3://bucket/prefix")
        prefix = prefix.rstrip("/")
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._top = f"{check_name('open', prefix, f's3://{bucket}')}/" if prefix else ""
        self._clients = S3Clients(self.uri, options, parallel_transfers)

    def __repr__(self) -> str:
        return f"S3Storage({self.uri!r})"

    def probe(self) -> None:
        probe_conditional_create(self)
        self._abort_leftovers()

    def create(self, path: str, data: bytes) -> None:
        key = self._key("create", path)
        unsure = False
        for pause_s in (*_PAUSES_S, 0.0):
            try:
                self._clients.objects().put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")
            except S3_ERRORS as error:
                if is_taken(error):
                    raise self._taken("create", path) from error
                unsure = unsure or may_have_happened(error)
                if is_conflict(error) and pause_s:
                    _pause(pause_s)
                    continue
                known = self._error("create", path, error)
                if unsure:
                    raise UnknownOutcomeError("create", known.path, known.cause, known.hint) from error
                raise known from error
            return

    def put_file(self, path: str, local: Path) -> None:
        key = self._key("put_file", path)
        mark = uuid.uuid4().hex
        about = {"Metadata": {_MARK: mark}}
        for pause_s in (*_PAUSES_S, 0.0):
            try:
                self._clients.uploads().upload(str(local), self._bucket, key, extra_args=about).result()
            except S3_ERRORS as error:
                if is_conflict(error) and pause_s:
                    _pause(pause_s)
                    continue
                if (is_taken(error) or may_have_happened(error)) and self._holds(path, mark):
                    return  # the answer to an attempt that succeeded was lost
                known = self._taken("put_file", path) if is_taken(error) else self._error("put_file", path, error)
                raise known from error
            except OSError as error:
                cause = f"cannot read {local}: {error.strerror or error}"
                raise StorageError("put_file", f"{self.uri}/{path}", cause) from error
            return

    def read(self, path: str) -> bytes:
        key = self._key("read", path)
        with self._reported("read", path):
            for pause_s in _PAUSES_S:
                answer = self._clients.objects().get_object(Bucket=self._bucket, Key=key)
                try:
                    return answer["Body"].read()
                except BotoCoreError:
                    _pause(pause_s)
            return self._clients.objects().get_object(Bucket=self._bucket, Key=key)["Body"].read()

    def fetch(self, path: str, local: Path) -> None:
        key = self._key("fetch", path)
        try:
            file = local.open("xb")
        except OSError as error:
            raise self._cannot_write(path, local, error) from error
        try:
            with file, self._reported("fetch", path):
                self._clients.downloads().download(self._bucket, key, file.fileno())
        except BaseException as error:
            local.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._cannot_write(path, local, error) from error
            raise

    def exists(self, path: str) -> bool:
        key = self._key("exists", path)
        try:
            with self._reported("exists", path):
                self._clients.objects().head_object(Bucket=self._bucket, Key=key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[StoredFile]:
        below = self._below(prefix)
        with self._reported("list", prefix):
            pages = self._clients.objects().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=below):
                for found in page.get("Contents", ()):
                    path = found["Key"][len(self._top) :]
                    if not path.endswith("/"):  # some tools store an empty object to show a folder
                        yield StoredFile(path, found["Size"], int(found["LastModified"].timestamp() * 1000))

    def folders(self, prefix: str) -> builtins.list[str]:
        below = self._below(prefix)
        with self._reported("list", prefix):
            pages = self._clients.objects().get_paginator("list_objects_v2")
            return sorted(
                found["Prefix"][len(below) : -1]
                for page in pages.paginate(Bucket=self._bucket, Prefix=below, Delimiter="/")
                for found in page.get("CommonPrefixes", ())
            )

    def delete(self, paths: Iterable[str]) -> None:
        keys = [self._key("delete", path) for path in paths]
        first: StorageError | None = None
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            with self._reported("delete", batch[0][len(self._top) :]):
                answer = self._clients.objects().delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            for refused in answer.get("Errors", ()):
                if refused.get("Code") != "NoSuchKey":
                    code, message = refused.get("Code", ""), refused.get("Message", "")
                    error = ClientError({"Error": {"Code": code, "Message": message}}, "DeleteObjects")
                    first = first or self._error("delete", refused.get("Key", "")[len(self._top) :], error)
        if first is not None:
            raise first

    def _abort_leftovers(self) -> None:
        """Abort multipart uploads of writers that died: their parts are in no listing and cost money all the same."""
        client = self._clients.objects()
        before = datetime.now(UTC) - UPLOAD_AGE
        try:
            pages = client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._top):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < before:
                        client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
        except S3_ERRORS as error:
            # Not every server lists them, and not every user may; a lifecycle rule of the bucket does the same.
            _log.info("multipart uploads below %s that were given up stay there: %s", self.uri, type(error).__name__)

    def _holds(self, path: str, mark: str) -> bool:
        """Whether what is stored is the upload with this mark; `False` also if nobody knows."""
        try:
            found = self._clients.objects().head_object(Bucket=self._bucket, Key=f"{self._top}{path}")
        except S3_ERRORS:
            return False
        return found["Metadata"].get(_MARK) == mark

    def _key(self, operation: str, path: str) -> str:
        return f"{self._top}{check_name(operation, path, self.uri)}"

    def _below(self, prefix: str) -> str:
        folder = check_prefix("list", prefix, self.uri)
        return f"{self._top}{folder}/" if folder else self._top

    @contextmanager
    def _reported(self, operation: str, path: str) -> Iterator[None]:
        try:
            yield
        except S3_ERRORS as error:
            raise self._error(operation, path, error) from error

    def _error(self, operation: str, path: str, error: BaseException) -> StorageError:
        return storage_error(operation, f"{self.uri}/{path}", error, self._clients.endpoint)

    def _taken(self, operation: str, path: str) -> AlreadyExistsError:
        return AlreadyExistsError(operation, f"{self.uri}/{path}", "the name is taken")

    def _cannot_write(self, path: str, local: Path, error: OSError) -> StorageError:
        return StorageError("fetch", f"{self.uri}/{path}", f"cannot write {local}: {error.strerror or error}")


def _pause(longest_s: float) -> None:
    time.sleep(random.uniform(0, longest_s))
