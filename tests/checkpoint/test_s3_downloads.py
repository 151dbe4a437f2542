"""Files come from S3 whole, whatever answers look like."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from faulty_proxy import Fault, Request
from s3_kit import bad_network, storage_in
from s3_server import S3Bucket

from checkdam.checkpoint.storage.s3_clients import PART_SIZE_BYTES
from checkdam.checkpoint.storage.s3_downloads import Downloads


@pytest.mark.parametrize(
    "size_bytes", [0, 1, PART_SIZE_BYTES - 1, PART_SIZE_BYTES, PART_SIZE_BYTES + 1, 3 * PART_SIZE_BYTES]
)
def test_a_file_of_any_size_comes_back_as_it_was(s3_bucket: S3Bucket, tmp_path: Path, size_bytes: int) -> None:
    storage = storage_in(s3_bucket)
    (tmp_path / "up").write_bytes(os.urandom(size_bytes))
    storage.put_file("f", tmp_path / "up")
    storage.fetch("f", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_each_part_is_asked_for_once_and_only_the_one_that_breaks_off_again(
    s3_bucket: S3Bucket, tmp_path: Path
) -> None:
    (tmp_path / "up").write_bytes(os.urandom(3 * PART_SIZE_BYTES))
    with bad_network(s3_bucket) as (storage, proxy):
        storage.put_file("f", tmp_path / "up")
        uploads = len(proxy.seen)
        pending = [Fault.TRUNCATED]

        def second_breaks(request: Request) -> Fault:
            return pending.pop() if pending and request.number == uploads + 1 else Fault.NONE

        proxy.plan = second_breaks
        storage.fetch("f", tmp_path / "down")
        assert [request.method for request, _ in proxy.seen[uploads:]] == ["GET"] * 4
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_a_server_that_knows_no_ranges_sends_the_file_at_once(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    client = s3_bucket.server.client()
    with Stubber(client) as stub, (tmp_path / "down").open("wb") as file:
        answer = {"Body": StreamingBody(io.BytesIO(b"whole file"), 10), "ContentLength": 10}
        stub.add_response("get_object", answer, {"Bucket": "b", "Key": "k", "Range": "bytes=0-3"})
        Downloads(client, part_bytes=4, parallel=2).download("b", "k", file.fileno())
    assert (tmp_path / "down").read_bytes() == b"whole file"


def test_a_file_that_is_replaced_meanwhile_is_not_put_together_of_both(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    client = s3_bucket.server.client()
    client.put_object(Bucket=s3_bucket.name, Key="k", Body=b"old version")
    downloads = Downloads(client, part_bytes=6, parallel=1)
    get = client.get_object

    def replaced_after(**request: object) -> object:
        answer = get(**request)  # type: ignore[arg-type]
        client.put_object(Bucket=s3_bucket.name, Key="k", Body=b"new version")
        return answer

    client.get_object = replaced_after  # type: ignore[assignment]
    with (tmp_path / "down").open("wb") as file, pytest.raises(ClientError, match="PreconditionFailed"):
        downloads.download(s3_bucket.name, "k", file.fileno())
