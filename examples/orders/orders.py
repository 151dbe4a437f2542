"""Orders of shops, each of which is given a receipt, numbered within its shop: a gap would be a lost order, a number that comes twice a doubled one.

`python orders.py FOLDER` checks that for what the job has written so far.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import checkdam as cd

SHOPS = ("Lima", "Oslo", "Pune", "Quito", "Riga", "Suva", "Turin")


class Order(msgspec.Struct):
    """An order."""

    number: int
    shop: str


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """The pipeline. Args: `out` (folder for receipts), `rate` (orders a second in all), `count` (orders in all; no end if it is left out)."""
    orders = cd.GeneratorSource(
        order, count=args.get("count"), splits=4, rate_per_second=args.get("rate", 1000), value_type=Order
    )
    (
        pipeline.source("orders", orders)
        .key_by("shop")
        .process(Register, name="register")
        .sink("receipts", cd.json_lines_sink(args["out"]))
    )


def order(number: int) -> Order:
    """Order `number`."""
    return Order(number, SHOPS[number % len(SHOPS)])


class Register(cd.ProcessFunction):
    """Counts the receipts of a shop."""

    printed = cd.ValueState("printed", int)

    def process(self, value: Order, ctx: cd.ProcessContext) -> Iterator[dict[str, Any]]:
        receipt = self.printed.get(0) + 1
        self.printed.update(receipt)
        yield {"shop": value.shop, "receipt": receipt, "order": value.number}


def problems(folder: Path) -> tuple[int, list[str]]:
    """How many receipts there are, and what is wrong with them."""
    rows = [json.loads(row) for file in sorted(folder.glob("*.jsonl")) for row in file.read_text().splitlines()]
    receipts: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        receipts[row["shop"]].append(row["receipt"])
    found = [
        f"{shop} has {len(numbers)} receipts, which are not those from 1 to {len(numbers)}"
        for shop, numbers in receipts.items()
        if sorted(numbers) != list(range(1, len(numbers) + 1))
    ]
    doubled = len(rows) - len({row["order"] for row in rows})
    return len(rows), [*found, *([f"{doubled} orders have two receipts"] if doubled else [])]


if __name__ == "__main__":
    number, wrong = problems(Path(sys.argv[1]))
    print(f"{number} orders; " + ("; ".join(wrong) or "each has one receipt, and no receipt is missing"))
    sys.exit(1 if wrong or not number else 0)
