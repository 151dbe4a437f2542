"""The objects beside the pods: applied when what they are made from changes, and now and then though it has not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from decide_kit import IMAGE, NOW_MS, UID, manifest, running
from fake_cluster import FakeCluster

from checkdam.spec import StreamJob
from checkdam_operator.cache import ObjectCache
from checkdam_operator.decide.actions import ApplyServices
from checkdam_operator.kube.errors import UnavailableError
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.metrics import OperatorMetrics
from checkdam_operator.observed import Situation
from checkdam_operator.reconcile.doing import REAPPLY_MS, Hands
from checkdam_operator.reconcile.memory import JobMemory
from checkdam_operator.resources.config import NetworkPeers
from checkdam_operator.resources.pods import PodDefaults


class Cluster(FakeCluster):
    """A cluster that applies, and gives every Service the same address."""

    async def apply(self, kind: Kind, namespace: str, name: str, body: Any, *, subresource: str = "") -> Any:
        await self._arrive("apply", kind, name)
        return {**body, "spec": {**body["spec"], "clusterIP": "10.96.0.9"}}


class Job:
    """One job, whose services are asked for again and again.

    Attributes:
        now_ms: The time.
    """

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.now_ms = NOW_MS
        self.memory = JobMemory(("team", "words"), UID)
        coordinators: Any = None
        self._hands = Hands(
            self.cluster,
            ObjectCache(),
            coordinators,
            PodDefaults(IMAGE),
            NetworkPeers(),
            OperatorMetrics(),
            "",
            lambda: self.now_ms,
        )

    async def ask(self, situation: Situation, coordinator_hash: str = "aaaaa") -> list[tuple[str, str]]:
        """Verbs and kinds of the writes beside the pods that it took."""
        before = len(self.cluster.requests)
        await self._hands.perform(ApplyServices(coordinator_hash), situation, self.memory)
        return [(verb, kind) for verb, kind, _ in self.cluster.requests[before:] if kind != "secrets"]


ALL = [("apply", "services"), ("apply", "poddisruptionbudgets"), ("apply", "networkpolicies")]


@pytest.fixture
def job() -> Job:
    return Job()


def made_from(deployed: StreamJob, spec: StreamJob) -> Situation:
    situation = running(deployed)
    return replace(situation, job=replace(situation.job, spec=spec))


async def test_what_is_applied_is_left_alone_until_somebody_may_have_changed_it(job: Job) -> None:
    situation = running(manifest())
    assert await job.ask(situation) == ALL
    assert await job.ask(situation) == []
    job.now_ms += REAPPLY_MS
    assert await job.ask(situation) == ALL
    assert await job.ask(situation) == []


async def test_an_equal_spec_changes_nothing_and_another_one_what_is_made_from_it(job: Job) -> None:
    deployed = manifest()
    await job.ask(made_from(deployed, deployed))
    assert await job.ask(made_from(deployed, manifest())) == []
    changed = manifest(worker={"disruptionBudget": {"maxUnavailable": 2}})
    assert await job.ask(made_from(deployed, changed)) == [("apply", "poddisruptionbudgets")]


async def test_the_service_follows_the_coordinator(job: Job) -> None:
    situation = running(manifest())
    await job.ask(situation)
    assert await job.ask(situation, "bbbbb") == [("apply", "services")]
    assert await job.ask(situation) == [("apply", "services")]


async def test_what_failed_half_way_is_not_taken_for_applied(job: Job) -> None:
    situation = running(manifest())
    await job.ask(situation)
    changed = manifest(worker={"disruptionBudget": {"maxUnavailable": 2}}, networkPolicy={"ingress": [{}]})
    job.cluster.broken = lambda verb, kind, name: (
        UnavailableError(0, "Timeout", "no answer") if kind.plural == "networkpolicies" else None
    )
    assert situation.deployed is not None
    with pytest.raises(UnavailableError):
        await job.ask(made_from(situation.deployed, changed))
    job.cluster.broken = lambda verb, kind, name: None
    assert await job.ask(situation) == [("apply", "poddisruptionbudgets")]


async def test_a_policy_that_is_not_wanted_is_deleted_once(job: Job) -> None:
    situation = running(manifest(networkPolicy={"enabled": False}))
    assert await job.ask(situation) == [*ALL[:2], ("delete", "networkpolicies")]
    for _ in range(3):
        assert await job.ask(situation) == []
