"""Savepoints that are taken by the clock: `spec.savepoints`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.fields import Model, OptionalDuration, shown


def _forward_ranges(names: str) -> str:
    words = names.split()
    return "|".join(f"{word}(-({'|'.join(words[index:])}))?" for index, word in enumerate(words))


def _cron_field(number: str, names: str = "") -> str:
    value = f"{number}(-{number})?" + (f"|{_forward_ranges(names)}" if names else "")
    term = rf"(\*|{value})(/[1-9][0-9]?)?"
    return f"{term}(,{term})*"


CRON_PATTERN: Final = "(?i)" + " +".join(
    (
        _cron_field("[0-5]?[0-9]"),
        _cron_field("([01]?[0-9]|2[0-3])"),
        _cron_field("(0?[1-9]|[12][0-9]|3[01])"),
        _cron_field("(0?[1-9]|1[0-2])", "jan feb mar apr may jun jul aug sep oct nov dec"),
        _cron_field("[0-7]", "sun mon tue wed thu fri sat"),
    )
)
"""What a schedule looks like: five fields of `*`, numbers, names, ranges, steps and lists."""

_CRON: Final = re.compile(CRON_PATTERN, re.ASCII)


def _schedule(text: str) -> str:
    if not text:
        return text
    if not _CRON.fullmatch(text):
        raise ValueError(
            "must be five fields as in cron, minute, hour, day of month, month and day of week, such as '0 3 * * *' "
            f"or '*/30 8-18 * * mon-fri' (got {shown(text)})"
        )
    try:
        next(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration):
        raise ValueError(f"must name a time that comes (got {shown(text)})") from None
    return text


class Savepoints(Model):
    """Savepoints that the operator takes by the clock, each as a Savepoint resource. A local run takes none."""

    interval: OptionalDuration = ""
    """From one to the next. Empty: none. Not together with `schedule`."""

    schedule: Annotated[str, AfterValidator(_schedule)] = ""
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
