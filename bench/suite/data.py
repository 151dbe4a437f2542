"""The input files, made once by seed under `build/bench-data` and read by all systems alike.

A data set is a folder of `PARTS` files, one for each worker, so that every system reads them side by side in the same
way. A data set of fewer lines is a prefix, file by file, of a larger one of the same kind: a system that is ten times
slower reads fewer lines of the same data.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

PARTS: Final = 2
"""Files of a data set: as many as there are workers."""

WORDS_PER_LINE: Final = 10
_CHUNK_LINES: Final = 10_000

_START_MS: Final = 1_700_000_000_000
EVENTS_PER_MS: Final = 20
"""Events in one millisecond of event time, all files together."""

OUT_OF_ORDER_MS: Final = 2_000
"""How much later than in order an event may come."""

EVENT_KEYS: Final = 10_000
ZIPF_EXPONENT: Final = 1.1


def data_set(root: Path, kind: str, lines: int) -> Path:
    """The folder of a data set, made if it is not there.

    Args:
        root: The folder of all data sets.
        kind: `words` (10,000 words), `uniform` or `zipf` (1,000,000 keys), ten to a line; or `events` (JSON lines).
        lines: How many lines all files have together.
    """
    folder = root / f"{kind}-{lines}"
    if folder.exists():
        return folder
    making = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for part in range(PARTS):
        # Seeded by text: the same on every machine and in every version of Python.
        drawn = random.Random(f"{kind}/{part}")
        with (making / f"part-{part}.txt").open("w", encoding="ascii") as file:
            for block in _KINDS[kind](drawn, part, lines // PARTS):
                file.write(block)
    making.rename(folder)
    return folder


def _words(names: list[str], weights: list[float] | None = None) -> Callable[[random.Random, int, int], Iterator[str]]:
    cumulated = None if weights is None else list(accumulate(weights))

    def blocks(drawn: random.Random, part: int, lines: int) -> Iterator[str]:
        for start in range(0, lines, _CHUNK_LINES):
            count = min(_CHUNK_LINES, lines - start)
            words = drawn.choices(names, cum_weights=cumulated, k=count * WORDS_PER_LINE)
            yield "".join(
                [" ".join(words[at : at + WORDS_PER_LINE]) + "\n" for at in range(0, len(words), WORDS_PER_LINE)]
            )

    return blocks


def _events(drawn: random.Random, part: int, lines: int) -> Iterator[str]:
    keys = [f"k{number:05d}" for number in range(EVENT_KEYS)]
    number_of, uniform = len(keys), drawn.random
    for start in range(0, lines, _CHUNK_LINES):
        numbers = range(start, min(lines, start + _CHUNK_LINES))
        # Drawn line by line, so that fewer lines are a prefix of more.
        yield "".join(
            [
                f'{{"key":"{keys[int(uniform() * number_of)]}","time":{_in_order_ms(number * PARTS + part) - int(uniform() * OUT_OF_ORDER_MS)}'
                f',"amount":{int(uniform() * 100)}}}\n'
                for number in numbers
            ]
        )


def _in_order_ms(number: int) -> int:
    return _START_MS + number // EVENTS_PER_MS


def _million(weighted: bool) -> Callable[[random.Random, int, int], Iterator[str]]:
    def blocks(drawn: random.Random, part: int, lines: int) -> Iterator[str]:
        names = [f"key{number:07d}" for number in range(1_000_000)]
        weights = [1 / (rank + 1) ** ZIPF_EXPONENT for rank in range(len(names))] if weighted else None
        return _words(names, weights)(drawn, part, lines)

    return blocks


_KINDS: Final[dict[str, Callable[[random.Random, int, int], Iterator[str]]]] = {
    "words": _words([f"word{number:05d}" for number in range(10_000)]),
    "uniform": _million(weighted=False),
    "zipf": _million(weighted=True),
    "events": _events,
}
