"""What is measured for throughput, who takes part, and what is to be reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from suite.data import WORDS_PER_LINE

System = Literal["checkdam", "flink", "bytewax"]

FAR_AWAY: Final = "1h"
"""An interval of checkpoints that no run lives to see."""


@dataclass(frozen=True)
class Contestant:
    """A system that runs a scenario's program.

    Attributes:
        system: Which.
        lines: How many lines of input it gets, for some ten seconds of work: a prefix of the same data for slow ones.
        label: As the table calls it.
        program: The program, where it is not the scenario's.
        interval: Between checkpoints; Bytewax takes none.
        target: What Checkdam's throughput, divided by this one's, is to reach; `None`: for information.
    """

    system: System
    lines: int
    label: str
    program: str = ""
    interval: str = "10s"
    target: float | None = None


@dataclass(frozen=True)
class Scenario:
    """One program on one kind of data.

    Attributes:
        name: For `--only`.
        title: For the table.
        program: The same name in all systems' programs.
        data: The kind of data set.
        contestants: The first is the one whose throughput is divided by that of each other.
        records_per_line: What counts as a record.
        backend: Of keyed state, in Checkdam and in Flink.
    """

    name: str
    title: str
    program: str
    data: str
    contestants: tuple[Contestant, ...]
    records_per_line: int = 1
    backend: Literal["hashmap", "rocksdb"] = field(default="hashmap")


def _us(lines: int, label: str = "Checkdam", interval: str = "10s", target: float | None = None) -> Contestant:
    return Contestant("checkdam", lines, label, interval=interval, target=target)


def _flink(lines: int, target: float | None = None) -> Contestant:
    return Contestant("flink", lines, "Flink", target=target)


def _bytewax(lines: int, target: float | None = None, label: str = "Bytewax", program: str = "") -> Contestant:
    return Contestant("bytewax", lines, label, program, target=target)


SCENARIOS: Final = (
    Scenario(
        "word-count",
        "word count, 10,000 keys, hashmap",
        "word_count",
        "words",
        (
            _us(3_000_000),
            _flink(3_000_000, target=1.0),
            _bytewax(400_000, target=5.0),
            _bytewax(800_000, label="Bytewax, one result a key at the end", program="final_word_count"),
        ),
        WORDS_PER_LINE,
    ),
    Scenario(
        "process",
        "keyed process function, JSON lines",
        "keyed_process",
        "events",
        (_us(12_000_000), _flink(12_000_000), _bytewax(2_000_000, target=3.0)),
    ),
    Scenario(
        "windows",
        "keyed windows, event time, JSON lines",
        "windows",
        "events",
        (_us(12_000_000), _flink(12_000_000, target=0.7), _bytewax(600_000)),
    ),
    Scenario(
        "rocksdb-uniform",
        "count, 1,000,000 uniform keys, rocksdb",
        "word_count",
        "uniform",
        (_us(800_000), _flink(800_000, target=1.5)),
        WORDS_PER_LINE,
        "rocksdb",
    ),
    Scenario(
        "rocksdb-zipf",
        "count, 1,000,000 zipf keys, rocksdb",
        "word_count",
        "zipf",
        (_us(3_600_000), _flink(1_200_000, target=3.0)),
        WORDS_PER_LINE,
        "rocksdb",
    ),
    Scenario(
        "checkpoint-cost",
        "word count, a checkpoint each second",
        "word_count",
        "words",
        (_us(3_000_000, interval="1s"), _us(3_000_000, "without checkpoints", FAR_AWAY, target=0.9)),
        WORDS_PER_LINE,
    ),
)
