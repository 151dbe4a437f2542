"""Whether what a job has written is all that it has read. That can be told once it is suspended: until then, one worker's files may be there before another's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from example_modules import EXAMPLES, module_of

_SPLITS: Final = 4
"""Of the example's source: each is dealt every fourth number."""
_SHOWN: Final = 5


def output_of(folder: Path) -> tuple[int, list[str]]:
    """How many receipts there are, and what is wrong with them, a sentence each."""
    number, problems = module_of(EXAMPLES / "orders" / "orders.py").problems(folder)
    rows = (json.loads(row) for file in folder.glob("*.jsonl") for row in file.read_text().splitlines())
    skipped = skipped_orders((row["order"] for row in rows), _SPLITS)
    shown = ", ".join(map(str, skipped[:_SHOWN])) + (", …" if len(skipped) > _SHOWN else "")
    return number, [*problems, *([f"{len(skipped)} orders were skipped: {shown}"] if skipped else [])]


def skipped_orders(orders: Iterable[int], splits: int) -> list[int]:
    """The orders that were not read although later ones of the same split were, ascending."""
    read: defaultdict[int, set[int]] = defaultdict(set)
    for order in orders:
        read[order % splits].add(order)
    due = (set(range(split, max(numbers), splits)) - numbers for split, numbers in read.items())
    return sorted(set().union(*due))
