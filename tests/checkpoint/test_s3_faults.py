"""S3 storage and the journal behind a bad network: what gets through, what is unknown, and that nothing is ever half."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_proxy import Fault, FaultyProxy, Plan, Refusal, Request
from rival_coordinators import check_history, run_rivals
from s3_kit import bad_network, storage_in
from s3_server import S3Bucket

from checkdam.checkpoint.storage.s3 import S3Storage
from checkdam.core.errors import AlreadyExistsError, StorageError, UnknownOutcomeError

PART = 8 * 1024 * 1024
SLOW_DOWN = Refusal(503, "SlowDown")


@pytest.fixture
def network(s3_bucket: S3Bucket) -> Iterator[tuple[S3Storage, FaultyProxy]]:
    with bad_network(s3_bucket) as made:
        yield made


def once(fault: Fault | Refusal, method: str = "", query: str = "") -> Plan:
    """`fault` for the first request of that kind."""
    pending = [fault]

    def plan(request: Request) -> Fault | Refusal:
        if pending and method in ("", request.method) and (not query or query in request.query):
            return pending.pop()
        return Fault.NONE

    return plan


def always(fault: Fault | Refusal, method: str = "") -> Plan:
    return lambda request: fault if method in ("", request.method) else Fault.NONE


@pytest.mark.parametrize("fault", [SLOW_DOWN, Refusal(500, "InternalError"), Fault.RESET_BEFORE, Fault.RESET_AFTER])
def test_every_operation_gets_over_a_fault(
    network: tuple[S3Storage, FaultyProxy], fault: Fault | Refusal, tmp_path: Path
) -> None:
    storage, proxy = network
    (tmp_path / "up").write_bytes(b"file")
    operations: list[Callable[[], object]] = [
        lambda: storage.put_file("f", tmp_path / "up"),
        lambda: storage.read("f"),
        lambda: storage.fetch("f", tmp_path / "down"),
        lambda: storage.exists("f"),
        lambda: list(storage.list("")),
        lambda: storage.folders(""),
        lambda: storage.delete(["f"]),
    ]
    for operation in operations:
        proxy.plan = once(fault)
        operation()
    assert (tmp_path / "down").read_bytes() == b"file"
    assert [fault for _, fault in proxy.seen].count(fault) == len(operations)


@pytest.mark.parametrize("fault", [SLOW_DOWN, Fault.RESET_BEFORE])
def test_a_create_is_tried_again(network: tuple[S3Storage, FaultyProxy], fault: Fault | Refusal) -> None:
    storage, proxy = network
    proxy.plan = once(fault)
    storage.create("name", b"content")
    assert storage.read("name") == b"content"


def test_a_conflict_between_creates_is_tried_again(network: tuple[S3Storage, FaultyProxy]) -> None:
    storage, proxy = network
    proxy.plan = once(Refusal(409, "ConditionalRequestConflict"))
    storage.create("name", b"content")
    assert storage.read("name") == b"content"
    proxy.plan = always(Refusal(409, "ConditionalRequestConflict"))
    with pytest.raises(StorageError, match="ConditionalRequestConflict") as caught:
        storage.create("other", b"")
    assert not isinstance(caught.value, UnknownOutcomeError)


def test_a_create_whose_answer_is_lost_finds_the_name_taken_by_itself(network: tuple[S3Storage, FaultyProxy]) -> None:
    storage, proxy = network
    proxy.plan = once(Fault.RESET_AFTER)
    with pytest.raises(AlreadyExistsError):
        storage.create("name", b"content")
    assert storage.read("name") == b"content"


@pytest.mark.parametrize("fault", [SLOW_DOWN, Refusal(500, "InternalError"), Fault.RESET_BEFORE])
def test_a_create_that_is_never_answered_has_an_unknown_outcome(
    network: tuple[S3Storage, FaultyProxy], fault: Fault | Refusal
) -> None:
    storage, proxy = network
    proxy.plan = always(fault, "PUT")
    with pytest.raises(UnknownOutcomeError, match="name"):
        storage.create("name", b"")


def test_a_refusal_after_a_lost_answer_leaves_the_outcome_unknown(network: tuple[S3Storage, FaultyProxy]) -> None:
    storage, proxy = network
    faults = [Refusal(403, "AccessDenied"), Fault.RESET_AFTER]
    proxy.plan = lambda request: faults.pop() if faults else Fault.NONE
    with pytest.raises(UnknownOutcomeError, match="do not permit"):
        storage.create("name", b"")
    assert storage.exists("name")
    proxy.plan = once(Refusal(403, "AccessDenied"))
    with pytest.raises(StorageError) as caught:
        storage.create("other", b"")
    assert not isinstance(caught.value, UnknownOutcomeError)


def test_silence_ends_after_the_timeout(s3_bucket: S3Bucket) -> None:
    with bad_network(s3_bucket, timeout_s=0.1) as (storage, proxy):
        proxy.plan = always(Fault.SILENT)
        with pytest.raises(UnknownOutcomeError, match="did not answer in time"):
            storage.create("name", b"")
        with pytest.raises(StorageError, match="did not answer in time"):
            storage.read("name")


def test_a_read_that_breaks_off_is_repeated_and_never_short(network: tuple[S3Storage, FaultyProxy]) -> None:
    storage, proxy = network
    storage.create("f", b"0123456789" * 1000)
    proxy.plan = once(Fault.TRUNCATED)
    assert len(storage.read("f")) == 10_000
    proxy.plan = always(Fault.TRUNCATED)
    with pytest.raises(StorageError, match="broke"):
        storage.read("f")


def test_a_large_download_that_breaks_off_is_whole_or_an_error(
    network: tuple[S3Storage, FaultyProxy], tmp_path: Path
) -> None:
    storage, proxy = network
    (tmp_path / "up").write_bytes(os.urandom(2 * PART + 17))
    storage.put_file("f", tmp_path / "up")
    proxy.plan = once(Fault.TRUNCATED, "GET")
    storage.fetch("f", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    storage.create("small", b"x" * 1000)
    proxy.plan = always(Fault.TRUNCATED, "GET")
    with pytest.raises(StorageError, match="broke"):
        storage.fetch("small", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("step", ["uploads", "partNumber", "uploadId"])
@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER, SLOW_DOWN])
def test_a_large_upload_gets_over_a_fault_at_every_step(
    s3_bucket: S3Bucket, network: tuple[S3Storage, FaultyProxy], fault: Fault | Refusal, step: str, tmp_path: Path
) -> None:
    storage, proxy = network
    (tmp_path / "up").write_bytes(b"x" * (PART + 1))
    proxy.plan = once(fault, "PUT" if step == "partNumber" else "POST", step)
    storage.put_file("f", tmp_path / "up")
    assert len(storage.read("f")) == PART + 1
    assert fault in [fault for _, fault in proxy.seen]
    with pytest.raises(AlreadyExistsError):
        storage.put_file("f", tmp_path / "up")
    lost = step == "uploads" and fault is Fault.RESET_AFTER  # an upload whose number nobody has heard
    assert len(s3_bucket.server.client().list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads", ())) == lost


def test_an_upload_that_fails_leaves_nothing(
    s3_bucket: S3Bucket, network: tuple[S3Storage, FaultyProxy], tmp_path: Path
) -> None:
    storage, proxy = network
    (tmp_path / "up").write_bytes(b"x" * (PART + 1))
    proxy.plan = lambda request: Refusal(500, "InternalError") if "partNumber" in request.query else Fault.NONE
    with pytest.raises(StorageError, match="the server answers InternalError"):
        storage.put_file("f", tmp_path / "up")
    assert s3_bucket.keys() == set()
    assert "Uploads" not in s3_bucket.server.client().list_multipart_uploads(Bucket=s3_bucket.name)


def test_a_server_that_ignores_the_condition_is_refused(network: tuple[S3Storage, FaultyProxy]) -> None:
    storage, proxy = network
    proxy.plan = always(Fault.UNCONDITIONAL)
    with pytest.raises(StorageError, match="conditional create is not honoured here"):
        storage.probe()


def test_deletes_that_the_server_refuses_are_errors(s3_bucket: S3Bucket) -> None:
    storage = storage_in(s3_bucket)
    client = storage._clients.objects()
    answer = {"Errors": [{"Key": "ns/job/a/x", "Code": "AccessDenied", "Message": "no"}]}
    client.meta.events.register("after-call.s3.DeleteObjects", lambda parsed, **_: parsed.update(answer))
    with pytest.raises(StorageError, match=r"cannot delete s3://.*/ns/job/a/x: the credentials do not permit it"):
        storage.delete(["a/x", "a/y"])


@pytest.mark.parametrize("seed", range(3))
def test_coordinators_behind_bad_networks_agree_on_one_history(seed: int, s3_bucket: S3Bucket) -> None:
    chance = random.Random(seed)
    faults = [Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.TRUNCATED, SLOW_DOWN, Fault.LATE]
    with bad_network(s3_bucket, timeout_s=0.05) as (storage, proxy):
        proxy.plan = lambda request: chance.choice(faults) if chance.random() < 0.25 else Fault.NONE
        promises = run_rivals(storage, chance)
    check_history(storage_in(s3_bucket), promises)


def test_no_error_says_a_key(s3_bucket: S3Bucket, network: tuple[S3Storage, FaultyProxy]) -> None:
    storage, proxy = network
    secret = s3_bucket.server.secret_key
    for fault in (SLOW_DOWN, Fault.RESET_BEFORE, Refusal(403, "SignatureDoesNotMatch"), Refusal(418, "Strange")):
        proxy.plan = always(fault)
        with pytest.raises(StorageError) as caught:
            storage.create("name", b"")
        error: BaseException | None = caught.value
        while error is not None:
            assert secret not in f"{error} {error!r}"
            error = error.__cause__
    assert secret not in repr(storage) + repr(storage._clients) + repr(s3_bucket)
