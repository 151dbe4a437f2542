"""What follows a failure, as tables."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.coordinator.restart import restart_policy
from checkdam.spec.restart import ExponentialDelay, FailureRate, FixedDelay, Never


def exponential(**changes: float) -> ExponentialDelay:
    return ExponentialDelay(
        **(
            {"initial_delay_ms": 100, "max_delay_ms": 1_000, "multiplier": 2.0, "jitter": 0.0, "reset_after_ms": 5_000}
            | changes
        )
    )  # type: ignore[arg-type]


def test_delays_grow_up_to_the_limit_and_begin_anew_after_a_quiet_time() -> None:
    policy = restart_policy(exponential())
    assert [policy.next_delay_ms(0) for _ in range(7)] == [0, 100, 200, 400, 800, 1_000, 1_000]
    assert policy.next_delay_ms(5_999) == 1_000, "quiet time counts from the restart, not from the failure"
    assert policy.next_delay_ms(5_999 + 1_000 + 5_000) == 0, "the first failure after a quiet time is answered at once"
    assert policy.next_delay_ms(5_999 + 1_000 + 5_000) == 100


def test_an_initial_delay_of_nothing_restarts_at_once_for_ever() -> None:
    policy = restart_policy(exponential(initial_delay_ms=0))
    assert [policy.next_delay_ms(0) for _ in range(3)] == [0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(jitter=st.floats(0, 1), draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=10))
def test_jitter_changes_a_delay_by_its_fraction_at_most(jitter: float, draws: list[float]) -> None:
    numbers = iter(draws)
    policy = restart_policy(exponential(jitter=jitter), lambda: next(numbers))
    assert policy.next_delay_ms(0) == 0
    for count in range(len(draws)):
        delay_ms = policy.next_delay_ms(0)
        base_ms = min(100 * 2**count, 1_000)
        assert delay_ms is not None
        assert base_ms * (1 - jitter) - 1 <= delay_ms <= base_ms * (1 + jitter) + 1


def test_a_fixed_delay_survives_so_many_failures() -> None:
    policy = restart_policy(FixedDelay(delay_ms=7, attempts=2))
    assert [policy.next_delay_ms(now) for now in (0, 10**9, 2 * 10**9)] == [7, 7, None]


def test_a_failure_rate_survives_failures_that_are_rare() -> None:
    policy = restart_policy(FailureRate(failures=2, interval_ms=100, delay_ms=5))
    assert [policy.next_delay_ms(now) for now in (0, 50, 100, 199, 200, 210)] == [5, 5, 5, 5, 5, None]


def test_never_means_never() -> None:
    assert restart_policy(Never()).next_delay_ms(0) is None
