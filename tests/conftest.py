"""Real servers for tests: each starts when a test first asks for it. Those that serve Kubernetes are in `kubernetes`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from hdfs_server import HdfsServer, hdfs
from s3_server import S3Bucket, S3Server, s3

from cluster.programs import REMEDY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that tests against Kubernetes were left out, louder than one of many lines about skipped tests would."""
    skipped = terminalreporter.stats.get("skipped", [])
    left_out = [report for report in skipped if isinstance(report.longrepr, tuple) and REMEDY in report.longrepr[2]]
    if left_out:
        text = f"{len(left_out)} tests against Kubernetes WERE NOT RUN: `{REMEDY}` builds what they need, once"
        terminalreporter.write_sep("!", text, yellow=True, bold=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server of this process."""
    with s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """A new bucket; its keys are in the environment, as S3 clients expect them, also for processes that the test starts."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


@pytest.fixture(scope="session")
def hdfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HdfsServer]:
    """The HDFS of this test run, which its processes share."""
    folder = tmp_path_factory.getbasetemp()
    with hdfs((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "hdfs") as server:
        yield server


@pytest.fixture
def hdfs_uri(hdfs_server: HdfsServer) -> str:
    """The uri of a folder that nobody else uses and that nobody has made."""
    return f"{hdfs_server.uri}/tests/{uuid.uuid4().hex}"
