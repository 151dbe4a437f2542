"""Which completed checkpoints are kept: the newest, and the young."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.coordinator.retention import RETAINED_LIMIT, Retained, Retention, retain


def taken(times: list[int], retention: Retention) -> tuple[list[str], list[str]]:
    """Checkpoints that complete at these times, one after another: what is retained in the end, and all that have left."""
    retained: list[str] = []
    left: list[str] = []
    created_ms = {f"chk-{number}": time_ms for number, time_ms in enumerate(times)}
    for folder, time_ms in created_ms.items():
        known = [Retained(name, created_ms[name]) for name in retained]
        retained, gone = retain(known, folder, time_ms, retention)
        left += gone
    return retained, left


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 5), amount=st.integers(1, 12))
def test_what_is_retained_is_the_newest_and_what_leaves_leaves_once(count: int, amount: int) -> None:
    folders = [f"chk-{number}" for number in range(amount)]
    retained, left = taken([0] * amount, Retention(count))
    assert retained == folders[-count:]
    assert left + retained == folders


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 4),
    for_ms=st.integers(1, 50),
    pauses=st.lists(st.integers(0, 20), min_size=1, max_size=20),
)
def test_the_young_are_kept_beside_the_newest(count: int, for_ms: int, pauses: list[int]) -> None:
    times = [sum(pauses[: number + 1]) for number in range(len(pauses))]
    retained, _ = taken(times, Retention(count, for_ms))
    young = {f"chk-{number}" for number, time_ms in enumerate(times) if times[-1] - time_ms < for_ms}
    newest = {f"chk-{number}" for number in range(len(times))[-count:]}
    assert set(retained) == young | newest


def test_there_is_a_limit_to_what_is_kept_for_its_age() -> None:
    retained, left = taken([0] * (RETAINED_LIMIT + 5), Retention(3, 1_000))
    assert len(retained) == RETAINED_LIMIT
    assert left == [f"chk-{number}" for number in range(5)]


def test_a_clock_that_was_set_back_makes_nothing_old() -> None:
    known = [Retained("chk-1", 5_000), Retained("chk-2", 100)]
    assert retain(known, "chk-3", 150, Retention(1, 60)) == (["chk-1", "chk-2", "chk-3"], [])


def test_one_whose_age_cannot_be_read_just_now_is_kept_until_it_can() -> None:
    known = [Retained("chk-1", 0), Retained("chk-2", None)]
    assert retain(known, "chk-3", 1_000, Retention(1, 60)) == (["chk-2", "chk-3"], ["chk-1"])


def test_a_folder_that_completes_again_is_kept_once() -> None:
    known = [Retained("chk-1", 0), Retained("chk-2", 0)]
    assert retain(known, "chk-1", 0, Retention(2)) == (["chk-2", "chk-1"], [])
