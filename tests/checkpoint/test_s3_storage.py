"""What is particular to `s3://`: credentials, addresses, pages and batches, processes, leftovers, errors at the start."""

from __future__ import annotations

import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from faulty_proxy import Fault, Refusal, faulty_proxy
from s3_kit import bad_network, impatient, storage_in
from s3_server import S3Bucket
from urllib3 import HTTPResponse

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.opening import open_checkpoint, open_job
from checkdam.checkpoint.storage import s3
from checkdam.checkpoint.storage.locate import open_folder, open_storage
from checkdam.checkpoint.storage.s3 import S3Storage
from checkdam.core.errors import CheckpointError, StorageError
from checkdam.spec.checkpoint import CheckpointStorage, S3Options

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture
def no_credentials(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default chain of S3 clients finds nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)


def mount(root: Path, secret: str, **files: str) -> Path:
    folder = root / secret
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content + "\n")
    return folder


def with_secret(bucket: S3Bucket) -> S3Storage:
    return S3Storage(f"{bucket.uri}/job", S3Options(endpoint=bucket.server.endpoint, credentialsSecret="s3-keys"))


def test_a_uri_and_a_job_id_lead_to_the_jobs_prefix(s3_bucket: S3Bucket) -> None:
    for uri in (s3_bucket.uri, f"{s3_bucket.uri}/", f"{s3_bucket.uri}/a/b/"):
        spec = CheckpointStorage(uri=uri, s3=S3Options(endpoint=s3_bucket.server.endpoint))
        storage = open_storage(spec, "ns/flight-delays")
        assert storage.uri == f"{uri.rstrip('/')}/ns/flight-delays"
        assert storage.shared
    storage.create("x", b"")
    assert s3_bucket.keys() == {"a/b/ns/flight-delays/x"}


@pytest.mark.parametrize("uri", ["s3://bucket//x", "s3://bucket/a/../b", "s3://bucket/./x"])
def test_a_prefix_that_is_no_path_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="relative path"):
        open_folder(uri)


def test_names_with_any_characters_travel_unchanged(s3_bucket: S3Bucket) -> None:
    storage = storage_in(s3_bucket)
    name = "a b/ä+&=%41?#é"
    storage.create(name, b"x")
    assert [file.path for file in storage.list("")] == [name]
    assert storage.folders("") == ["a b"]
    assert storage.exists(name)
    storage.delete([name])
    assert s3_bucket.keys() == set()


def test_the_mark_of_a_folder_is_no_file(s3_bucket: S3Bucket) -> None:
    s3_bucket.server.client().put_object(Bucket=s3_bucket.name, Key="ns/job/empty/")
    storage = storage_in(s3_bucket)
    storage.create("a/x", b"")
    assert [file.path for file in storage.list("")] == ["a/x"]


def test_more_files_than_fit_one_answer_are_listed_and_deleted(s3_bucket: S3Bucket) -> None:
    storage = storage_in(s3_bucket)
    names = {f"a/{number}" for number in range(1005)}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: storage.create(name, b""), names))
    assert {file.path for file in storage.list("a")} == names
    with faulty_proxy(s3_bucket.server.endpoint) as proxy:
        through = storage_in(s3_bucket, endpoint=proxy.endpoint)
        assert through.folders("") == ["a"]
        through.delete(names)
        assert [request.method for request, _ in proxy.seen] == ["GET", "POST", "POST"]
    assert s3_bucket.keys() == set()


def test_large_files_travel_in_parts(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(os.urandom(20_000_000))
    with bad_network(s3_bucket) as (storage, proxy):
        storage.put_file("f", tmp_path / "up")
        storage.fetch("f", tmp_path / "down")
        parts = [request for request, _ in proxy.seen if "partNumber" in request.query]
        assert len(parts) == 3
        assert len([request for request, _ in proxy.seen if request.method == "GET"]) == 3
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_a_forked_process_makes_its_own_clients(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    storage = storage_in(s3_bucket)
    (tmp_path / "f").write_bytes(b"of the parent")
    storage.put_file("parent", tmp_path / "f")
    child = os.fork()
    if child == 0:
        try:
            storage.create("child", storage.read("parent"))
            storage.put_file("file", tmp_path / "f")
        finally:
            os._exit(0)
    for number in range(50):
        storage.create(f"beside-{number}", b"")
    assert os.waitpid(child, 0)[1] == 0
    assert storage.read("child") == storage.read("file") == b"of the parent"


def test_the_probe_aborts_uploads_of_writers_that_died(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    client = s3_bucket.server.client()
    for key in ("ns/job/chk-1-1.1-0/f", "ns/job2/f"):
        client.create_multipart_upload(Bucket=s3_bucket.name, Key=key)
    storage_in(s3_bucket).probe()
    assert len(client.list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]) == 2
    monkeypatch.setattr(s3, "UPLOAD_AGE", timedelta(days=-1))
    storage_in(s3_bucket).probe()
    assert [upload["Key"] for upload in client.list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]] == [
        "ns/job2/f"
    ]


def test_a_server_that_cannot_list_uploads_is_good_enough(s3_bucket: S3Bucket) -> None:
    with bad_network(s3_bucket) as (storage, proxy):
        proxy.plan = lambda request: Refusal(501, "NotImplemented") if "uploads" in request.query else Fault.NONE
        storage.probe()


@pytest.mark.usefixtures("no_credentials")
def test_credentials_come_from_a_mounted_secret_and_are_read_again_when_it_changes(
    s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = s3_bucket.server
    monkeypatch.setenv("CHECKDAM_SECRETS_DIR", str(tmp_path))
    folder = mount(tmp_path, "s3-keys", AWS_ACCESS_KEY_ID=server.access_key, AWS_SECRET_ACCESS_KEY="old-secret")
    storage = with_secret(s3_bucket)
    with pytest.raises(StorageError, match="the secret key does not belong to the access key"):
        storage.create("x", b"")
    mount(tmp_path, "next", AWS_ACCESS_KEY_ID=server.access_key, AWS_SECRET_ACCESS_KEY=server.secret_key)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / "next" / name).replace(folder / name)
    storage.create("x", b"")
    (folder / "AWS_ACCESS_KEY_ID").unlink()
    storage.create("while the Secret is not whole", b"")
    assert server.secret_key not in repr(vars(storage)) + repr(vars(storage._clients))


@pytest.mark.usefixtures("no_credentials")
def test_a_secret_that_is_not_whole_names_the_missing_file(
    s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHECKDAM_SECRETS_DIR", str(tmp_path))
    mount(tmp_path, "s3-keys", AWS_ACCESS_KEY_ID="known", AWS_SECRET_ACCESS_KEY="")
    storage = with_secret(s3_bucket)
    for operation in (storage.probe, lambda: storage.put_file("f", Path(__file__))):
        with pytest.raises(
            StorageError, match="s3-keys/AWS_SECRET_ACCESS_KEY is missing or empty; give the Secret `s3-keys`"
        ):
            operation()


def test_without_mounted_secrets_the_usual_places_are_looked_at(s3_bucket: S3Bucket) -> None:
    with_secret(s3_bucket).probe()


def test_a_session_token_is_never_logged(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-the-session")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError):
        storage_in(s3_bucket).create("x", b"")
    assert "token-of-the-session" not in caplog.text


@pytest.mark.parametrize(
    ("endpoint", "path_style", "expected"),
    [
        ("http://127.0.0.1:9000", False, "http://127.0.0.1:9000/bucket/x"),
        ("http://localhost:9000", False, "http://localhost:9000/bucket/x"),
        ("http://[::1]:9000", False, "http://[::1]:9000/bucket/x"),
        ("https://minio.example", False, "https://bucket.minio.example/x"),
        ("https://minio.example", True, "https://minio.example/bucket/x"),
        ("", False, "https://bucket.s3.eu-west-1.amazonaws.com/x"),
    ],
)
def test_where_the_buckets_name_goes(
    endpoint: str, path_style: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    storage = S3Storage("s3://bucket", S3Options(endpoint=endpoint, region="eu-west-1", pathStyle=path_style))
    urls: list[str] = []

    def answer(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        urls.append(request.url)
        return AWSResponse(request.url, 200, {}, HTTPResponse(io.BytesIO(), preload_content=False))

    storage._clients.objects().meta.events.register("before-send.s3", answer)
    assert storage.exists("x")
    assert urls == [expected]


def test_a_missing_bucket_is_named_at_the_start(s3_bucket: S3Bucket) -> None:
    storage = S3Storage("s3://no-such-bucket/ns/job", S3Options(endpoint=s3_bucket.server.endpoint))
    with pytest.raises(
        StorageError, match=r"cannot create s3://no-such-bucket/ns/job/probe/\w+: there is no such bucket; create"
    ):
        storage.probe()
    with pytest.raises(StorageError, match=r"cannot list s3://no-such-bucket/.*there is no such bucket"):
        Journal(storage).tail()


@pytest.mark.parametrize(
    ("variable", "value", "cause"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret key does not belong to the access key"),
        ("AWS_ACCESS_KEY_ID", "stranger", "the server does not know the access key"),
    ],
)
def test_wrong_credentials_are_named_at_the_start(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, cause: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StorageError, match=f"{cause}; give the right ones"):
        storage_in(s3_bucket).probe()


@pytest.mark.usefixtures("no_credentials")
def test_missing_credentials_are_named_at_the_start(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="no credentials were found; give the right ones"):
        storage_in(s3_bucket).probe()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "half")
    with pytest.raises(StorageError, match="only a part of the credentials was found"):
        storage_in(s3_bucket).probe()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="ProfileNotFound"):
        storage_in(s3_bucket).probe()


def test_a_server_that_cannot_be_reached_is_named_without_a_password(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_proxy(s3_bucket.server.endpoint) as proxy:
        closed = proxy.endpoint
    with impatient():
        with pytest.raises(StorageError, match=f"the server {closed} cannot be reached; look at"):
            storage_in(s3_bucket, endpoint=closed).probe()
        monkeypatch.setenv("AWS_ENDPOINT_URL", closed.replace("//", "//user:password@"))
        with pytest.raises(StorageError, match="the server http://127") as caught:
            open_folder(s3_bucket.uri).probe()
    assert "password" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no url")
    with pytest.raises(StorageError, match="the server's URL is not valid"):
        open_folder(s3_bucket.uri).probe()


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (Refusal(403, "AccessDenied"), "the credentials do not permit it; permit s3:ListBucket"),
        (Refusal(403, "ExpiredToken"), "the session token has expired"),
        (
            Refusal(400, "IllegalLocationConstraintException"),
            "in another region; set `spec.checkpoint.storage.s3.region`",
        ),
        (Refusal(403, "RequestTimeTooSkewed"), "the clocks of this machine and of the server differ"),
        (Refusal(501, "NotImplemented"), "choose storage with conditional writes"),
        (Refusal(507, "XMinioStorageFull"), "disks are full; free space"),
        (Refusal(418, "Strange"), r"the server answers Strange \(planned\)"),
    ],
)
def test_every_refusal_is_one_sentence_with_a_remedy(s3_bucket: S3Bucket, refusal: Refusal, sentence: str) -> None:
    with bad_network(s3_bucket) as (storage, proxy):
        proxy.plan = lambda request: refusal
        with pytest.raises(StorageError, match=sentence) as caught:
            storage.probe()
    assert str(caught.value).startswith(f"cannot create {storage.uri}/probe/")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_in_s3_is_opened_by_its_own_uri_or_by_its_jobs(s3_bucket: S3Bucket) -> None:
    options = CheckpointStorage(uri=s3_bucket.uri, s3=S3Options(endpoint=s3_bucket.server.endpoint))
    storage = open_storage(options, "ns/job")
    uri = f"{s3_bucket.uri}/ns/job"
    for absent in (s3_bucket.uri, uri, f"{uri}/chk-1-1.1-0"):
        with pytest.raises(CheckpointError, match="neither a job's folder"):
            open_checkpoint(absent, options=options)
    Journal(storage).fence()
    assert open_job(f"{uri}/", options=options).storage.uri == uri
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        open_checkpoint(uri, options=options)
