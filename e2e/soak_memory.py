"""Whether the memory of operator and coordinators stays what it is while a job is struck again and again.

What counts is anonymous memory as the kubelet reads it from the control group of each container, every few seconds. Containers come and go
in a soak, so each is compared with itself: when it had warmed up, and when it was seen last. A leak shows in whoever lives long enough;
one that is smaller than what an allocator keeps or gives back, `MOST_GROWTH_BYTES`, does not show at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from cluster.cluster import Cluster
from cluster.control_plane import ApiError

WARM_UP_S: Final = 30.0
"""Modules are imported, the first lists are read, caches are filled."""

SHORTEST_LIFE_S: Final = 30.0
"""A container that was seen for less than this after warming up says nothing."""

MOST_GROWTH_BYTES: Final = 16 << 20
_PERIOD_S: Final = 5.0


@dataclass(frozen=True)
class Reading:
    """The memory of a container at a moment.

    Attributes:
        component: What it is part of.
        container: Tells it from all others.
        age_s: For how long it has been running.
        rss_bytes: Anonymous memory of all its processes.
    """

    component: str
    container: str
    age_s: float
    rss_bytes: int


@dataclass(frozen=True)
class Growth:
    """What became of the memory of a container after it had warmed up.

    Attributes:
        component, container: As in `Reading`.
        first_bytes: When it had warmed up.
        last_bytes: When it was seen last.
        over_s: The time between.
    """

    component: str
    container: str
    first_bytes: int
    last_bytes: int
    over_s: float

    @property
    def bytes(self) -> int:
        """How much more it was."""
        return self.last_bytes - self.first_bytes


def growths(readings: Iterable[Reading]) -> list[Growth]:
    """Of all containers that were seen for long enough after they had warmed up, by component."""
    found = []
    ordered = sorted(readings, key=lambda reading: (reading.component, reading.container, reading.age_s))
    for (component, container), group in groupby(ordered, key=lambda reading: (reading.component, reading.container)):
        warm = [reading for reading in group if reading.age_s >= WARM_UP_S]
        if warm and (over_s := warm[-1].age_s - warm[0].age_s) >= SHORTEST_LIFE_S:
            found.append(Growth(component, container, warm[0].rss_bytes, warm[-1].rss_bytes, over_s))
    return found


def readings_of(summary: Mapping[str, Any], components: Mapping[tuple[str, str], str]) -> Iterator[Reading]:
    """What a kubelet's summary says of the containers that matter.

    Args:
        summary: As the kubelet serves it at `/stats/summary`.
        components: Namespace and beginning of pods' names → component.
    """
    for pod in summary["pods"]:
        namespace, name = pod["podRef"]["namespace"], pod["podRef"]["name"]
        for (where, prefix), component in components.items():
            if namespace == where and name.startswith(prefix):
                yield from _readings(component, name, pod["containers"])


def _readings(component: str, pod: str, containers: Iterable[Mapping[str, Any]]) -> Iterator[Reading]:
    for container in containers:
        memory = container.get("memory", {})
        if "rssBytes" in memory:  # one that has just been started is not measured yet
            started = container["startTime"]
            age_s = (datetime.fromisoformat(memory["time"]) - datetime.fromisoformat(started)).total_seconds()
            yield Reading(component, f"{pod}, since {started}", age_s, int(memory["rssBytes"]))


@contextmanager
def watched_memory(cluster: Cluster, components: Mapping[tuple[str, str], str]) -> Iterator[list[Reading]]:
    """Readings that are added to all the while; what cannot be read for a while, such as that of a node that hangs, is left out.

    Args:
        components: As `readings_of` has them.
    """
    readings: list[Reading] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_PERIOD_S):
            for node in nodes:
                try:
                    summary = plane.call("GET", f"/api/v1/nodes/{node}/proxy/stats/summary")
                except (ApiError, OSError):
                    continue
                readings.extend(readings_of(summary, components))

    plane = cluster.plane
    nodes = [node["metadata"]["name"] for node in plane.call("GET", "/api/v1/nodes")["items"]]
    thread = threading.Thread(target=watch, name="memory of the soak")
    thread.start()
    try:
        yield readings
    finally:
        over.set()
        thread.join()
