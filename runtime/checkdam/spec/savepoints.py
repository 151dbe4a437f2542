"""Savepoints that are taken by the clock: `spec.savepoints`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from cronsim import CronSim, CronSimError
from pydantic import Field

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.checks import Check, matching
from checkdam.spec.fields import Model, OptionalDuration


def _forward_ranges(names: str) -> str:
    words = names.split()
    return "|".join(f"{word}(-({'|'.join(words[index:])}))?" for index, word in enumerate(words))


def _cron_field(number: str, names: str = "") -> str:
    value = f"{number}(-{number})?" + (f"|{_forward_ranges(names)}" if names else "")
    term = rf"(\*|{value})(/[1-9][0-9]?)?"
    return f"{term}(,{term})*"


CRON_PATTERN: Final = "(?i:{})".format(
    " ".join(
        (
            _cron_field("[0-5]?[0-9]"),
            _cron_field("([01]?[0-9]|2[0-3])"),
            _cron_field("(0?[1-9]|[12][0-9]|3[01])"),
            _cron_field("(0?[1-9]|1[0-2])", "jan feb mar apr may jun jul aug sep oct nov dec"),
            _cron_field("[0-7]", "sun mon tue wed thu fri sat"),
        )
    )
)
"""What a schedule looks like: five fields of `*`, numbers, names, ranges, steps and lists."""

_COMES: Final = "self.findAll('[0-9]+-[0-9]+').all(range, int(range.find('^[0-9]+')) <= int(range.find('[0-9]+$')))"
"""No range goes backwards. Not all that `_comes` finds: the API server does not know that there is no 30 February."""


def _comes(text: str) -> bool:
    try:
        return not text or bool(next(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC))))
    except (CronSimError, StopIteration):
        return False


Schedule = Annotated[
    str,
    Field(max_length=128),
    matching(
        CRON_PATTERN,
        "must be five fields as in cron, minute, hour, day of month, month and day of week, such as '0 3 * * *' "
        "or '*/30 8-18 * * mon-fri'",
        optional=True,
    ),
    Check(holds=_comes, cel=_COMES, must="must name times that come, in ranges that go forward"),
]
"""A schedule of cron, or an empty text for none."""


class Savepoints(Model):
    """Savepoints that the operator takes by the clock, each as a Savepoint resource. A local run takes none."""

    interval: OptionalDuration = ""
    """From one to the next. Empty: none. Not together with `schedule`."""

    schedule: Schedule = ""
    """When they are taken, in UTC, as five fields of cron: `0 3 * * *` is every night at three. Empty: none. Not together with `interval`."""

    retain: Annotated[int, Field(ge=1, le=1000)] = 7
    """So many of them are kept; older ones are deleted with their files. Savepoints that somebody else asked for are left alone."""

    @property
    def interval_ms(self) -> int:
        """`interval` in ms; 0: none."""
        return parse_duration_ms(self.interval) if self.interval else 0

    def next_after(self, last: datetime) -> datetime | None:
        """When the next savepoint is due if the last one, or the job's beginning, was at `last`; None if there are none by the clock.

        Args:
            last: With a time zone.
        """
        if self.schedule:
            return next(CronSim(self.schedule, last.astimezone(UTC)))
        if self.interval:
            return last + timedelta(milliseconds=self.interval_ms)
        return None
