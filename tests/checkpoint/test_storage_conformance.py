"""What every `Storage` promises, run over every implementation."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from faulty import FaultyStorage
from faulty_proxy import Fault, Refusal, Request
from s3_kit import bad_network
from s3_server import S3Bucket

from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.generic import FsspecStorage
from checkdam.checkpoint.storage.hdfs import HdfsStorage
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.storage.s3 import S3Storage
from checkdam.core.errors import AlreadyExistsError, NotFoundError, StorageError
from checkdam.spec.checkpoint import HdfsOptions, S3Options


def s3(request: pytest.FixtureRequest) -> Storage:
    bucket: S3Bucket = request.getfixturevalue("s3_bucket")
    return S3Storage(f"{bucket.uri}/deep/job", S3Options(endpoint=bucket.server.endpoint))


def s3_behind_a_bad_network(request: pytest.FixtureRequest) -> Storage:
    """Of every third kind of request, by method and name, the first is refused, gets lost on its way, or is answered in part.

    What is done though its answer gets lost is left out: `create` may then find the name taken by itself, which is for the journal to find
    out (`test_s3_faults`).
    """
    faults = itertools.cycle(
        [Refusal(503, "SlowDown"), Fault.RESET_BEFORE, Refusal(500, "InternalError"), Fault.TRUNCATED]
    )
    seen: set[tuple[str, str]] = set()

    def plan(one: Request) -> Fault | Refusal:
        kind = one.method, one.path
        if kind in seen:
            return Fault.NONE
        seen.add(kind)
        if len(seen) % 3:
            return Fault.NONE
        fault = next(faults)
        return Fault.RESET_BEFORE if fault is Fault.TRUNCATED and one.method != "GET" else fault

    stack = ExitStack()
    request.addfinalizer(stack.close)
    storage, proxy = stack.enter_context(bad_network(request.getfixturevalue("s3_bucket"), timeout_s=30.0))
    proxy.plan = plan
    return storage


def hdfs(request: pytest.FixtureRequest) -> Storage:
    return HdfsStorage(f"{request.getfixturevalue('hdfs_uri')}/deep/job", HdfsOptions())


IMPLEMENTATIONS: dict[str, Callable[[Path, pytest.FixtureRequest], Storage]] = {
    "file": lambda folder, request: FileStorage(folder / "deep" / "job"),
    "memory": lambda folder, request: MemoryStorage("ns/job"),
    "s3": lambda folder, request: s3(request),
    "s3 behind a bad network": lambda folder, request: s3_behind_a_bad_network(request),
    "hdfs": lambda folder, request: hdfs(request),
    # Of fsspec's filesystems: one with exclusive create, and one that lives in this process. What none of them promises, one winner
    # among several processes and whole files after a crash, is not asked here: `FsspecStorage` says so.
    "fsspec over a local folder": lambda folder, request: FsspecStorage(f"local://{folder}/deep/job"),
    "fsspec over memory": lambda folder, request: FsspecStorage(f"memory://{uuid.uuid4().hex}/deep/job"),
    "faulty without faults": lambda folder, request: FaultyStorage(MemoryStorage("ns/job")),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return IMPLEMENTATIONS[request.param](tmp_path / "storage", request)


def names(storage: Storage, prefix: str = "") -> set[str]:
    return {file.path for file in storage.list(prefix)}


def test_what_was_created_can_be_read(storage: Storage) -> None:
    storage.create("a/b/c", b"content")
    storage.create("empty", b"")
    assert storage.read("a/b/c") == b"content"
    assert storage.read("empty") == b""


def test_a_second_create_of_a_name_fails_and_changes_nothing(storage: Storage) -> None:
    storage.create("a/name", b"first")
    with pytest.raises(AlreadyExistsError, match="a/name"):
        storage.create("a/name", b"second")
    assert storage.read("a/name") == b"first"


def test_a_deleted_name_is_free_again(storage: Storage) -> None:
    storage.create("a/name", b"first")
    storage.delete(["a/name"])
    assert not storage.exists("a/name")
    storage.create("a/name", b"second")
    assert storage.read("a/name") == b"second"


def test_what_is_missing_is_reported_as_not_found(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing/here"):
        storage.read("nothing/here")
    with pytest.raises(NotFoundError):
        storage.fetch("nothing/here", tmp_path / "local")
    assert not (tmp_path / "local").exists()
    assert not storage.exists("nothing/here")
    assert names(storage, "nothing") == set()
    assert storage.folders("nothing") == []


def test_deleting_what_is_gone_is_no_error(storage: Storage) -> None:
    storage.create("a/x", b"1")
    storage.delete(["a/x", "a/y", "b/z"])
    storage.delete(["a/x"])
    storage.delete([])
    assert names(storage) == set()


def test_files_travel_up_and_down_unchanged(storage: Storage, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(bytes(range(256)) * 5000)
    storage.put_file("chk-1/state", local)
    storage.fetch("chk-1/state", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    local.unlink()
    assert len(storage.read("chk-1/state")) == 1_280_000


def test_a_stored_file_is_never_replaced_by_another(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    storage.put_file("chk-1/state", tmp_path / "one")
    with pytest.raises(AlreadyExistsError):
        storage.put_file("chk-1/state", tmp_path / "two")
    assert storage.read("chk-1/state") == b"one"


def test_a_fetched_file_is_a_copy(storage: Storage, tmp_path: Path) -> None:
    storage.create("f", b"stored")
    storage.fetch("f", tmp_path / "local")
    with (tmp_path / "local").open("ab") as file:
        file.write(b" and changed")
    assert storage.read("f") == b"stored"


def test_fetch_does_not_overwrite_a_local_file(storage: Storage, tmp_path: Path) -> None:
    storage.create("f", b"stored")
    (tmp_path / "local").write_bytes(b"mine")
    with pytest.raises(StorageError, match="local"):
        storage.fetch("f", tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == b"mine"


def test_putting_a_local_file_that_is_missing_names_it(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        storage.put_file("f", tmp_path / "absent")


def test_a_listing_shows_all_files_below_a_folder_with_size_and_time(storage: Storage) -> None:
    before_ms = time.time_ns() // 1_000_000
    for path in ("a/1", "a/b/2", "ab/3", "top"):
        storage.create(path, path.encode())
    assert names(storage) == {"a/1", "a/b/2", "ab/3", "top"}
    assert names(storage, "a") == names(storage, "a/") == {"a/1", "a/b/2"}
    listed = {file.path: file for file in storage.list("a")}
    assert listed["a/b/2"].size_bytes == 5
    assert abs(listed["a/b/2"].modified_ms - before_ms) < 60_000


def test_folders_are_those_that_hold_files_at_some_depth(storage: Storage) -> None:
    for path in ("a/1", "a/b/2", "a/c/d/3", "e/f", "top"):
        storage.create(path, b"")
    assert set(storage.folders("")) == {"a", "e"}
    assert set(storage.folders("a")) == {"b", "c"}
    storage.delete(["a/c/d/3", "e/f"])
    assert set(storage.folders("")) == {"a"}
    assert set(storage.folders("a")) == {"b"}


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/./b", ".tmp/x", "a\0b"])
def test_names_that_would_lead_out_of_the_job_are_refused(storage: Storage, path: str, tmp_path: Path) -> None:
    for operation in (storage.read, storage.exists, lambda p: storage.create(p, b""), lambda p: storage.delete([p])):
        with pytest.raises(StorageError, match="relative path"):
            operation(path)
    with pytest.raises(StorageError, match="relative path"):
        storage.fetch(path, tmp_path / "local")


def test_of_sixteen_threads_creating_one_name_exactly_one_wins(storage: Storage) -> None:
    for round_number in range(10):
        start = threading.Barrier(16)
        winners: list[int] = []
        errors: list[BaseException] = []

        def contend(index: int, start=start, winners=winners, errors=errors, name=f"race/{round_number}/x") -> None:
            start.wait()
            try:
                storage.create(name, b"%d" % index)
                winners.append(index)
            except AlreadyExistsError:
                assert storage.read(name)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=contend, args=(index,)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(winners) == 1
        assert storage.read(f"race/{round_number}/x") == b"%d" % winners[0]


def test_creating_beside_deleting_never_fails(storage: Storage) -> None:
    errors: list[BaseException] = []

    def churn(index: int) -> None:
        try:
            for number in range(40):
                storage.create(f"churn/{index}-{number}", b"x")
                storage.delete([f"churn/{index}-{number}"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=churn, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(storage) == set()


def test_the_probe_accepts_good_storage_and_leaves_nothing(storage: Storage) -> None:
    storage.probe()
    storage.probe()
    assert names(storage) == set()


def test_the_probe_refuses_storage_that_ignores_conditional_create() -> None:
    with pytest.raises(StorageError, match="a second `create` of one name succeeded"):
        FaultyStorage(MemoryStorage(), lies=True).probe()
