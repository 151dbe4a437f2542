"""The Lease: never two that may act at once, whatever the clocks and the API server do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fake_cluster import FakeCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_time import ManualTime, settle

from checkdam_operator.kube.errors import KubeError, UnavailableError
from checkdam_operator.kube.kinds import LEASE
from checkdam_operator.kube.lease import Election, Elector, LeaseRecord, LeaseTimes, NotLeaderError

TIMES = LeaseTimes()


class Candidate:
    """A replica with a clock of its own that runs on the test's time."""

    def __init__(self, cluster: FakeCluster, time: ManualTime, identity: str) -> None:
        self.lost: list[str] = []
        self.elector = Elector(cluster, "ns", "lease", identity, self.lost.append, TIMES, time, time.sleep)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self.elector.acquire()
        await self.elector.keep()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
def time() -> ManualTime:
    return ManualTime()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def holder(cluster: FakeCluster) -> str:
    return str(cluster.objects["leases", "ns", "lease"]["spec"].get("holderIdentity", ""))


def unavailable(*verbs: str) -> Callable[..., KubeError | None]:
    return lambda verb, kind, name: UnavailableError(0, "Timeout", "no answer") if verb in verbs else None


async def test_the_first_candidate_creates_the_lease_and_leads(cluster: FakeCluster, time: ManualTime) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    assert one.elector.leads
    one.elector.check()
    assert holder(cluster) == "one"
    await one.stop()


async def test_a_candidate_waits_while_the_leader_renews_and_takes_over_after_its_death(
    cluster: FakeCluster, time: ManualTime
) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    two = Candidate(cluster, time, "two")
    await time.advance(60.0)
    assert (one.elector.leads, two.elector.leads) == (True, False)
    with pytest.raises(NotLeaderError, match="does not hold the Lease"):
        two.elector.check()
    await one.stop()  # As if killed: the Lease is not given up.
    waited = 0.0
    while not two.elector.leads:
        await time.advance(0.5)
        waited += 0.5
    assert 8.0 <= waited <= 12.0
    assert holder(cluster) == "two"
    assert cluster.objects["leases", "ns", "lease"]["spec"]["leaseTransitions"] == 1
    await two.stop()


async def test_a_lease_that_was_given_up_is_taken_at_the_next_look(cluster: FakeCluster, time: ManualTime) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    two = Candidate(cluster, time, "two")
    await time.advance(3.0)
    await one.stop()
    await one.elector.release()
    assert not one.elector.leads
    await time.advance(2.0)
    assert two.elector.leads
    assert one.lost == []
    await two.stop()


async def test_a_leader_that_cannot_renew_ends_before_anybody_else_begins(
    cluster: FakeCluster, time: ManualTime
) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    two = Candidate(cluster, time, "two")
    await time.advance(10.0)
    cluster.flowing.clear()  # The API server answers nobody.
    await time.advance(7.5)
    assert one.lost == ["the Lease was not renewed for 7 s"]
    assert one.task.done()
    assert isinstance(one.task.exception(), NotLeaderError)
    cluster.flowing.set()
    await settle()
    assert not two.elector.leads
    await two.stop()


async def test_errors_of_the_api_server_shorter_than_the_deadline_do_no_harm(
    cluster: FakeCluster, time: ManualTime
) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    for verbs in (("get",), ("patch",), ("get", "patch")):
        cluster.broken = unavailable(*verbs)
        await time.advance(4.0)
        cluster.broken = unavailable()
        await time.advance(2.5)
    assert one.elector.leads
    assert one.lost == []
    await one.stop()


async def test_a_process_that_was_stopped_for_long_finds_out_before_its_next_write(
    cluster: FakeCluster, time: ManualTime
) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    time.now += 20.0  # Nothing of the process ran meanwhile, its timers neither.
    assert not one.elector.leads
    with pytest.raises(NotLeaderError):
        one.elector.check()
    assert one.lost == ["the Lease was not renewed for 7 s"]
    await one.stop()


async def test_a_leader_whose_lease_was_taken_ends_at_once(cluster: FakeCluster, time: ManualTime) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    await cluster.patch(LEASE, "ns", "lease", {"spec": {"holderIdentity": "somebody"}})
    await time.advance(2.0)
    assert one.lost == ["the Lease is held by somebody"]
    await one.stop()


async def test_a_lease_that_was_deleted_is_made_again_by_its_holder(cluster: FakeCluster, time: ManualTime) -> None:
    one = Candidate(cluster, time, "one")
    await settle()
    await cluster.delete(LEASE, "ns", "lease")
    await time.advance(2.0)
    assert holder(cluster) == "one"
    assert one.elector.leads
    await one.stop()


async def test_of_two_that_come_at_once_one_leads(cluster: FakeCluster, time: ManualTime) -> None:
    candidates = [Candidate(cluster, time, name) for name in ("one", "two", "three")]
    await settle()
    assert sum(candidate.elector.leads for candidate in candidates) == 1
    await time.advance(30.0)
    assert sum(candidate.elector.leads for candidate in candidates) == 1
    for candidate in candidates:
        await candidate.stop()


async def test_an_answer_that_was_lost_is_made_up_for_at_the_next_look(cluster: FakeCluster, time: ManualTime) -> None:
    cluster.lost = unavailable("create", "patch")
    one = Candidate(cluster, time, "one")
    await settle()
    assert not one.elector.leads
    cluster.lost = unavailable()
    await time.advance(2.0)
    assert one.elector.leads
    assert holder(cluster) == "one"
    await one.stop()


async def test_the_times_in_the_lease_decide_nothing(cluster: FakeCluster, time: ManualTime) -> None:
    old = {"holderIdentity": "other", "leaseDurationSeconds": 10, "renewTime": "1999-01-01T00:00:00.000000Z"}
    await cluster.create(LEASE, "ns", {"metadata": {"name": "lease"}, "spec": old})
    one = Candidate(cluster, time, "one")
    await time.advance(8.0)
    assert not one.elector.leads, (
        "the holder's clock may be wrong by years; it was not seen to be silent for long enough"
    )
    await time.advance(4.0)
    assert one.elector.leads
    await one.stop()


def test_the_duration_that_counts_is_the_one_that_the_holder_wrote() -> None:
    election = Election("one", TIMES)
    patient = LeaseRecord("other", 60.0, "1")
    assert election.move(patient, 0.0) == "wait"
    assert election.move(patient, 59.0) == "wait"
    assert election.move(patient, 60.0) == "take"


moves = st.lists(
    st.tuples(
        st.sampled_from(["one", "two"]),
        st.floats(0.1, 6.0),  # How long it was away before this look.
        st.floats(0.0, 4.0),  # How long its write is under way.
        st.booleans(),  # Whether the write's answer is lost.
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(moves, st.floats(-1e6, 1e6), st.floats(0.9, 1.1))
def test_two_candidates_never_may_act_at_the_same_moment(
    looks: list[tuple[str, float, float, bool]], skew_s: float, drift: float
) -> None:
    """Each candidate has a clock of its own: one is ahead of the other by any time, and runs a tenth faster or slower."""
    clocks: dict[str, Callable[[float], float]] = {"one": lambda now: now, "two": lambda now: skew_s + now * drift}
    elections = {name: Election(name, TIMES) for name in clocks}
    alive = set(elections)
    lease: LeaseRecord | None = None
    now, version = 0.0, 0
    for name, away_s, flight_s, lost in looks:
        now += away_s
        if name in alive:
            sent_at = clocks[name](now)
            move = elections[name].move(lease, sent_at)
            now += flight_s
            if move == "lost":
                alive.discard(name)
            elif move != "wait":
                version += 1
                lease = LeaseRecord(name, TIMES.duration_s, str(version))
                if not lost:
                    elections[name].written(sent_at)
        acting = [other for other in alive if elections[other].leads(clocks[other](now))]
        assert len(acting) <= 1
