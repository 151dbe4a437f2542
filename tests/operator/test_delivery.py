"""Every change of an object leads to a look at its job, whoever tells of it."""

from __future__ import annotations

from typing import Any

import pytest
from manual_time import ManualTime

from checkdam_operator.cache import Key, ObjectCache
from checkdam_operator.delivery import Delivery
from checkdam_operator.freshness import PATIENCE_S, Freshness
from checkdam_operator.indexes import INDEXES, PODS_BY_JOB_UID, SAVEPOINTS_BY_JOB
from checkdam_operator.kube.kinds import POD, SAVEPOINT, STREAM_JOB
from checkdam_operator.metrics import OperatorMetrics
from checkdam_operator.queue import WorkQueue


class Office:
    """A delivery with all that belongs to it."""

    def __init__(self, *namespaces: str) -> None:
        self.time = ManualTime()
        self.cache = ObjectCache(INDEXES, self.time)
        self.queue = WorkQueue[Key](10, clock=self.time)
        self.freshness = Freshness(clock=self.time)
        self.metrics = OperatorMetrics()
        self.delivery = Delivery(self.cache, self.queue, self.freshness, namespaces, self.metrics)

    def looks(self) -> list[Key]:
        """The jobs that are to be looked at."""
        found = []
        while (key := self.queue.take()) is not None:
            self.queue.done(key)
            found.append(key)
        return found


@pytest.fixture
def office() -> Office:
    return Office()


def job(version: int, name: str = "flights") -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name, "uid": "u1", "resourceVersion": str(version)}}


def pod(version: int, name: str = "flights-w0") -> dict[str, Any]:
    labels = {"checkdam.dev/job": "flights", "checkdam.dev/job-uid": "u1"}
    return {"metadata": {"namespace": "ns", "name": name, "resourceVersion": str(version), "labels": labels}}


def savepoint(version: int) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": "before-upgrade", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"job": "flights"}}


@pytest.mark.parametrize(("kind", "body"), [(STREAM_JOB, job(1)), (POD, pod(1)), (SAVEPOINT, savepoint(1))])
def test_a_change_of_whatever_belongs_to_a_job_has_the_job_looked_at(office: Office, kind: Any, body: Any) -> None:
    office.delivery.watched(kind, body, deleted=False)
    assert office.looks() == [("ns", "flights")]
    office.delivery.watched(kind, {**body, "metadata": {**body["metadata"], "resourceVersion": "2"}}, deleted=True)
    assert office.looks() == [("ns", "flights")]


def test_what_is_known_already_leads_to_no_look(office: Office) -> None:
    office.delivery.written(POD, pod(5))
    office.delivery.watched(POD, pod(5), deleted=False)
    assert office.looks() == []
    assert office.cache.find(PODS_BY_JOB_UID, "u1")


def test_objects_are_found_by_their_job(office: Office) -> None:
    office.delivery.watched(SAVEPOINT, savepoint(1), deleted=False)
    office.delivery.watched(POD, pod(2), deleted=False)
    assert len(office.cache.find(SAVEPOINTS_BY_JOB, ("ns", "flights"))) == 1
    assert len(office.cache.find(PODS_BY_JOB_UID, "u1")) == 1


def test_a_change_of_a_savepoint_has_the_job_that_restores_it_looked_at_too(office: Office) -> None:
    restoring = {**job(1, "restoring"), "spec": {"restoreFrom": "before-upgrade"}}
    office.delivery.watched(STREAM_JOB, restoring, deleted=False)
    office.looks()
    office.delivery.watched(SAVEPOINT, savepoint(2), deleted=False)
    assert set(office.looks()) == {("ns", "flights"), ("ns", "restoring")}


def test_a_list_that_finds_what_the_watch_missed_has_those_jobs_looked_at(office: Office) -> None:
    office.delivery.watched(STREAM_JOB, job(1, "same"), deleted=False)
    office.delivery.watched(POD, pod(2), deleted=False)
    office.looks()
    office.delivery.listed(POD, None, [], "10")
    assert office.looks() == [("ns", "flights")]
    office.delivery.listed(STREAM_JOB, None, [job(1, "same"), job(9, "new")], "10")
    assert office.looks() == [("ns", "new")]
    text = office.metrics.render().decode()
    assert 'checkdam_operator_resync_found_total{change="deleted",kind="pods"} 1.0' in text
    assert 'checkdam_operator_resync_found_total{change="changed",kind="streamjobs"} 1.0' in text
    assert 'checkdam_operator_cache_objects{kind="streamjobs"} 2.0' in text


@pytest.mark.parametrize(("namespaces", "scope"), [((), None), (("ns", "other"), "ns")])
def test_the_watch_is_dead_when_a_list_knows_more_for_long(namespaces: tuple[str, ...], scope: str | None) -> None:
    office = Office(*namespaces)
    office.delivery.watched(POD, pod(2), deleted=False)
    office.delivery.listed(POD, scope, [pod(9)], "10")
    office.time.now += PATIENCE_S + 1
    assert office.freshness.problem()
    assert "checkdam_operator_watch_stale 1.0" in office.metrics.render().decode()
    office.delivery.watched(POD, pod(9), deleted=False)
    assert "checkdam_operator_watch_stale 0.0" in office.metrics.render().decode()
    assert office.freshness.problem() == ""
