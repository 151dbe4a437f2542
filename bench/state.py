"""`make bench-state`: what it costs to store, restore and move state, beside what the S3 client alone can do.

A gibibyte of RocksDB state in two workers, each a process of its own, and a real S3 server on this machine. The parts
are those of real workers: backends, uploads, fetches, local files. What is compared takes turns, and figures are medians.
A full run writes `bench/state-results.md`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer
from rich.console import Console
from suite import state_worker as work
from suite.data import PARTS, data_set
from suite.peers import Peers
from suite.probes import quantile
from suite.report import Row, machine, show, write_markdown
from suite.scenarios import FAR_AWAY, SCENARIOS, Contestant
from suite.state_worker import Site, Spent, Taken
from suite.systems import Figure, Place, measure

BENCH = Path(__file__).resolve().parent
BUILD = BENCH.parent / "build"

WORKERS = 2
RESCALED = 3
PAUSES = 100
REPEATS = 2
"""Times that a thing is done in a row, of which the last counts. What was done before decides how much memory is at hand: the same
download took 1.5 s after one thing and 1.9 s after another, in processor time as well."""

INCREMENTS = 30
"""So many that caches overflow, and RocksDB merges files, within them."""

TOUCHED = 0.01
JOBS = ("rocksdb-zipf", "rocksdb-uniform")


if TYPE_CHECKING:
    from s3_server import S3Bucket, S3Server


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """The S3 server that the tests use as well; its keys and address are in the environment of all processes."""
    sys.path.append(str(BENCH.parent / "tests" / "real_parts"))
    from s3_server import s3

    with s3(folder) as server:
        os.environ.update(server.environment(), AWS_ENDPOINT_URL=server.endpoint)
        yield server


def together(spent: list[Spent]) -> Spent:
    """What something cost that several workers did at the same time."""
    return Spent(max(each.wall_s for each in spent), sum(each.cpu_s for each in spent))


class Team:
    """Worker processes, one for each index, which do the same thing at the same time."""

    def __init__(self, size: int) -> None:
        context = get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(size)]
        for pool in self._pools:
            pool.submit(os.getpid).result()

    def all(self, function: Callable[..., Any], of_worker: Callable[[int], tuple[Any, ...]], **named: Any) -> list[Any]:
        """`function` in every worker at once, with arguments by its index; returns what each returned."""
        calls = [pool.submit(function, *of_worker(index), **named) for index, pool in enumerate(self._pools)]
        return [call.result() for call in calls]

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown()


class Bench:
    """The measurements on one gibibyte, in their order: later ones need what earlier ones left in storage."""

    def __init__(self, site: Site, bucket: S3Bucket, runs: int, quick: bool, console: Console) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self._site = site
        self._bucket = bucket
        self._runs = runs
        self._quick = quick
        self._console = console
        self._team = Team(WORKERS)
        self._more = Team(RESCALED)
        self._total_bytes = 0
        self._stored: list[Taken] = []

    def run(self) -> None:
        """Everything."""
        try:
            sizes = self._team.all(work.fill, lambda index: (self._site, index, WORKERS))
            self._total_bytes = sum(sizes)
            self._say(f"{self._total_bytes / 2**20:.0f} MiB of state in {WORKERS} workers")
            self._upload()
            self._restore()
            self._rescale()
            self._recover_locally()
            self._increments()
            self._pauses()
        finally:
            self._team.close()
            self._more.close()

    def _upload(self) -> None:
        def own(number: int) -> Spent:
            self._empty("checkpoints/")
            self._team.all(work.open_filled, lambda index: (self._site, index, WORKERS))
            self._stored = self._team.all(work.take, lambda index: (self._site, index, number, -1))
            return together([taken.whole for taken in self._stored])

        def bare(_: int) -> Spent:
            self._empty("bare/")
            return together(self._team.all(work.move_up, lambda index: (self._site, index, "bare")))

        ours, theirs = self._in_turn("full checkpoint", own, "boto3 alone", bare)
        self._compare("full checkpoint: freeze, hash, upload", ours, theirs, "boto3 alone", 0.8)

    def _restore(self) -> None:
        def bare(_: int) -> Spent:
            return together(self._team.all(work.move_down, lambda index: (self._site, index, "bare")))

        ours, theirs = self._in_turn("full restore", lambda _: self._restored(self._team, WORKERS), "boto3 alone", bare)
        self._compare("full restore: download, verify, open, read", ours, theirs, "boto3 alone", 0.8)
        self._empty("bare/")

    def _in_turn(
        self, what: str, own: Callable[[int], Spent], beside: str, other: Callable[[int], Spent]
    ) -> tuple[list[Spent], list[Spent]]:
        """What two things cost that are done in turn, given the number of the run; each comes after one of its own kind."""
        ours, theirs = [], []
        for number in range(1, self._runs + 1):
            for found, measured in (ours, own), (theirs, other):
                found.append([measured(number) for _ in range(REPEATS)][-1])
            self._say(f"{what}, run {number}: {ours[-1].wall_s:.2f} s, {beside} {theirs[-1].wall_s:.2f} s")
        return ours, theirs

    def _rescale(self) -> None:
        three, two = self._in_turn(
            "rescale",
            lambda _: self._restored(self._more, RESCALED),
            "plain restore",
            lambda _: self._restored(self._team, WORKERS),
        )
        moved, plain = [spent.wall_s for spent in three], [spent.wall_s for spent in two]
        ratio = statistics.median(moved) / statistics.median(plain)
        self.rows.append(
            Row(
                f"restore with {RESCALED} workers instead of {WORKERS}",
                f"{statistics.median(moved):.2f} s",
                "plain restore",
                f"{statistics.median(plain):.2f} s",
                f"{ratio:.2f}",
                "≤ 2",
                ratio <= 2,
            )
        )

    def _restored(self, team: Team, parallelism: int) -> Spent:
        taken = [t.snapshot for t in self._stored]
        groups = [work.key_group_range(work.KEY_GROUPS, parallelism, index) for index in range(parallelism)]
        parts = [
            [s for s in taken if s.key_groups and s.key_groups[0] < owned.stop and owned.start < s.key_groups[1]]
            for owned in groups
        ]
        return together(
            team.all(work.restore, lambda index: (self._site, index, parallelism, parts[index]), local=False)
        )

    def _recover_locally(self) -> None:
        times = []
        for number in range(1, self._runs + 1):
            taken = [t.snapshot for t in self._stored]
            spent = self._team.all(
                work.restore, lambda index, t=taken: (self._site, index, WORKERS, [t[index]]), local=True
            )
            times.append(together(spent).wall_s)
            self._say(f"local restore, run {number}: {times[-1]:.2f} s")
        found = statistics.median(times)
        self.rows.append(
            Row("restore of what the workers still have", f"{found:.2f} s", target="≤ 1 s", reached=found <= 1)
        )

    def _increments(self) -> None:
        first = 1000
        self._team.all(work.open_filled, lambda index: (self._site, index, WORKERS))
        full = self._team.all(work.take, lambda index: (self._site, index, first, -1))
        full_bytes = sum(taken.new_bytes for taken in full)
        shares, seconds = [], []
        for number in range(first + 1, first + 1 + (2 if self._quick else INCREMENTS)):
            self._team.all(work.touch, lambda index, n=number: (TOUCHED, n * WORKERS + index))
            taken = self._team.all(work.take, lambda index, n=number: (self._site, index, n, n - 1))
            shares.append(sum(t.new_bytes for t in taken) / full_bytes)
            seconds.append(max(t.whole.wall_s for t in taken))
        found = statistics.median(shares)
        self._say(f"increments: {', '.join(f'{share:.1%}' for share in shares)}")
        self.rows.append(
            Row(
                f"incremental checkpoint after touching {TOUCHED:.0%} of the keys: bytes uploaded",
                f"{found:.1%}, in {statistics.median(seconds):.2f} s",
                "full checkpoint",
                f"{full_bytes / 2**20:.0f} MiB",
                target="≤ 10 %",
                reached=found <= 0.1,
            )
        )
        self.notes.append(
            f"Incremental checkpoints: {len(shares)} in a row uploaded {statistics.mean(shares):.1%} of the bytes on average, the "
            f"largest {max(shares):.1%}, when RocksDB had merged files."
        )

    def _pauses(self) -> None:
        pauses: list[float] = []
        for number in range((4 if self._quick else PAUSES) // WORKERS):
            self._team.all(work.touch, lambda index, n=number: (TOUCHED, 10_000 + n * WORKERS + index))
            pauses += self._team.all(work.freeze, lambda index: (self._site, index))
        found_ms = quantile(pauses, 0.99) * 1000
        self.rows.append(
            Row("pause of the task thread, p99", f"{found_ms:.1f} ms", target="≤ 20 ms", reached=found_ms <= 20)
        )
        self.notes.append(
            f"Pauses: of {len(pauses)} snapshots, each after touching {TOUCHED:.0%} of the keys; median "
            f"{statistics.median(pauses) * 1000:.1f} ms, longest {max(pauses) * 1000:.1f} ms."
        )

    def _compare(self, what: str, ours: list[Spent], theirs: list[Spent], beside: str, target: float) -> None:
        own, other = (statistics.median(each.wall_s for each in spent) for spent in (ours, theirs))
        own_cpu, other_cpu = (statistics.median(each.cpu_s for each in spent) for spent in (ours, theirs))
        self.rows.append(
            Row(
                what,
                self._speed(own),
                beside,
                self._speed(other),
                f"{other / own:.2f}",
                f"≥ {target:g}",
                other / own >= target,
                f"{other_cpu / own_cpu:.2f}",
            )
        )

    def _speed(self, seconds: float) -> str:
        return f"{seconds:.2f} s, {self._total_bytes / 2**20 / seconds:.0f} MiB/s"

    def _empty(self, prefix: str) -> None:
        client = self._bucket.server.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name, Prefix=prefix):
            for found in page.get("Contents", ()):
                client.delete_object(Bucket=self._bucket.name, Key=found["Key"])

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


PLACES = {"S3": "1s", "a local folder": "1s", "": FAR_AWAY}
"""Where checkpoints go, and how often."""


def throughput(bucket: S3Bucket, build: Path, runs: int, quick: bool, console: Console) -> tuple[list[Row], list[str]]:
    """Whole jobs on rocksdb: with an incremental checkpoint each second, to S3 and to a local folder, and without any."""
    rows, notes = [], []
    for scenario in (scenario for scenario in SCENARIOS if scenario.name in JOBS):
        lines = scenario.contestants[0].lines // (40 if quick else 1)
        lines -= lines % PARTS
        data = data_set(build / "bench-data", scenario.data, lines)
        figures: dict[str, list[Figure]] = {place: [] for place in PLACES}
        server_s = []
        for number in range(runs):
            for where, interval in PLACES.items():
                uri = f"{bucket.uri}/{scenario.name}-{number}" if where == "S3" else ""
                contestant = Contestant("checkdam", lines, "Checkdam", interval=interval)
                before_s = server_cpu_s()
                place = Place(build / "bench-run", uri)
                figures[where].append(measure(scenario, contestant, data, lines, place, Peers("", None, {})))
                if where == "S3":
                    server_s.append(server_cpu_s() - before_s)
                found = figures[where][-1]
                console.print(
                    f"{scenario.name}, checkpoints each {interval} to {where or 'nowhere'}: {found.per_second:,.0f} records/s, "
                    f"{found.cpu_us:.2f} µs of CPU each",
                    highlight=False,
                )
        rows += [_cost(scenario.title, where, figures[where], figures[""]) for where in PLACES if where]
        records = lines * scenario.records_per_line
        notes.append(
            f"{scenario.title}: of processor time a record took {statistics.median(f.cpu_us for f in figures['S3']):.2f} µs in all "
            f"processes of the job, and {statistics.median(server_s) / records * 1e6:.2f} µs in the S3 server on the same cores."
        )
    return rows, notes


def _cost(title: str, where: str, ours: list[Figure], without: list[Figure]) -> Row:
    own, other = (statistics.median(figure.per_second for figure in figures) for figures in (ours, without))
    own_cpu, other_cpu = (statistics.median(figure.cpu_us for figure in figures) for figures in (ours, without))
    return Row(
        f"{title}, a checkpoint to {where} each second",
        f"{own:,.0f}/s",
        "without checkpoints",
        f"{other:,.0f}/s",
        f"{own / other:.2f}",
        "≥ 0.9",
        own / other >= 0.9,
        f"{other_cpu / own_cpu:.2f}",
    )


def server_cpu_s() -> float:
    """Processor time of the S3 servers that this process has started."""
    below = psutil.Process().children(recursive=True)
    times = [process.cpu_times() for process in below if process.name() == "versitygw"]
    return sum(each.user + each.system for each in times)


def main(
    mib: Annotated[int, typer.Option(min=8, help="How much state, in MiB.")] = 1024,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each measurement; the median counts.")] = 4,
    quick: Annotated[bool, typer.Option("--quick", help="Little state, once: whether it works, not how fast.")] = False,
    jobs: Annotated[bool, typer.Option(help="Measure the throughput of whole jobs too.")] = True,
    build: Annotated[Path, typer.Option(help="Where data and runs are kept.")] = BUILD,
) -> None:
    """Measure, and print one table."""
    console = Console(width=None if Console().is_terminal else 160)
    runs, mib = (1, 32) if quick else (runs, mib)
    folder = build / "bench-state"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "server").mkdir(parents=True)
    began = time.monotonic()
    with s3_server(folder / "server") as server:
        bucket = server.new_bucket()
        site = Site(folder, bucket.name, server.endpoint, (mib << 20) // work.VALUE_BYTES)
        bench = Bench(site, bucket, runs, quick, console)
        bench.run()
        rows, job_notes = throughput(bucket, build, runs, quick, console) if jobs else ([], [])
    shutil.rmtree(folder)
    notes = [
        machine({}),
        f"{mib} MiB of values of {work.VALUE_BYTES} bytes that do not compress, in {WORKERS} workers, each a process; versitygw on "
        f"this machine as the S3 server; {work.TRANSFERS} transfers at a time in each worker, with Checkdam and with boto3 alone, "
        f"which only moves the same files; medians of {runs}, each right after one of the same that does not count.",
        *bench.notes,
        *job_notes,
        "Ratio by CPU time: the processor time of what it is compared with, divided by that of Checkdam, of all processes but the server.",
        f"The whole took {time.monotonic() - began:.0f} s.",
    ]
    rows = bench.rows + rows
    show(rows, notes, console)
    if not quick and jobs:
        write_markdown(rows, notes, BENCH / "state-results.md", "make bench-state")


if __name__ == "__main__":
    typer.run(main)
