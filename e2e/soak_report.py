"""What a soak has shown, for people: what struck when and how long the output paused for it, what memory did, what is left, and what is wrong."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from rich.console import Console
from rich.table import Table

from leftovers import Stored
from outputs import longest_pause_s
from soak_memory import MOST_GROWTH_BYTES, Growth

_WIDTH: Final = 160
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Struck:
    """A strike that was made.

    Attributes:
        kind: Which.
        at_s: When, in seconds since 1970.
        hit: Whom, in a few words, or why nobody.
    """

    kind: str
    at_s: float
    hit: str


@dataclass
class Report:
    """What a soak has shown; filled while it runs, so that one that fails shows what there was until then.

    Attributes:
        seed: What its strikes are repeated by.
        interval_s: From one checkpoint to the next, and so from one output to the next when nothing is wrong.
        began_s: When it began, in seconds since 1970.
        strikes: In their order.
        outputs_s: When output came, ascending.
        growths: Of the memory of operator and coordinators.
        receipts: How many there were in the end.
        stored: What was stored in the end.
        problems: What must not be so, a sentence each.
    """

    seed: int
    interval_s: float
    began_s: float = 0.0
    strikes: list[Struck] = field(default_factory=list)
    outputs_s: list[float] = field(default_factory=list)
    growths: list[Growth] = field(default_factory=list)
    receipts: int = 0
    stored: Stored | None = None
    problems: list[str] = field(default_factory=list)

    def pauses_s(self) -> list[float]:
        """The longest pause in the output from each strike to the next, or to the last output."""
        starts_s = [strike.at_s for strike in self.strikes]
        spans_s = zip_longest(starts_s, starts_s[1:], fillvalue=math.inf)
        return [longest_pause_s(self.outputs_s, start_s, end_s) for start_s, end_s in spans_s]

    def text(self) -> str:
        """All of it."""
        page = io.StringIO()
        console = Console(file=page, width=_WIDTH)
        console.print(
            f"Soak with seed {self.seed}. Pause: the longest time without new output until the next strike; "
            f"{self.interval_s:g} s from one checkpoint to the next are none.",
            _strikes(self),
            "Memory, anonymous, when a container had warmed up and when it was seen last; "
            f"a growth of more than {MOST_GROWTH_BYTES / _MIB:.0f} MiB is a fault.",
            _memory(self.growths),
            *self._lines(),
            sep="\n",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return page.getvalue()

    def _lines(self) -> Sequence[str]:
        lines = [f"{self.receipts:,} receipts"]
        if self.stored is not None:
            savepoints = sum(name.startswith("savepoint-") for name in self.stored.kept)
            kept = f"{len(self.stored.kept) - savepoints} checkpoints and {savepoints} savepoints"
            lines.append(f"in storage: {kept}, and {len(self.stored.orphans)} files that belong to none of them")
        return [*lines, *(f"WRONG: {problem}" for problem in self.problems)]


def _strikes(report: Report) -> Table:
    table = Table()
    table.add_column("after s", justify="right")
    table.add_column("strike")
    table.add_column("hit")
    table.add_column("pause s", justify="right")
    for strike, pause_s in zip(report.strikes, report.pauses_s(), strict=True):
        table.add_row(f"{strike.at_s - report.began_s:.0f}", strike.kind, strike.hit, f"{pause_s:.1f}")
    return table


def _memory(growths: Sequence[Growth]) -> Table:
    table = Table()
    for heading in ("of", "container"):
        table.add_column(heading)
    for heading in ("first MiB", "last MiB", "growth", "over s"):
        table.add_column(heading, justify="right")
    for growth in growths:
        first, last, more = (f"{size / _MIB:.1f}" for size in (growth.first_bytes, growth.last_bytes, growth.bytes))
        table.add_row(growth.component, growth.container, first, last, more, f"{growth.over_s:.0f}")
    return table
