"""What an operator remembers of a job between two looks. All of it saves requests or waits, and none of it is missed after a restart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from checkdam.spec import StreamJob
from checkdam_operator.decide.actions import Event
from checkdam_operator.observed import Pod, Slot, Trouble

_TOLD_LIMIT: Final = 200
"""So many happenings are remembered as told; one that comes up again after that raises the count of its Event."""


@dataclass(frozen=True)
class Manifest:
    """What the pods of a revision read, as stored in its ConfigMap.

    Attributes:
        job: The StreamJob.
        image: What its pods run.
    """

    job: StreamJob
    image: str


@dataclass
class JobMemory:
    """What is remembered of one job.

    Attributes:
        key: Namespace and name.
        uid: Uid of the StreamJob: another one of the same name is another job.
        token: Opens the coordinator's API; empty before it was read. Never shown.
        coordinator_ip: Address of the Service; empty before it is known.
        applied: Kind of an object beside the pods → what it was applied as, and when.
        applied_for: What these objects were made from.
        manifests: Name of a ConfigMap → what is in it.
        trouble: What the API server refused last.
        pod_trouble: What it tells of pods that do not start.
        pod_trouble_asked_ms: When it was asked for that.
        status_written_ms: When the status was last written.
        last_pods: Slot → the pod that was last known in it, there or gone: its successor is named after it.
        deleted_pods: Uids of pods that the API server was asked to delete, while they are there.
        told: The happenings of which an Event was written, oldest first.
    """

    key: tuple[str, str]
    uid: str
    token: str = field(default="", repr=False)
    coordinator_ip: str = ""
    applied: dict[str, tuple[str, int]] = field(default_factory=dict)
    applied_for: tuple[StreamJob, StreamJob, str] | None = None
    manifests: dict[str, Manifest] = field(default_factory=dict)
    trouble: Trouble | None = None
    pod_trouble: Trouble | None = None
    pod_trouble_asked_ms: int = 0
    status_written_ms: int = 0
    last_pods: dict[Slot, Pod] = field(default_factory=dict)
    deleted_pods: set[str] = field(default_factory=set)
    told: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)

    def note_pods(self, pods: Iterable[Pod]) -> None:
        """Take in which pods there are."""
        for pod in pods:
            last = self.last_pods.get(pod.slot)
            if last is None or last.uid == pod.uid or pod.replaces == last.uid or _age(last) < _age(pod):
                self.last_pods[pod.slot] = pod

    def is_news(self, event: Event) -> bool:
        """Whether this happening has not been told yet; from now on it has."""
        happening = (event.reason, event.key)
        if happening in self.told:
            return False
        self.told[happening] = None
        while len(self.told) > _TOLD_LIMIT:
            self.told.popitem(last=False)
        return True


def _age(pod: Pod) -> tuple[int, int]:
    return pod.revision, pod.created_ms
