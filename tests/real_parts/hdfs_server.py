"""A real HDFS for tests: a NameNode and a DataNode of Apache Hadoop on free ports of the loopback.

The jars come from Maven into the parts' cache once. All processes of a test run share one HDFS, `hdfs(folder)`: the first
starts a *keeper*, this file as a program, which owns the two servers. Every user holds a shared lock on a file for as long as
he lives, and the keeper stops the servers when it gets that lock for itself. So they end with the last user, however he ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from parts_cache import installed, locked, program

VERSION: Final = "3.4.2"
_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_PATIENCE_S: Final = 90.0
_POLL_S: Final = 0.1
_DEBIAN: Final = "on Debian: apt-get install default-jdk-headless maven"
_ANSWER: Final = "keeper.json"

# Small and quick to start rather than fast for days; edits need not outlive the machine.
_JVM: Final = (
    *("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"),
    *("--add-opens", "java.base/java.lang=ALL-UNNAMED"),
)
_LOGGING: Final = """\
log4j.rootLogger=INFO, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss,SSS} %p %c{1}: %m%n
"""

T = TypeVar("T")


@dataclass(frozen=True)
class HdfsServer:
    """A running HDFS: where WebHDFS is served, where the RPCs are, and who may do everything (the user of this process)."""

    webhdfs: str
    rpc: str
    namenode_pid: int
    datanode_pid: int

    @property
    def uri(self) -> str:
        """`hdfs://host:port`, without a path."""
        return f"hdfs://{self.webhdfs}"


def install() -> Path:
    """The folder with Hadoop's jars, downloaded on first use.

    Raises:
        RuntimeError: Java or Maven is not installed, or Maven failed.
    """
    return installed(f"hadoop-{VERSION}", _download)


@contextmanager
def hdfs(folder: Path) -> Iterator[HdfsServer]:
    """The HDFS that lives in `folder`, shared with all other processes that name the same one; started if it is not running.

    Raises:
        RuntimeError: It does not start; the message has the end of its log.
    """
    jars = install()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users").open("a") as users:
        with locked(folder / "start"):
            fcntl.flock(users, fcntl.LOCK_SH)  # waits while a keeper stops what it owns
            server = _running(folder) or _start_keeper(folder, jars)
        yield server


def _download(folder: Path) -> None:
    maven = program("mvn", _DEBIAN)
    program("java", _DEBIAN)
    artifacts = "".join(
        f"<dependency><groupId>org.apache.hadoop</groupId><artifactId>{name}</artifactId><version>{VERSION}</version></dependency>"
        for name in ("hadoop-common", "hadoop-hdfs", "hadoop-hdfs-client")
    )
    (folder / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>dev.checkdam</groupId><artifactId>hdfs-for-tests</artifactId>"
        f"<version>1</version><packaging>pom</packaging><dependencies>{artifacts}</dependencies></project>"
    )
    command = [maven, "-q", "-B", "-f", str(folder / "pom.xml"), _PLUGIN]
    done = subprocess.run(
        [*command, "-DincludeScope=runtime", f"-DoutputDirectory={folder}"], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"Maven cannot get Hadoop {VERSION}:\n{(done.stdout + done.stderr)[-3000:]}")


def _running(folder: Path) -> HdfsServer | None:
    try:
        return HdfsServer(**json.loads((folder / _ANSWER).read_text()))
    except FileNotFoundError:
        return None


def _start_keeper(folder: Path, jars: Path) -> HdfsServer:
    log = folder / "keeper.log"
    # No `Popen`, which is for a process that ends before its parent, and warns otherwise.
    keeper = os.posix_spawn(
        sys.executable,
        [sys.executable, __file__, str(folder), str(jars)],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,  # Ctrl-C is for the users; the keeper notices when they are gone
    )
    return _await(lambda: _running(folder), lambda: os.waitpid(keeper, os.WNOHANG)[0] != 0, log)


def _keep(folder: Path, jars: Path) -> None:
    """The keeper's life: start both, tell where they are, wait until nobody uses them, stop them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    servers: list[subprocess.Popen[bytes]] = []
    answer = folder / _ANSWER
    try:
        unfinished = answer.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(_start_servers(folder, jars, servers))))
        unfinished.rename(answer)
        with (folder / "users").open("a") as users:
            while not _alone(users):
                time.sleep(_POLL_S)
            answer.unlink()
            _stop(servers)  # before the lock is free, so that whoever comes now starts a new one
    finally:
        answer.unlink(missing_ok=True)
        _stop(servers)


def _alone(users: object) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
    except BlockingIOError:
        return False
    return True


def _start_servers(folder: Path, jars: Path, servers: list[subprocess.Popen[bytes]]) -> HdfsServer:
    """NameNode and DataNode; each is added to `servers` as soon as it runs."""
    namenode = _configure(
        folder / "namenode",
        {
            "fs.defaultFS": "hdfs://127.0.0.1:0",
            "dfs.namenode.http-address": "127.0.0.1:0",
            "dfs.namenode.name.dir": f"file://{folder}/namenode/data",
            "dfs.namenode.edits.noeditlogchannelflush": "true",
        },
    )
    _java(namenode, jars, "namenode.NameNode", "-format", "-force", "-nonInteractive").wait()
    servers.append(_java(namenode, jars, "namenode.NameNode"))
    log = namenode / "log"

    def ended() -> bool:
        return servers[-1].poll() is not None

    rpc = _await(lambda: _found(log, r"NameNode RPC up at: \S*?:(\d+)"), ended, log)
    web = _await(lambda: _found(log, r"Jetty bound to port (\d+)"), ended, log)
    datanode = _configure(
        folder / "datanode",
        {
            "fs.defaultFS": f"hdfs://127.0.0.1:{rpc}",
            "dfs.datanode.data.dir": f"file://{folder}/datanode/data",
            # Closing a file waits this long if the namenode has not heard of its last block yet; 400 by default.
            "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "5",
            **{f"dfs.datanode.{kind}address": "127.0.0.1:0" for kind in ("", "http.", "ipc.")},
        },
    )
    servers.append(_java(datanode, jars, "datanode.DataNode"))
    _await(lambda: _live_datanodes(web) or None, ended, datanode / "log")
    return HdfsServer(f"127.0.0.1:{web}", f"127.0.0.1:{rpc}", servers[0].pid, servers[1].pid)


def _configure(folder: Path, settings: dict[str, str]) -> Path:
    """A new folder that goes onto the class path: settings, logging, and the descriptions of web applications that the jars lack."""
    shutil.rmtree(folder, ignore_errors=True)
    for application in ("hdfs", "datanode"):
        description = folder / "webapps" / application / "WEB-INF" / "web.xml"
        description.parent.mkdir(parents=True, exist_ok=True)
        description.write_text("<web-app/>")
    settings = {"dfs.replication": "1", **settings}
    properties = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in settings.items())
    for name in ("core-site.xml", "hdfs-site.xml"):
        (folder / name).write_text(f"<configuration>{properties}</configuration>")
    (folder / "log4j.properties").write_text(_LOGGING)
    return folder


def _java(folder: Path, jars: Path, main: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [
        program("java", _DEBIAN),
        *_JVM,
        "-cp",
        f"{folder}:{jars}/*",
        f"org.apache.hadoop.hdfs.server.{main}",
        *arguments,
    ]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _found(log: Path, pattern: str) -> str | None:
    match = re.search(pattern, log.read_text(errors="replace"))
    return match[1] if match else None


def _live_datanodes(web_port: str) -> int:
    url = f"http://127.0.0.1:{web_port}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(json.load(answer)["beans"][0]["NumLiveDataNodes"])


def _await(ready: Callable[[], T | None], ended: Callable[[], bool], log: Path) -> T:
    deadline = time.monotonic() + _PATIENCE_S
    while (value := ready()) is None:
        if ended() or time.monotonic() > deadline:
            raise RuntimeError(f"HDFS did not start; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(_POLL_S)
    return value


def _stop(servers: list[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        server.kill()  # what they hold is gone with the run
    for server in servers:
        server.wait()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), Path(sys.argv[2]))
