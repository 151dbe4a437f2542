"""Payments into accounts: every payment comes out with its number within the account, and the account's balance after it.

The rows of an account are numbered without a gap and without a repetition, whatever has failed on the way: so the output shows
whether state, sources and sink agreed on what had happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import checkdam as cd

ACCOUNTS = 5_000


@dataclass(frozen=True)
class Payment:
    """Something that comes in."""

    id: int
    account: int
    cents: int


@dataclass(frozen=True)
class Account:
    """What is remembered of an account."""

    payments: int = 0
    cents: int = 0


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """The pipeline. Args: `out` (folder for results), `count` (payments; 0 for no end), `rate` (payments a second in all)."""
    payments = cd.GeneratorSource(
        payment,
        count=args.get("count", 200_000) or None,
        splits=4,
        rate_per_second=args.get("rate", 20_000),
        value_type=Payment,
    )
    (
        pipeline.source("payments", payments)
        .key_by("account")
        .process(Book, name="book")
        .sink("statements", cd.json_lines_sink(args["out"]))
    )


def payment(index: int) -> Payment:
    """Payment number `index`: any amount below ten, into any of the accounts."""
    mixed = index * 2_654_435_761 % 2**32  # a multiplication that scatters, so that neighbours meet different accounts
    return Payment(index, mixed % ACCOUNTS, mixed // ACCOUNTS % 1000)


class Book(cd.ProcessFunction):
    """Adds each payment to its account."""

    account = cd.ValueState("account", Account)

    def process(self, value: Payment, ctx: cd.ProcessContext) -> Iterator[dict[str, int]]:
        before = self.account.get(Account())
        after = Account(before.payments + 1, before.cents + value.cents)
        self.account.update(after)
        yield {"account": value.account, "number": after.payments, "payment": value.id, "balance": after.cents}
