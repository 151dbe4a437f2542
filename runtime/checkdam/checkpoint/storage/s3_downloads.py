"""How a file comes from S3: in parts, several at a time, written to where they belong as they arrive.

`s3transfer` could do it too, as it does for uploads. It hands every piece to one thread that writes, asks for the size first, and
took half as much processor time again; a restore is little but downloads.

The first part is asked for without knowing how large the file is: the answer tells. Parts of another version of a file are
refused by the server. Requests are repeated by botocore; what breaks off in the middle of an answer is asked for again here,
from where it broke off.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError

from checkdam.checkpoint.transfers import Transfers

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

PIECE_BYTES: Final = 1 << 20
"""What is read at a time, and written."""

PAUSES_S: Final = (0.1, 0.3, 1.0)
"""Longest random pauses before asking again for what broke off."""


@dataclass(frozen=True)
class _File:
    """A stored file.

    Attributes:
        bucket, key: Where it is.
        tag: Of the version that is fetched; empty where the server tells none.
    """

    bucket: str
    key: str
    tag: str = ""


class Downloads:
    """Brings files; safe for threads, of one process.

    Args:
        client: Of the server.
        part_bytes: Larger files travel in parts of this size.
        parallel: So many parts travel at a time, of all files together.
    """

    def __init__(self, client: S3Client, part_bytes: int, parallel: int) -> None:
        self._client = client
        self._part_bytes = part_bytes
        self._transfers = Transfers(parallel)

    def download(self, bucket: str, key: str, target_fd: int) -> None:
        """Write a stored file into an empty local one.

        Raises:
            BotoCoreError, ClientError: The server does not send it.
            OSError: It cannot be written.
        """
        [(file, size_bytes)] = self._transfers.run([partial(self._first_part, _File(bucket, key), target_fd)])
        starts = range(self._part_bytes, size_bytes, self._part_bytes)
        ends = [min(start + self._part_bytes, size_bytes) for start in starts]
        self._transfers.run(
            [partial(self._part, file, target_fd, start, end) for start, end in zip(starts, ends, strict=True)]
        )

    def _first_part(self, file: _File, target_fd: int) -> tuple[_File, int]:
        """Fetch the first part; returns the file with its tag, and how large it is, or 0 if there is no more of it."""
        try:
            answer = self._get(file, 0, self._part_bytes)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return file, 0  # no part of an empty file can be had
            raise
        file = _File(file.bucket, file.key, answer.get("ETag", ""))
        self._receive(file, answer, target_fd, 0, answer["ContentLength"])
        _, _, size = answer.get("ContentRange", "").rpartition("/")
        return file, int(size or 0)

    def _part(self, file: _File, target_fd: int, start: int, end: int) -> None:
        self._receive(file, self._get(file, start, end), target_fd, start, end)

    def _get(self, file: _File, start: int, end: int) -> GetObjectOutputTypeDef:
        request: GetObjectRequestTypeDef = {
            "Bucket": file.bucket,
            "Key": file.key,
            "Range": f"bytes={start}-{end - 1}",
        }
        if file.tag:
            request["IfMatch"] = file.tag
        return self._client.get_object(**request)

    def _receive(self, file: _File, answer: GetObjectOutputTypeDef, target_fd: int, start: int, end: int) -> None:
        """Write what the answer brings, and get the rest of it where it breaks off, as long as that gets on at all."""
        failures = 0
        while True:
            body = answer["Body"]
            try:
                for piece in _pieces(body, end - start):
                    _write(target_fd, piece, start)
                    start += len(piece)
                    failures = 0
            except BotoCoreError:
                if failures == len(PAUSES_S):
                    raise
                time.sleep(random.uniform(0, PAUSES_S[failures]))
                failures += 1
                answer = self._get(file, start, end)
            else:
                return
            finally:
                body.close()


def _pieces(body: StreamingBody, size_bytes: int) -> Iterator[bytes]:
    """So many bytes of an answer, piece by piece; raises BotoCoreError if it ends before."""
    left = size_bytes
    while left:
        piece = body.read(min(left, PIECE_BYTES))
        if not piece:
            raise IncompleteReadError(actual_bytes=size_bytes - left, expected_bytes=size_bytes)
        left -= len(piece)
        yield piece


def _write(target_fd: int, piece: bytes, at: int) -> None:
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(target_fd, rest, at)
        rest, at = rest[written:], at + written
