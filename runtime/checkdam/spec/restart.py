"""What happens after a failure: `spec.restart`.

In a manifest the strategy is one word beside its settings; the settings of other strategies are refused there (see
`checkdam.spec.rules`). `Restart.resolved()` gives the chosen strategy with its defaults filled in, in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.fields import Duration, Model, PositiveDuration

Strategy = Literal["ExponentialDelay", "FixedDelay", "FailureRate", "Never"]

FIELDS_OF_STRATEGY: Final[dict[str, tuple[str, ...]]] = {
    "ExponentialDelay": ("initialDelay", "maxDelay", "multiplier", "jitter", "resetAfter"),
    "FixedDelay": ("delay", "attempts"),
    "FailureRate": ("failures", "interval", "delay"),
    "Never": (),
}
"""strategy → the fields of `spec.restart` that it reads."""

DEFAULT_INITIAL_DELAY: Final = "1s"
DEFAULT_MAX_DELAY: Final = "1m"


@dataclass(frozen=True)
class ExponentialDelay:
    """Restart for ever, waiting longer each time, until the job has run quietly for `reset_after_ms`."""

    initial_delay_ms: int
    max_delay_ms: int
    multiplier: float
    jitter: float
    reset_after_ms: int


@dataclass(frozen=True)
class FixedDelay:
    """Restart `attempts` times, `delay_ms` after each failure."""

    delay_ms: int
    attempts: int


@dataclass(frozen=True)
class FailureRate:
    """Restart `delay_ms` after each failure, while no more than `failures` fall into any `interval_ms`."""

    failures: int
    interval_ms: int
    delay_ms: int


@dataclass(frozen=True)
class Never:
    """The first failure fails the job."""


RestartStrategy = ExponentialDelay | FixedDelay | FailureRate | Never


def _ms(given: str | None, default: str) -> int:
    return parse_duration_ms(default if given is None else given)


class Restart(Model):
    """Which failures are followed by a new attempt from the last checkpoint, and after how long.

    The settings have no default in the resource itself, so that those of another strategy can be told from those left out.
    """

    strategy: Strategy = "ExponentialDelay"
    """`ExponentialDelay`: for ever, waiting longer each time. `FixedDelay`: so many times. `FailureRate`: while failures are rare.
    `Never`: the first failure fails the job."""

    initial_delay: Duration | None = None
    """ExponentialDelay: the wait after the second failure in a row; the first one, after a quiet time, is answered at once. Default `1s`."""

    max_delay: Duration | None = None
    """ExponentialDelay: the longest wait. Default `1m`."""

    multiplier: Annotated[float, Field(ge=1.0, le=1000.0)] | None = None
    """ExponentialDelay: each wait is so many times the one before. Default `2.0`."""

    jitter: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """ExponentialDelay: each wait is changed at random by up to this fraction, so that many jobs do not restart together. Default `0.1`."""

    reset_after: PositiveDuration | None = None
    """ExponentialDelay: after running so long without a failure, the next one counts as the first again. Default `10m`."""

    delay: Duration | None = None
    """FixedDelay, FailureRate: the wait after each failure. Default `1s`."""

    attempts: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """FixedDelay: so many restarts in the life of the job. Default `1`."""

    failures: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """FailureRate: so many failures within `interval` are survived. Default `1`."""

    interval: PositiveDuration | None = None
    """FailureRate: the time over which failures are counted. Default `1m`."""

    def resolved(self) -> RestartStrategy:
        """The strategy with its defaults filled in, in milliseconds."""
        match self.strategy:
            case "ExponentialDelay":
                return ExponentialDelay(
                    initial_delay_ms=_ms(self.initial_delay, DEFAULT_INITIAL_DELAY),
                    max_delay_ms=_ms(self.max_delay, DEFAULT_MAX_DELAY),
                    multiplier=2.0 if self.multiplier is None else self.multiplier,
                    jitter=0.1 if self.jitter is None else self.jitter,
                    reset_after_ms=_ms(self.reset_after, "10m"),
                )
            case "FixedDelay":
                return FixedDelay(_ms(self.delay, "1s"), 1 if self.attempts is None else self.attempts)
            case "FailureRate":
                return FailureRate(
                    failures=1 if self.failures is None else self.failures,
                    interval_ms=_ms(self.interval, "1m"),
                    delay_ms=_ms(self.delay, "1s"),
                )
            case "Never":
                return Never()
