"""What a soak makes of the memory that kubelets tell: who is looked at, and compared with what."""

from __future__ import annotations

from typing import Any

from soak_memory import Growth, Reading, growths, readings_of

COMPONENTS = {("checkdam-system", "checkdam"): "operator", ("here", "orders-coordinator"): "coordinator"}


def pod(namespace: str, name: str, rss_bytes: int | None) -> dict[str, Any]:
    memory = {"time": "2026-11-29T10:01:30Z", "workingSetBytes": 5}
    measured = {} if rss_bytes is None else {"rssBytes": rss_bytes}
    container = {"name": "checkdam", "startTime": "2026-11-29T10:00:00Z", "memory": memory | measured}
    return {"podRef": {"namespace": namespace, "name": name}, "containers": [container]}


def readings(container: str, *found: tuple[float, int]) -> list[Reading]:
    return [Reading("operator", container, age_s, rss_bytes) for age_s, rss_bytes in found]


def test_pods_of_the_components_are_read_and_no_others() -> None:
    pods = [
        pod("checkdam-system", "checkdam-7d9-x", 100),
        pod("here", "orders-coordinator-abcde", 200),
        pod("here", "orders-w0-abcde", 300),
        pod("elsewhere", "orders-coordinator-abcde", 400),
        pod("here", "orders-coordinator-fghij", None),  # just started
    ]
    assert list(readings_of({"pods": pods}, COMPONENTS)) == [
        Reading("operator", "checkdam-7d9-x, since 2026-11-29T10:00:00Z", 90.0, 100),
        Reading("coordinator", "orders-coordinator-abcde, since 2026-11-29T10:00:00Z", 90.0, 200),
    ]


def test_a_container_is_compared_with_itself_from_when_it_had_warmed_up() -> None:
    found = readings("a", (95, 130), (5, 10), (35, 100), (65, 170)) + readings("b", (40, 7), (80, 5))
    assert growths(found) == [
        Growth("operator", "a", 100, 130, 60),
        Growth("operator", "b", 7, 5, 40),
    ]
    assert [growth.bytes for growth in growths(found)] == [30, -2]


def test_a_container_that_did_not_live_long_says_nothing() -> None:
    assert growths(readings("a", (5, 10), (29, 100)) + readings("b", (31, 7), (50, 700))) == []
