"""What is particular to `hdfs://`: renames whose answers are lost, namenodes that stand by, leftovers, processes, errors at the start."""

from __future__ import annotations

import getpass
import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import pytest
from faulty_proxy import Fault, FaultyProxy, Plan, Refusal, Request, faulty_proxy, works
from hdfs_server import HdfsServer
from rival_coordinators import check_history, run_rivals

from checkdam.checkpoint.storage import hdfs, webhdfs
from checkdam.checkpoint.storage.hdfs import HdfsStorage
from checkdam.checkpoint.storage.locate import open_folder, open_storage
from checkdam.checkpoint.storage.webhdfs import HdfsError, WebHdfs
from checkdam.core.errors import AlreadyExistsError, StorageError, UnknownOutcomeError
from checkdam.spec.checkpoint import CheckpointStorage, HdfsOptions

UNAVAILABLE = Refusal(503, "unavailable")
USER = getpass.getuser()


def impatient(*namenodes: str) -> WebHdfs:
    return WebHdfs(namenodes, USER, sleep=lambda seconds: None)


def through(proxy: FaultyProxy, uri: str) -> HdfsStorage:
    """The storage at `uri`, whose namenode is behind `proxy`; content goes to the datanode directly."""
    return HdfsStorage(uri, HdfsOptions(), client=impatient(proxy.endpoint.removeprefix("http://")))


@pytest.fixture
def storage(hdfs_uri: str) -> HdfsStorage:
    return HdfsStorage(hdfs_uri, HdfsOptions())


@pytest.fixture
def network(hdfs_server: HdfsServer, hdfs_uri: str) -> Iterator[tuple[HdfsStorage, FaultyProxy]]:
    with faulty_proxy(f"http://{hdfs_server.webhdfs}") as proxy:
        yield through(proxy, hdfs_uri), proxy


def always(fault: Fault | Refusal, *operations: str) -> Plan:
    return lambda request: fault if request.query.get("op") in operations else Fault.NONE


def once(fault: Fault | Refusal, *operations: str) -> Plan:
    """`fault` for the first request of each operation."""
    pending = {*operations}

    def plan(request: Request) -> Fault | Refusal:
        operation = request.query.get("op", "")
        if operation not in pending:
            return Fault.NONE
        pending.remove(operation)
        return fault

    return plan


def temporaries(storage: HdfsStorage) -> list[str]:
    return [file.name for file in storage._client.list(f"{storage._root}/.tmp")]


def names(storage: HdfsStorage) -> set[str]:
    return {file.path for file in storage.list("")}


# Where it is


def test_a_uri_and_a_job_id_lead_to_the_jobs_folder(hdfs_server: HdfsServer, hdfs_uri: str) -> None:
    storage = open_storage(CheckpointStorage(uri=f"{hdfs_uri}/"), "ns/flight-delays")
    assert storage.uri == f"{hdfs_uri}/ns/flight-delays"
    assert storage.shared
    storage.create("x", b"")
    path = hdfs_uri.removeprefix(hdfs_server.uri)
    assert impatient(hdfs_server.webhdfs).status(f"{path}/ns/flight-delays/x") is not None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("hdfs://namenode/data", "hdfs://namenode:9870/data"),
        ("hdfs://one,two:9871/data//x/", "hdfs://one:9870,two:9871/data/x"),
        ("hdfs://namenode", "hdfs://namenode:9870"),
    ],
)
def test_a_port_that_is_left_out_is_that_of_webhdfs(uri: str, shown: str) -> None:
    assert HdfsStorage(uri, HdfsOptions()).uri == shown


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("hdfs:///data", r"names no host; write hdfs://host:port/folder, .* 9870 by default"),
        ("hdfs://one,/data", "names no host"),
        ("hdfs://host:x/data", "the port must be a number"),
        ("hdfs://me@host/data", "a user does not belong into it"),
        ("hdfs://host/a/../b", "HDFS allows no"),
    ],
)
def test_a_uri_that_cannot_be_used_says_why(uri: str, problem: str) -> None:
    with pytest.raises(StorageError, match=problem):
        HdfsStorage(uri, HdfsOptions())


def test_a_library_that_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hdfs", "webhdfs"):
        monkeypatch.delitem(sys.modules, f"checkdam.checkpoint.storage.{module}")
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(StorageError, match=r"`requests` is not installed; pip install 'checkdam\[hdfs\]'"):
        open_folder("hdfs://host/data")


def test_a_process_without_a_user_needs_one_in_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("uid not found")

    monkeypatch.delenv("HADOOP_USER_NAME", raising=False)
    monkeypatch.setattr(hdfs.getpass, "getuser", unknown)
    with pytest.raises(StorageError, match=r"set `spec.checkpoint.storage.hdfs.user`"):
        HdfsStorage("hdfs://host/data", HdfsOptions())
    HdfsStorage("hdfs://host/data", HdfsOptions(user="flink"))


def test_files_belong_to_the_user_of_the_options_or_else_of_the_environment(
    hdfs_server: HdfsServer, hdfs_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HADOOP_USER_NAME", "alice")
    with pytest.raises(StorageError, match="user=alice"):
        HdfsStorage(hdfs_uri, HdfsOptions()).create("x", b"")
    with pytest.raises(StorageError, match=r"Permission denied: user=bob.*; give that user access"):
        HdfsStorage(hdfs_uri, HdfsOptions(user="bob")).create("x", b"")


def test_names_with_any_characters_but_colons_travel_unchanged(storage: HdfsStorage) -> None:
    name = "a b/ä+&=%41?#é"
    storage.create(name, b"x")
    assert names(storage) == {name}
    assert storage.folders("") == ["a b"]
    assert storage.exists(name)
    storage.delete([name])
    assert names(storage) == set()


def test_an_empty_local_file_becomes_an_empty_file(storage: HdfsStorage, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    storage.put_file("chk-1/empty", tmp_path / "empty")
    assert storage.read("chk-1/empty") == b""


def test_folders_without_files_are_not_shown(storage: HdfsStorage) -> None:
    storage._client.make_folder(f"{storage._root}/a/b/c")
    storage.create("x/y/z", b"")
    assert storage.folders("") == ["x"]
    assert storage.folders("a") == []


# Lost answers


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.TRUNCATED, UNAVAILABLE])
def test_a_create_gets_over_a_fault_at_every_step(
    network: tuple[HdfsStorage, FaultyProxy], fault: Fault | Refusal
) -> None:
    storage, proxy = network
    proxy.plan = once(fault, "CREATE", "GETFILESTATUS", "RENAME", "MKDIRS", "DELETE")
    storage.create("a/name", b"content")
    proxy.plan = once(fault, "OPEN", "LISTSTATUS")
    assert storage.read("a/name") == b"content"
    assert names(storage) == {"a/name"}
    assert temporaries(storage) == []
    with pytest.raises(AlreadyExistsError):
        storage.create("a/name", b"other")


def test_a_rename_whose_answer_is_lost_counts_as_made(network: tuple[HdfsStorage, FaultyProxy]) -> None:
    storage, proxy = network
    storage.create("a/first", b"")
    proxy.plan = always(Fault.RESET_AFTER, "RENAME")
    storage.create("a/name", b"content")
    assert storage.read("a/name") == b"content"


def test_a_lost_rename_that_lost_the_race_is_a_taken_name(network: tuple[HdfsStorage, FaultyProxy]) -> None:
    storage, proxy = network
    storage.create("a/name", b"theirs")
    proxy.plan = always(Fault.RESET_AFTER, "RENAME")
    with pytest.raises(AlreadyExistsError):
        storage.create("a/name", b"ours")
    assert storage.read("a/name") == b"theirs"
    assert temporaries(storage) == []


def test_a_rename_that_never_arrived_has_failed_for_certain(network: tuple[HdfsStorage, FaultyProxy]) -> None:
    storage, proxy = network
    proxy.plan = always(Fault.RESET_BEFORE, "RENAME")
    with pytest.raises(StorageError, match=r"the connection to \S+ broke") as caught:
        storage.create("a/name", b"content")
    assert not isinstance(caught.value, UnknownOutcomeError)
    assert (names(storage), temporaries(storage)) == (set(), [])


def test_a_rename_that_arrives_late_finds_nothing_to_rename(
    network: tuple[HdfsStorage, FaultyProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, proxy = network
    storage.create("a/first", b"")
    monkeypatch.setattr(webhdfs, "_TIMEOUTS_S", (5.0, 0.5))
    proxy.plan = always(Fault.SILENT, "RENAME")
    with pytest.raises(StorageError, match="gave no answer in time") as caught:
        storage.create("a/name", b"content")
    assert not isinstance(caught.value, UnknownOutcomeError)
    proxy.plan = works
    late = next(request for request, _ in proxy.seen if request.query["op"] == "RENAME")
    source = late.path.removeprefix("/webhdfs/v1")
    with pytest.raises(HdfsError, match="not found"):
        impatient(proxy.endpoint.removeprefix("http://")).rename(source, late.query["destination"] + "-now")


def test_while_nothing_can_be_looked_at_the_outcome_is_unknown(network: tuple[HdfsStorage, FaultyProxy]) -> None:
    storage, proxy = network
    storage.create("a/first", b"")
    proxy.plan = always(Fault.RESET_AFTER, "RENAME", "DELETE")
    with pytest.raises(UnknownOutcomeError, match="a/name"):
        storage.create("a/name", b"content")
    assert storage.read("a/name") == b"content"


class ForgetfulNamenode(WebHdfs):
    """Its renames take place, the renamed file is deleted by others at once, and then the answer is lost."""

    def rename(self, path: str, new_path: str) -> None:
        super().rename(path, new_path)
        super().delete(new_path)
        raise HdfsError("", "the answer is lost")


def test_a_file_that_was_made_and_deleted_again_has_an_unknown_outcome(hdfs_server: HdfsServer, hdfs_uri: str) -> None:
    storage = HdfsStorage(hdfs_uri, HdfsOptions(), client=ForgetfulNamenode([hdfs_server.webhdfs], USER))
    with pytest.raises(UnknownOutcomeError, match="then the file was gone"):
        storage.create("name", b"content")


class ShortOnce(WebHdfs):
    """The first time it loses the second half of the content, and says nothing."""

    short = True

    def send(self, place: str, content: bytes | BinaryIO) -> None:
        whole = content if isinstance(content, bytes) else content.read()
        super().send(place, whole[: len(whole) // 2] if self.short else whole)
        self.short = False


def test_a_write_that_arrives_in_part_is_made_again(hdfs_server: HdfsServer, hdfs_uri: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"0123456789")
    client = ShortOnce([hdfs_server.webhdfs], USER, sleep=lambda seconds: None)
    storage = HdfsStorage(hdfs_uri, HdfsOptions(), client=client)
    storage.put_file("chk-1/f", tmp_path / "local")
    assert storage.read("chk-1/f") == b"0123456789"
    assert temporaries(storage) == []


@pytest.mark.parametrize("seed", range(2))
def test_coordinators_behind_bad_networks_agree_on_one_history(
    seed: int, hdfs_server: HdfsServer, hdfs_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(webhdfs, "_TIMEOUTS_S", (5.0, 0.5))
    faults = [Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.TRUNCATED, UNAVAILABLE]

    def plan(request: Request) -> Fault | Refusal:
        if request.query["op"] in ("RENAME", "DELETE") and chance.random() < 0.8:
            return Fault.LATE if chance.random() < 0.02 else chance.choice(faults)
        return chance.choice(faults) if chance.random() < 0.2 else Fault.NONE

    with faulty_proxy(f"http://{hdfs_server.webhdfs}") as proxy:
        proxy.plan = plan
        promises = run_rivals(through(proxy, hdfs_uri), chance)
    check_history(HdfsStorage(hdfs_uri, HdfsOptions()), promises)


# Several namenodes, processes, leftovers


def test_the_namenode_that_does_not_stand_by_is_found(hdfs_server: HdfsServer, hdfs_uri: str) -> None:
    with answering(refusal("StandbyException", "Operation category READ is not supported in state standby")) as standby:
        client = impatient(standby.address, "127.0.0.1:1", hdfs_server.webhdfs)
        storage = HdfsStorage(hdfs_uri, HdfsOptions(), client=client)
        storage.create("name", b"x")
        asked = len(standby.seen)
        assert storage.read("name") == b"x"
    assert asked == len(standby.seen) == 1


FORKS = """
import os, sys
from checkdam.checkpoint.storage.hdfs import HdfsStorage
from checkdam.spec.checkpoint import HdfsOptions
storage = HdfsStorage(sys.argv[1], HdfsOptions())
storage.create("before", b"parent")
child = os.fork()
for number in range(20):
    storage.create(f"{'parent' if child else 'child'}/{number}", storage.read("before"))
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_and_its_parent_do_not_share_connections(storage: HdfsStorage, hdfs_uri: str) -> None:
    subprocess.run([sys.executable, "-c", FORKS, hdfs_uri], check=True, timeout=60)
    assert len(names(storage)) == 41


def test_leftovers_of_crashes_are_not_listed_and_are_swept_when_old(storage: HdfsStorage) -> None:
    storage.create("a/x", b"1")
    client = storage._client
    for name in ("old", "young"):
        client.send(client.place(f"{storage._root}/.tmp/{name}"), b"half")
    long_ago = {"modificationtime": "1000", "accesstime": "-1"}
    client._ask("PUT", "SETTIMES", f"{storage._root}/.tmp/old", long_ago)
    assert names(storage) == {"a/x"}
    assert storage.folders("") == ["a"]
    storage.probe()
    assert temporaries(storage) == ["young"]


# What goes wrong at the start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_host_that_is_down_is_named_with_a_hint() -> None:
    address = f"127.0.0.1:{free_port()}"
    storage = HdfsStorage(f"hdfs://{address}/data", HdfsOptions(), client=impatient(address))
    with pytest.raises(StorageError, match=rf"{address} cannot be reached: Connection refused; .* 9870 by default"):
        storage.probe()


def test_a_host_without_a_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    storage = HdfsStorage("hdfs://nowhere:9870/data", HdfsOptions(), client=impatient("nowhere:9870"))
    with pytest.raises(StorageError, match="the name of nowhere:9870 cannot be resolved; correct the host"):
        storage.probe()


def test_the_port_of_the_rpcs_is_recognised(hdfs_server: HdfsServer) -> None:
    storage = HdfsStorage(f"hdfs://{hdfs_server.rpc}/data", HdfsOptions(), client=impatient(hdfs_server.rpc))
    with pytest.raises(StorageError, match=r"the port must be WebHDFS's .* not that of fs.defaultFS"):
        storage.probe()


def test_https_where_there_is_none_is_recognised(hdfs_server: HdfsServer, hdfs_uri: str) -> None:
    with pytest.raises(StorageError, match=r"no TLS connection to .*; set `spec.checkpoint.storage.hdfs.tls`"):
        HdfsStorage(hdfs_uri, HdfsOptions(tls=True)).probe()


def test_a_folder_below_a_file_is_refused_with_the_reason(storage: HdfsStorage, hdfs_uri: str) -> None:
    storage.create("file", b"")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        HdfsStorage(f"{hdfs_uri}/file/job", HdfsOptions()).probe()


def test_a_quota_that_is_used_up_is_named(storage: HdfsStorage) -> None:
    storage.create("a", b"")
    quota = {"namespacequota": "3", "storagespacequota": str(2**62)}
    storage._client._ask("PUT", "SETQUOTA", storage._root, quota)
    with pytest.raises(StorageError, match=r"raise the quota") as caught:
        storage.create("b", b"")
    assert not isinstance(caught.value, UnknownOutcomeError)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("SafeModeException", "wait until the namenode leaves safe mode"),
        ("StandbyException", "name the active namenode, or all of them"),
        ("RetriableException", "planned"),
        ("SecurityException", "a user that HDFS knows"),
    ],
)
def test_what_a_namenode_refuses_is_explained(kind: str, problem: str) -> None:
    with answering(refusal(kind, "planned\nat java.lang.Thread")) as server:
        storage = HdfsStorage(f"hdfs://{server.address}/data", HdfsOptions(), client=impatient(server.address))
        with pytest.raises(StorageError, match=problem) as caught:
            storage.probe()
    assert "java.lang" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}"])
def test_a_server_that_is_no_namenode_is_recognised(content: bytes) -> None:
    with answering(Answer(200, content)) as server:
        storage = HdfsStorage(f"hdfs://{server.address}/data", HdfsOptions(), client=impatient(server.address))
        for operation in (storage.probe, lambda: storage.exists("x"), lambda: list(storage.list(""))):
            with pytest.raises(StorageError, match="the port must be WebHDFS's"):
                operation()


def test_kerberos_is_refused_with_the_reason() -> None:
    with answering(Answer(401, b"<html>Authentication required</html>")) as server:
        storage = HdfsStorage(f"hdfs://{server.address}/data", HdfsOptions(), client=impatient(server.address))
        with pytest.raises(StorageError, match="does not speak Kerberos"):
            storage.probe()


def test_a_datanode_that_cannot_be_reached_is_named_and_its_url_is_not_shown() -> None:
    datanode = f"127.0.0.1:{free_port()}"
    location = {"Location": f"http://{datanode}/webhdfs/v1/data?op=CREATE&delegation=a-token"}
    with answering(Answer(307, b"", location)) as server:
        storage = HdfsStorage(f"hdfs://{server.address}/data", HdfsOptions(), client=impatient(server.address))
        with pytest.raises(
            StorageError, match=rf"{datanode} cannot be reached: .*; see whether .* datanodes too"
        ) as caught:
            storage.create("name", b"x")
    assert "a-token" not in str(caught.value)


@dataclass(frozen=True)
class Answer:
    status: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


def refusal(kind: str, message: str) -> Answer:
    said = {"RemoteException": {"exception": kind, "javaClassName": f"org.apache.hadoop.{kind}", "message": message}}
    return Answer(403, json.dumps(said).encode())


@dataclass
class Answering:
    """A server that gives one answer to everything."""

    address: str
    seen: list[str] = field(default_factory=list)


@contextmanager
def answering(answer: Answer) -> Iterator[Answering]:
    """What no healthy HDFS says on demand."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            made.seen.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response_only(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_DELETE = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Answering(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
