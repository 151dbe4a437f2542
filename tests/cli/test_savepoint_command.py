"""`checkdam savepoint`: whom it asks, what it says, and what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_calls import MANIFEST, Outcome, call
from sample_manifests import sample_manifest

from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.cli import coordinators
from checkdam.local.registry import registered, registry_folder, running_jobs

TOKEN = "the token"
COMPLETED = {
    "status": "COMPLETED",
    "id": 7,
    "uri": "file:///state/default/job/savepoint-7-1.1-0",
    "sizeBytes": 2048,
    "durationMs": 1500,
    "failure": "",
}


class Coordinator:
    """A coordinator of which a test says what becomes of savepoints.

    Attributes:
        answers: To `GET` of a savepoint, one after another; the last one is repeated.
        asked: The bodies of requests for savepoints.
        refusal: Status and error, in place of taking one.
    """

    def __init__(self) -> None:
        self.answers: list[dict[str, Any] | int] = [COMPLETED]
        self.asked: list[dict[str, Any]] = []
        self.refusal: tuple[int, str] | None = None
        self.jobs_left = 2
        self.url = ""

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/job":
            self.jobs_left -= 1
            return (200, {"state": "STOPPING"}) if self.jobs_left >= 0 else (404, {"error": "gone"})
        if method == "POST":
            self.asked.append(body)
            if self.refusal is not None:
                return self.refusal[0], {"error": self.refusal[1]}
            return 202, {**body, "status": "IN_PROGRESS"}
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, int):
            return found, {"error": "no savepoint of that name"}
        return 200, {**self.asked[-1], **found}


@contextmanager
def serving(coordinator: Coordinator) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = 401, {"error": "the request must carry the job's token"}
            if self.headers["Authorization"] == f"Bearer {TOKEN}":
                status, answer = coordinator.answer(self.command, self.path, json.loads(content or b"{}"))
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    coordinator.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(coordinators, "UNREACHABLE_PATIENCE_S", 0.0)
    found = Coordinator()
    with serving(found):
        (tmp_path / "token").write_text(TOKEN)
        host, _, port = found.url.removeprefix("http://").partition(":")
        (tmp_path / "coordinator.json").write_text(json.dumps({"http_host": host, "http_port": int(port)}))
        yield found


@pytest.fixture
def savepoint(capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(*arguments: str | Path) -> Outcome:
        return call(capsys, "savepoint", *arguments)

    return ask


def test_a_savepoint_is_asked_for_under_a_new_name_and_waited_for(coordinator: Coordinator, savepoint: Any) -> None:
    coordinator.answers = [{"status": "IN_PROGRESS"}, COMPLETED]
    with registered("default/job", "file:///state/default/job", Path.cwd()):
        outcome = savepoint("job")
        again = savepoint("take", "default/job", "--json")
    assert outcome == Outcome(
        0, "savepoint 7 is complete: file:///state/default/job/savepoint-7-1.1-0 (2.0 KiB, 1.5s)\n", ""
    )
    assert json.loads(again.out)["uri"] == COMPLETED["uri"]
    names = [body.pop("request") for body in coordinator.asked]
    assert len(set(names)) == 2
    assert coordinator.asked == [{"stop": False, "drain": False}] * 2
    assert coordinator.jobs_left == 2


def test_a_stop_is_waited_for(coordinator: Coordinator, savepoint: Any) -> None:
    with registered("default/job", "", Path.cwd()):
        outcome = savepoint("job", "--stop", "--drain")
    assert outcome.out.endswith("; the job has stopped with it\n")
    assert (coordinator.asked[0]["stop"], coordinator.asked[0]["drain"]) == (True, True)
    assert coordinator.jobs_left < 0


def test_any_coordinator_is_asked_by_its_url(coordinator: Coordinator, savepoint: Any) -> None:
    assert savepoint("--url", coordinator.url, "--token-file", "token", "--no-wait").out.startswith(
        "asked for savepoint "
    )
    Path("token").write_text("wrong")
    refused = savepoint("--url", coordinator.url, "--token-file", "token")
    assert (refused.code, refused.err) == (1, f"{coordinator.url}: the request must carry the job's token\n")


def test_failures_are_told_in_the_words_of_the_coordinator(coordinator: Coordinator, savepoint: Any) -> None:
    with registered("default/job", "", Path.cwd()):
        coordinator.answers = [{"status": "FAILED", "failure": "worker 1 could not take part: disk full"}]
        failed = savepoint("job")
        coordinator.answers = [404]
        replaced = savepoint("job")
        coordinator.refusal = (409, "a savepoint can be taken while the job is running (it is RESTARTING)")
        refused = savepoint("job")
    assert (failed.code, failed.err) == (1, "the savepoint failed: worker 1 could not take part: disk full\n")
    assert replaced.code == 1
    assert "was replaced in the meantime" in replaced.err
    assert refused.err == "job default/job: a savepoint can be taken while the job is running (it is RESTARTING)\n"


def test_a_coordinator_that_does_not_answer_is_named(coordinator: Coordinator, savepoint: Any) -> None:
    Path("coordinator.json").unlink()
    with registered("default/job", "", Path.cwd()):
        outcome = savepoint("job")
    assert outcome.code == 1
    assert outcome.err.startswith("no coordinator answers for job default/job (")


def test_a_manifest_names_the_run_over_its_own_storage(
    coordinator: Coordinator, savepoint: Any, tmp_path: Path
) -> None:
    storage = f"uri: 'file://{tmp_path}/state'"
    (tmp_path / "job.yaml").write_text(MANIFEST.replace('uri: "s3://bucket/jobs", s3: {region: eu}', storage))
    other = tmp_path / "other"
    with (
        registered("default/flight-delays", f"file://{tmp_path}/state/default/flight-delays", tmp_path),
        _another_run("file:///elsewhere", other),
    ):
        assert savepoint("job.yaml").code == 0
        several = savepoint("flight-delays")
    assert several.code == 1
    assert str(other) in several.err
    assert "--token-file" in several.err


@contextmanager
def _another_run(storage_uri: str, folder: Path) -> Iterator[None]:
    """A second run of the one job that is registered."""
    [own] = running_jobs()
    other = msgspec.structs.replace(own, storage_uri=storage_uri, run_folder=str(folder))
    path = registry_folder() / "another.json"
    path.write_bytes(msgspec.json.encode(other))
    yield
    path.unlink()


def test_a_job_that_does_not_run_here_is_refused_with_those_that_do(coordinator: Coordinator, savepoint: Any) -> None:
    assert "no job does" in savepoint("flights").err
    assert "no job `team/flights` runs" in savepoint("team/flights").err
    with registered("default/job", "", Path.cwd()):
        outcome = savepoint("flights")
    assert outcome.code == 1
    assert "default/job" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["job", "--drain"], "`--drain` needs `--stop`"),
        (["job", "--no-wait", "--to", "there"], "`--to` needs `--wait`"),
        (["--stop"], "name either a TARGET"),
        (["job", "--url", "http://x", "--token-file", "t"], "name either a TARGET"),
        (["--url", "http://x"], "`--token-file`"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    coordinator: Coordinator, savepoint: Any, arguments: list[str], problem: str
) -> None:
    outcome = savepoint(*arguments)
    assert outcome.code == 2
    assert problem in " ".join(outcome.err.replace("│", " ").split())
    assert not coordinator.asked


def _write_savepoint(storage: FileStorage) -> str:
    manifest = sample_manifest(7, kind="savepoint", drained=True)
    CheckpointStore(storage).write_manifest("savepoint-7-1.1-0", manifest)
    return f"{storage.uri}/savepoint-7-1.1-0"


def test_a_savepoint_is_copied_where_it_is_taken(coordinator: Coordinator, savepoint: Any, tmp_path: Path) -> None:
    uri = _write_savepoint(FileStorage(tmp_path / "state"))
    coordinator.answers = [{**COMPLETED, "uri": uri}]
    with registered("default/job", "", Path.cwd()):
        copied = savepoint("job", "--to", "kept", "--json")
    assert json.loads(copied.out)["copy"] == f"file://{tmp_path}/kept/savepoint-7-1.1-0"
    assert (tmp_path / "kept" / "savepoint-7-1.1-0" / "_metadata").exists()


def test_savepoints_are_copied_shown_listed_and_disposed_of(
    capsys: pytest.CaptureFixture[str], savepoint: Any, tmp_path: Path
) -> None:
    uri = _write_savepoint(FileStorage(tmp_path / "state"))
    assert savepoint("copy", uri, tmp_path / "kept").out == f"copied to file://{tmp_path}/kept/savepoint-7-1.1-0\n"
    refused = savepoint("copy", uri, tmp_path / "kept")
    assert (refused.code, "exists already" in refused.err) == (1, True)
    shown = call(capsys, "checkpoints", "show", uri).out
    assert f"savepoint:   {uri}" in shown
    assert "7, drained" in shown
    assert savepoint("dispose", uri).out == f"{uri} is deleted\n"
    assert not list((tmp_path / "state").rglob("*metadata"))
    assert savepoint("dispose", tmp_path / "nothing").code == 1


def test_without_arguments_the_commands_are_listed(savepoint: Any) -> None:
    outcome = savepoint()
    assert all(word in outcome.out + outcome.err for word in ("take", "copy", "dispose"))
