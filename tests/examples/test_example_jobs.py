"""The examples, run as their users run them, against computations that share no code with them."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from example_modules import EXAMPLES, module_of

JOB_TIMEOUT_S = 120


def command(target: str, **options: str) -> list[str]:
    """The command line that runs an example; `arg_x="y"` becomes `--arg x=y`."""
    flags = []
    for name, value in options.items():
        if name.startswith("arg_"):
            flags += ["--arg", f"{name.removeprefix('arg_')}={value}"]
        else:
            flags += [f"--{name.replace('_', '-')}", value]
    return [sys.executable, "-m", "checkdam", "run", str(EXAMPLES / target), "--no-progress", *flags]


def rows_of(folder: Path) -> list[Any]:
    """All records that a file sink has committed."""
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def departures() -> pl.DataFrame:
    """All flights that left, with the hour of their scheduled time."""
    csv = module_of(EXAMPLES / "flight-delays" / "flight_delays.py").unpacked_flights()
    flights = pl.read_csv(csv, null_values=["NA"], infer_schema_length=10_000)
    hour = pl.datetime(pl.col("year"), pl.col("month"), pl.col("day"), pl.col("hour"))
    return flights.filter(pl.col("dep_delay").is_not_null()).select("carrier", "origin", "dep_delay", hour=hour)


def hourly_delays(flights: pl.DataFrame) -> dict[tuple[str, str], tuple[int, float, float]]:
    """(carrier, hour) → flights, mean delay, worst delay."""
    grouped = flights.group_by("carrier", "hour").agg(
        n=pl.len(), mean=pl.col("dep_delay").cast(pl.Float64).mean(), worst=pl.col("dep_delay").max()
    )
    return {
        (row["carrier"], f"{row['hour']:%Y-%m-%dT%H:%M}"): (row["n"], row["mean"], row["worst"])
        for row in grouped.iter_rows(named=True)
    }


def airport_traffic(flights: pl.DataFrame) -> Counter[tuple[str, str]]:
    """(airport, start of six hours) → flights."""
    traffic: Counter[tuple[str, str]] = Counter()
    for origin, hour, count in flights.group_by("origin", "hour").agg(n=pl.len()).iter_rows():
        assert isinstance(hour, datetime)
        for back in range(6):
            traffic[origin, f"{hour - timedelta(hours=back):%Y-%m-%dT%H:%M}"] += count
    return traffic


@pytest.mark.slow
def test_the_flight_delays_are_right_although_a_worker_was_killed(tmp_path: Path) -> None:
    demo = module_of(EXAMPLES / "flight-delays" / "demo.py")
    run_dir, out = tmp_path / "run", tmp_path / "out"
    line = command(
        "flight-delays/job.yaml",
        arg_rate="60000",
        arg_out=str(out),
        storage=str(tmp_path / "checkpoints"),
        interval="200ms",
        run_dir=str(run_dir),
    )
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as job:
        killed = demo.kill_a_worker(run_dir, job)
        _, told = job.communicate(timeout=JOB_TIMEOUT_S)

    assert job.returncode == 0, told
    assert killed is not None
    flights = departures()
    hourly = rows_of(out / "hourly")
    expected = hourly_delays(flights)
    assert len(hourly) == len(expected) == 59_704
    for row in hourly:
        count, mean, worst = expected[row["carrier"], row["hour"]]
        assert (row["flights"], row["worst_delay"]) == (count, worst)
        assert row["mean_delay"] == pytest.approx(mean)
    airports = rows_of(out / "airports")
    assert {(row["airport"], row["from"]): row["flights"] for row in airports} == airport_traffic(flights)
    assert len(airports) == len(airport_traffic(flights))


@pytest.mark.slow
def test_no_receipt_of_the_orders_is_missing_or_comes_twice_although_a_worker_was_killed(tmp_path: Path) -> None:
    demo = module_of(EXAMPLES / "flight-delays" / "demo.py")
    run_dir, out = tmp_path / "run", tmp_path / "out"
    options = {"arg_count": "20000", "arg_rate": "4000", "arg_out": str(out), "storage": str(tmp_path / "checkpoints")}
    line = command("orders/job.yaml", interval="200ms", run_dir=str(run_dir), **options)
    check = [sys.executable, str(EXAMPLES / "orders" / "orders.py"), str(out)]

    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as job:
        killed = demo.kill_a_worker(run_dir, job)
        _, told = job.communicate(timeout=JOB_TIMEOUT_S)

    assert job.returncode == 0, told
    assert killed is not None
    checked = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert checked.stdout == "20000 orders; each has one receipt, and no receipt is missing\n"
    some = sorted(out.glob("*.jsonl"))[0]
    some.write_text("".join(some.read_text().splitlines(keepends=True)[1:]))
    assert subprocess.run(check, capture_output=True, timeout=60).returncode == 1


@pytest.mark.slow
def test_words_of_files_are_counted_by_two_workers(tmp_path: Path) -> None:
    text = "To be, or not to be: that's the question.\nWhether 'tis nobler\n"
    (tmp_path / "texts" / "more").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text(text)
    (tmp_path / "texts" / "more" / "b.txt.gz").write_bytes(gzip.compress((text * 50).encode()))
    options = {"arg_paths": '["texts"]', "arg_out": "counts", "storage": "checkpoints"}
    line = command("word-count/job.yaml", **options)

    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=JOB_TIMEOUT_S)

    assert done.returncode == 0, done.stderr
    counts: Counter[str] = Counter()
    for word, count in rows_of(tmp_path / "counts"):
        counts[word] = max(counts[word], count)
    assert counts == Counter(re.findall(r"[a-z']+", (text * 51).lower()))
