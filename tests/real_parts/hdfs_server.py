"""A real HDFS for tests: a NameNode and a DataNode of Apache Hadoop on free ports of the loopback, or of another address of this computer.

The jars come from Maven into the parts' cache once. All processes of a test run share one HDFS.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from parts_cache import installed, program
from server_process import server_process, until
from shared_servers import shared

VERSION: Final = "3.4.2"
_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_PATIENCE_S: Final = 90.0
_DEBIAN: Final = "on Debian: apt-get install default-jdk-headless maven"

T = TypeVar("T")

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


def hdfs(folder: Path, address: str = "127.0.0.1") -> AbstractContextManager[HdfsServer]:
    """The HDFS that lives in `folder`, shared with all other processes that name the same one; started if it is not running.

    Args:
        address: Of this computer: where clients find it.

    Raises:
        RuntimeError: It does not start; the message has the end of its log.
    """
    install()
    return shared(run_hdfs, HdfsServer, folder, address)


@contextmanager
def run_hdfs(folder: Path, address: str) -> Iterator[HdfsServer]:
    """An HDFS of this process alone."""
    jars = install()
    namenode = _configure(
        folder / "namenode",
        {
            "fs.defaultFS": f"hdfs://{address}:0",
            "dfs.namenode.http-address": f"{address}:0",
            # Otherwise an address must have a name.
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.name.dir": f"file://{folder}/namenode/data",
            "dfs.namenode.edits.noeditlogchannelflush": "true",
        },
    )
    with _java(namenode, jars, "namenode.NameNode", "-format", "-force", "-nonInteractive") as formatting:
        formatting.wait()
    with _java(namenode, jars, "namenode.NameNode") as names:
        log = namenode / "log"
        rpc = _await(lambda: _found(log, r"NameNode RPC up at: \S*?:(\d+)"), names, log)
        web = _await(lambda: _found(log, r"Jetty bound to port (\d+)"), names, log)
        datanode = _configure(
            folder / "datanode",
            {
                "fs.defaultFS": f"hdfs://{address}:{rpc}",
                # Clients are sent there; the name of this computer means nothing to others.
                "dfs.datanode.hostname": address,
                # The namenode knows it by where its connection came from, which a masquerading rule, such as Docker's, may have changed.
                "dfs.client.use.datanode.hostname": "true",
                "dfs.datanode.use.datanode.hostname": "true",
                "dfs.datanode.data.dir": f"file://{folder}/datanode/data",
                # Closing a file waits this long if the namenode has not heard of its last block yet; 400 by default.
                "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "5",
                **{f"dfs.datanode.{kind}address": f"{address}:0" for kind in ("", "http.", "ipc.")},
            },
        )
        with _java(datanode, jars, "datanode.DataNode") as data:
            _await(lambda: _live_datanodes(f"{address}:{web}") or None, data, datanode / "log")
            yield HdfsServer(f"{address}:{web}", f"{address}:{rpc}", names.pid, data.pid)


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


def _java(folder: Path, jars: Path, main: str, *arguments: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    command = [
        program("java", _DEBIAN),
        *_JVM,
        "-cp",
        f"{folder}:{jars}/*",
        f"org.apache.hadoop.hdfs.server.{main}",
        *arguments,
    ]
    return server_process(command, folder / "log", folder)


def _found(log: Path, pattern: str) -> str | None:
    match = re.search(pattern, log.read_text(errors="replace"))
    return match[1] if match else None


def _live_datanodes(webhdfs: str) -> int:
    url = f"http://{webhdfs}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(json.load(answer)["beans"][0]["NumLiveDataNodes"])


def _await(ready: Callable[[], T | None], server: subprocess.Popen[bytes], log: Path) -> T:
    return until(ready, lambda: server.poll() is not None, "HDFS", log, _PATIENCE_S)
