"""The operator in a simulated world: whatever happens and whenever, it comes to rest where it is to be, and no rule is broken on the way.

`make simulate` plays many more stories than there is time for here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world.chance import BREEZE, CALM, STORM, Weather
from world.coordinator import CoordinatorProcess
from world.loop import START_MS
from world.run import play
from world.seeded import story_of
from world.server import ApiServer
from world.storage import Entry, Storage
from world.story import (
    Edit,
    JobHit,
    JobStep,
    OperatorHit,
    Outage,
    PodHit,
    RestoreLast,
    SavepointStep,
    Step,
    Story,
    draw_story,
)

from checkdam_operator.decide import decision
from checkdam_operator.decide import pods as pods_module
from checkdam_operator.decide.pods import PodPlan
from checkdam_operator.kube.kinds import CONFIG_MAP, POD, SECRET
from checkdam_operator.reconcile.doing import Hands

if TYPE_CHECKING:
    from world.run import World

PLAYED = settings(
    max_examples=70,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

LIFE = Story(
    spec=(("upgrade", {"mode": "Savepoint"}),),
    steps=(
        SavepointStep(20.0, "take", "one"),
        Edit(30.0, "image", "app:2"),
        PodHit(45.0, "delete", 0),
        Edit(60.0, "suspend", True),
        Edit(80.0, "suspend", False),
        SavepointStep(85.0, "delete", "one"),
        Edit(100.0, "parallelism", 3),
        PodHit(120.0, "evict", -1),
    ),
)
"""A bit of everything that belongs to the life of a job."""

STAYS_BROKEN = Story(
    steps=(Edit(70.0, "image", "app:broken"), OperatorHit(72.0, "kill"), OperatorHit(74.0, "second")), rough_s=60.0
)
ENDS = Story(steps=(JobHit(40.0, "end"), PodHit(41.0, "crash", -1), Edit(60.0, "image", "app:2")))
GOES = Story(steps=(PodHit(30.0, "lose", 0), JobStep(35.0, "Orphan"), OperatorHit(36.0, "kill")))
GONE_UNSEEN = Story(steps=(Outage(58.0, "api", 70.0), PodHit(60.0, "delete", -1)), rough_s=100.0)
"""The coordinator's pod comes to its end while the operator hears nothing."""

COMES_BACK = Story(steps=(JobStep(30.0, "Background"), JobStep(32.0, "create"), Outage(33.0, "pods", 20.0)))


class HypothesisDraw:
    """Choices that hypothesis makes."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def pick(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))


@st.composite
def stories(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Story:
    return draw_story(HypothesisDraw(draw), draw(st.integers(0, 2**32)))


@pytest.mark.slow
@PLAYED
@given(stories())
def test_whatever_happens_it_comes_to_rest_where_it_is_to_be(story: Story) -> None:
    outcome = play(story)
    assert outcome.problems == [], f"{story}\n" + "\n".join(outcome.log)


@pytest.mark.slow
def test_the_operator_may_be_killed_wherever_it_waits() -> None:
    undisturbed = play(LIFE)
    assert undisturbed.problems == []
    assert undisturbed.waits > 200
    for number in range(1, undisturbed.waits, 19):
        outcome = play(LIFE, kill_at=number)
        assert outcome.problems == [], f"killed at wait {number}"
        assert (outcome.pods, outcome.state) == (undisturbed.pods, undisturbed.state), f"killed at wait {number}"


@pytest.mark.parametrize(
    ("story", "state", "pods"),
    [
        (LIFE, "Running", ["coordinator 0 app:2", "worker 0 app:2", "worker 1 app:2", "worker 2 app:2"]),
        (STAYS_BROKEN, "Running", ["coordinator 0 app:1", "worker 0 app:1", "worker 1 app:1"]),
        (ENDS, "Completed", []),
        (GOES, "gone", []),
        (COMES_BACK, "Running", ["coordinator 0 app:1", "worker 0 app:1", "worker 1 app:1"]),
    ],
    ids=["life", "broken version", "end of input", "orphans", "created again"],
)
@pytest.mark.parametrize("weather", [CALM, BREEZE, STORM], ids=["calm", "breeze", "storm"])
def test_one_story_has_one_end(story: Story, weather: Weather, state: str, pods: list[str]) -> None:
    for seed in range(2):
        outcome = play(replace(story, seed=seed, weather=weather))
        assert (outcome.problems, outcome.state, outcome.pods) == ([], state, pods), f"seed {seed}"


def test_a_job_that_is_to_begin_with_a_savepoint_that_goes_at_that_moment_fails_and_says_so() -> None:
    gone = Story(
        steps=(SavepointStep(134.0, "take", "two"), SavepointStep(179.0, "delete", "two"), RestoreLast(179.0)),
        rough_s=0.0,
    )
    outcome = play(gone)
    assert (outcome.problems, outcome.state, outcome.pods) == ([], "Failed", [])


def test_a_seed_stands_for_one_course_of_events() -> None:
    first, second = play(story_of(4)), play(story_of(4))
    assert first == second
    assert first.looks > 10
    assert play(replace(story_of(4), seed=5)).waits != first.waits


def test_a_rollback_that_is_told_again_after_another_trouble_breaks_no_rule() -> None:
    """The next operator cannot know that the one before has told it."""
    steps = (
        Edit(140.0, "image", "app:fails"),
        Edit(180.0, "parallelism", 1),
        Outage(350.0, "storage", 150.0),
        Edit(484.0, "parallelism", 3),
    )
    spec = (("upgrade", {"mode": "Savepoint", "progressDeadline": "2m"}),)
    outcome = play(Story(154, BREEZE, spec, steps, rough_s=0.0))
    assert outcome.problems == []


def test_no_attempt_runs_without_workers_that_left_while_it_was_deployed() -> None:
    """Workers of the version before, which go when it is replaced; those of the next one never come."""
    steps = (
        Edit(34.0, "image", "app:silent"),
        PodHit(38.0, "crash", 0),
        PodHit(42.0, "delete", 0),
        Edit(47.0, "upgrade.mode", "Stateless"),
    )
    spec = (("upgrade", {"mode": "Savepoint", "progressDeadline": "2m"}),)
    assert play(Story(798, STORM, spec, steps, rough_s=30.0)).problems == []


@dataclass(frozen=True)
class LoseSecrets(Step):
    """Somebody deletes the Secrets of the namespace."""

    def happen(self, world: World) -> None:
        for body in world.server.all(SECRET, world.namespace):
            world.server.remove(SECRET, world.namespace, body["metadata"]["name"])


def test_a_job_whose_secret_is_deleted_while_it_is_suspended_goes_on_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create, tokens = ApiServer.create, list[str]()

    def noted(server: ApiServer, kind: Any, namespace: str, body: Any, **more: Any) -> Any:
        if kind == SECRET:
            tokens.append(body["data"]["token"])
        return create(server, kind, namespace, body, **more)

    monkeypatch.setattr(ApiServer, "create", noted)
    outcome = play(Story(steps=(Edit(30.0, "suspend", True), LoseSecrets(50.0), Edit(60.0, "suspend", False))))
    assert (outcome.problems, outcome.state) == ([], "Running")
    assert len(set(tokens)) == 2


MORE_AND_LESS = Story(steps=(Edit(40.0, "parallelism", 3), Edit(80.0, "parallelism", 1)))
NO_ROOM = Story(steps=(Outage(38.0, "room", 120.0), Edit(40.0, "parallelism", 3)), rough_s=60.0)


@pytest.mark.parametrize(
    ("story", "created", "attempts", "pods"),
    [
        (MORE_AND_LESS, 4, 3, ["coordinator 0 app:1", "worker 0 app:1"]),
        (NO_ROOM, 4, 2, ["coordinator 0 app:1", "worker 0 app:1", "worker 1 app:1", "worker 2 app:1"]),
    ],
    ids=["more and less", "no room"],
)
def test_a_job_that_is_rescaled_keeps_its_pods_and_loses_no_more_than_an_attempt(
    monkeypatch: pytest.MonkeyPatch, story: Story, created: int, attempts: int, pods: list[str]
) -> None:
    create, run, made, begun = ApiServer.create, CoordinatorProcess._run, list[str](), set[tuple[int, int]]()

    def noted(server: ApiServer, kind: Any, namespace: str, body: Any, **more: Any) -> Any:
        made.extend([body["metadata"]["name"]] if kind == POD else [])
        return create(server, kind, namespace, body, **more)

    def begin(process: CoordinatorProcess, turn: int) -> None:
        begun.add((process.epoch, process.attempt))
        run(process, turn)

    monkeypatch.setattr(ApiServer, "create", noted)
    monkeypatch.setattr(CoordinatorProcess, "_run", begin)
    outcome = play(story)
    assert (outcome.problems, outcome.state, outcome.pods) == ([], "Running", pods)
    assert (len(made), len(begun)) == (created, attempts)


# The rules notice what they are there for


def _broken(**story: Any) -> str:
    return "\n".join(play(Story(rough_s=100.0, **story)).problems)


def test_two_who_commit_at_once_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_lock(storage: Storage, job_id: str, entry: Entry) -> bool:
        journal = storage.journal(job_id)
        before = journal.tail
        journal.entries.append(replace(entry, seq=before.seq + 1 if before is not None else 1))
        for look in storage.written:
            look(job_id, entry, before)
        return True

    monkeypatch.setattr(Storage, "create", without_lock)
    monkeypatch.setattr("world.coordinator.CoordinatorProcess._keep_watch", lambda process: None)
    often = {"interval": "2s", "storage": {"uri": "s3://checkpoints/jobs"}}
    assert "commits while epoch" in _broken(spec=(("checkpoint", often),), steps=(PodHit(60.0, "lose", -1),))


def test_a_status_that_is_written_on_an_old_view_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = ApiServer.apply

    def whatever_version(server: ApiServer, kind: Any, namespace: str, name: str, body: Any, **more: Any) -> Any:
        body["metadata"].pop("resourceVersion", None)
        return apply(server, kind, namespace, name, body, **more)

    monkeypatch.setattr(ApiServer, "apply", whatever_version)
    late = (OperatorHit(60.0, "second"), Outage(65.0, "streamjobs", 60.0), Edit(70.0, "image", "app:2"))
    assert "'Deployed', 'r2') was told twice" in _broken(steps=late)


def test_a_pod_that_nobody_replaces_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = decision.plan_pods

    def only_at_first(situation: Any, *args: Any) -> PodPlan:
        made = plan(situation, *args)
        return made if situation.now_ms < START_MS + 60_000 else replace(made, actions=())

    monkeypatch.setattr(decision, "plan_pods", only_at_first)
    assert "does not come to rest" in _broken(steps=(PodHit(60.0, "evict", 0),))


def test_a_worker_that_is_deleted_while_an_attempt_needs_it_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "surplus_slots", lambda *_: ())
    assert "is deleted by a rescale while an attempt needs it" in _broken(steps=(Edit(60.0, "parallelism", 1),))


def test_a_coordinator_that_nobody_tells_of_a_rescale_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "plan_rescale", lambda *_: (None, None))
    assert "does not come to rest" in _broken(steps=(Edit(60.0, "parallelism", 3),))


def test_one_name_for_two_pods_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(GONE_UNSEEN).problems == []
    monkeypatch.setattr(pods_module, "_vanished", lambda *_: [])
    assert "to two pods" in "\n".join(play(GONE_UNSEEN).problems)


def test_a_pod_whose_manifest_is_not_stored_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    create = ApiServer.create

    def without_manifests(server: ApiServer, kind: Any, namespace: str, body: Any, **more: Any) -> Any:
        made = create(server, kind, namespace, body, **more)
        if kind == CONFIG_MAP:
            server.remove(kind, namespace, made["metadata"]["name"])
        return made

    monkeypatch.setattr(ApiServer, "create", without_manifests)
    assert "which is not stored" in _broken()


def test_a_pod_that_is_made_while_its_job_is_collected_breaks_no_rule() -> None:
    """The operator has not heard of the deletion, and takes a collected pod for one that is to be replaced."""
    steps = (Edit(39.5, "image", "app:2"), JobStep(40.8, "Foreground"))
    outcome = play(Story(steps=steps, seed=22, weather=STORM, rough_s=3.0))
    assert (outcome.problems, outcome.state, outcome.pods) == ([], "gone", [])


def test_an_exception_of_the_operator_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> str:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Hands, "token", broken)
    assert "ZeroDivisionError: a mistake" in _broken()
