"""Stories: what people and fate do to a job, as data that can be drawn, printed and cut short.

A step that finds nothing to act on does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from checkdam.spec import API_VERSION, KIND, SAVEPOINT_KIND
from checkdam_operator.kube.kinds import POD, SAVEPOINT, STREAM_JOB
from checkdam_operator.kube.protocol import Object
from world.chance import BREEZE, CALM, STORM, Weather
from world.coordinator import CoordinatorProcess
from world.nodes import NODES

if TYPE_CHECKING:
    from world.run import World


@dataclass(frozen=True)
class Step:
    """Something that happens at a time."""

    at_s: float

    def happen(self, world: World) -> None:
        """Do it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Edit(Step):
    """A field of the spec is changed, such as `upgrade.mode`."""

    field: str
    value: Any

    def happen(self, world: World) -> None:
        if world.server.find(STREAM_JOB, world.namespace, world.name) is not None:
            world.server.edit(STREAM_JOB, world.namespace, world.name, self._change)

    def _change(self, body: Object) -> None:
        *path, last = self.field.split(".")
        inner = body["spec"]
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = self.value


@dataclass(frozen=True)
class RestoreLast(Step):
    """`restoreFrom` names the uri of the newest savepoint that there is."""

    def happen(self, world: World) -> None:
        journal = world.storage.journal(f"{world.namespace}/{world.name}")
        if journal.savepoints:
            uri = f"s3://checkpoints/jobs/{world.namespace}/{world.name}/{list(journal.savepoints)[-1]}"
            Edit(self.at_s, "restoreFrom", uri).happen(world)


@dataclass(frozen=True)
class PodHit(Step):
    """Something happens to a pod: `delete`, `crash`, `oom`, `evict`, `wait` (its node is lost for 20 s) or `lose` (for two minutes)."""

    how: str
    index: int
    """Of the worker; -1 for the coordinator."""

    def happen(self, world: World) -> None:
        life = world.nodes.find("coordinator") if self.index < 0 else world.nodes.find("worker", self.index)
        if life is None:
            return
        if self.how == "delete":
            if world.server.find(POD, life.namespace, life.name) is not None:
                world.server.delete(POD, life.namespace, life.name)
        elif self.how == "evict":
            life.evict()
        elif self.how in ("wait", "lose") and life.node in NODES:
            world.nodes.lose(life.node)
            world.loop.call_later(20.0 if self.how == "wait" else 120.0, world.nodes.bring_back, life.node)
        else:
            life.crash("OOMKilled" if self.how == "oom" else "Error")


@dataclass(frozen=True)
class JobHit(Step):
    """Something happens in the job: `user` (code raises), `end` (of all input, for ever) or `stop` (somebody asks its coordinator to stop)."""

    how: str

    def happen(self, world: World) -> None:
        world.facts.input_ended = world.facts.input_ended or self.how == "end"
        life = world.nodes.find("coordinator")
        process = life.process if life is not None else None
        if not isinstance(process, CoordinatorProcess) or not process.alive or process.frozen:
            return
        if self.how == "user":
            process.fail_user_code()
        elif self.how == "end":
            process.input_ends()
        elif process.state == "RUNNING":
            process.stop()


@dataclass(frozen=True)
class Outage(Step):
    """Something is away for a while: `api`, `storage`, `checkpoints`, `savepoints`, `quota`, `room`, `watch`, or the changes of one kind in
    the newest operator's watch (`pods`, `streamjobs`, `savepoints-seen`)."""

    what: str
    for_s: float

    def happen(self, world: World) -> None:
        self._switch(world, True)
        world.loop.call_later(self.for_s, self._switch, world, False)

    def _switch(self, world: World, away: bool) -> None:
        switches: dict[str, tuple[object, str]] = {
            "api": (world, "api_down"),
            "watch": (world, "watch_lost"),
            "storage": (world.storage, "down"),
            "checkpoints": (world.storage, "checkpoints_fail"),
            "savepoints": (world.storage, "savepoints_fail"),
            "quota": (world.server, "quota_exhausted"),
            "room": (world.nodes, "full"),
        }
        if self.what in switches:
            setattr(*switches[self.what], away)
            return
        kind = {"pods": POD, "streamjobs": STREAM_JOB, "savepoints-seen": SAVEPOINT}[self.what]
        for operator in world.operators[-1:] if away else world.operators:
            (operator.stale.add if away else operator.stale.discard)(kind)


@dataclass(frozen=True)
class OperatorHit(Step):
    """`kill` the operator, or have a `second` one lead beside it."""

    how: str

    def happen(self, world: World) -> None:
        if self.how == "second":
            if len(world.operators) < 2:
                world.add_operator()
        elif world.operators:
            world.kill_operator(world.operators[0])


@dataclass(frozen=True)
class SavepointStep(Step):
    """A Savepoint resource is created (`take`; `keep` its files later or not) or deleted (`delete`)."""

    how: str
    name: str

    def happen(self, world: World) -> None:
        there = world.server.find(SAVEPOINT, world.namespace, self.name) is not None
        if self.how == "delete":
            if there:
                world.server.delete(SAVEPOINT, world.namespace, self.name)
        elif not there:
            body = {
                "apiVersion": API_VERSION,
                "kind": SAVEPOINT_KIND,
                "metadata": {"name": self.name},
                "spec": {"job": world.name, "onDelete": "Keep" if self.how == "keep" else "Delete"},
            }
            world.server.create(SAVEPOINT, world.namespace, body)


@dataclass(frozen=True)
class JobStep(Step):
    """The StreamJob is deleted (`Background`, `Foreground`, `Orphan`), or created again (`create`)."""

    how: str

    def happen(self, world: World) -> None:
        found = world.server.find(STREAM_JOB, world.namespace, world.name)
        if self.how == "create":
            if found is None:
                create_job(world, {})
        elif found is not None and "deletionTimestamp" not in found["metadata"]:
            world.facts.orphaned = world.facts.orphaned or self.how == "Orphan"
            world.server.delete_job(world.namespace, world.name, self.how)


def create_job(world: World, spec: dict[str, Any]) -> None:
    """Apply the StreamJob."""
    needed = {
        "image": "app:1",
        "parallelism": 2,
        "program": {"entrypoint": "flight_delays:build"},
        "checkpoint": {"interval": "30s", "storage": {"uri": "s3://checkpoints/jobs"}},
        "upgrade": {"progressDeadline": "2m"},
    }
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": world.name},
        "spec": needed | spec,
    }
    world.server.create(STREAM_JOB, world.namespace, body)


@dataclass(frozen=True)
class Story:
    """What happens.

    Attributes:
        seed: Of all that is left to chance.
        weather: How often things go wrong, until all becomes quiet.
        spec: Beside what every job here has.
        steps: What happens, and when.
        rough_s: How long the weather lasts after the last step.
    """

    seed: int = 0
    weather: Weather = CALM
    spec: tuple[tuple[str, Any], ...] = ()
    steps: tuple[Step, ...] = ()
    rough_s: float = 20.0

    def begin(self, world: World) -> None:
        """Apply the job."""
        create_job(world, dict(self.spec))

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}, {self.weather}, spec {dict(self.spec)}, rough for {self.rough_s:g} s after the last"
        ]
        return "\n".join([*lines, *(f"  {step}" for step in self.steps)])


class Draw(Protocol):
    """Where the choices of a story come from: a seed, or hypothesis."""

    def pick(self, options: Sequence[Any]) -> Any:
        """One of them."""
        ...


def _edit(draw: Draw, at_s: float) -> Step:
    field, values = draw.pick(_EDITS)
    return Edit(at_s, field, draw.pick(values))


_EDITS: Sequence[tuple[str, Sequence[Any]]] = (
    ("image", ("app:1", "app:2", "app:3")),
    ("image", ("app:1", "app:2", "app:3")),
    ("image", ("app:nowhere", "app:crashes", "app:broken", "app:misfit", "app:silent", "app:fails")),
    ("parallelism", (1, 2, 3)),
    ("parallelism", (1, 2, 3)),
    ("suspend", (True, False)),
    ("suspend", (True, False)),
    ("restartNonce", ("a", "b")),
    ("upgrade.mode", ("Savepoint", "LastState", "Stateless")),
    ("upgrade.rollback", (True, False)),
    ("restoreFrom", ("Fresh", "", "one", "two")),
    ("checkpoint.retain", (3, 4)),
)

_STEPS: Sequence[Callable[[Draw, float], Step]] = (
    _edit,
    _edit,
    _edit,
    _edit,
    lambda draw, at_s: PodHit(
        at_s, draw.pick(("delete", "crash", "oom", "evict", "wait", "lose")), draw.pick((-1, -1, 0, 1))
    ),
    lambda draw, at_s: PodHit(
        at_s, draw.pick(("delete", "crash", "oom", "evict", "wait", "lose")), draw.pick((-1, -1, 0, 1))
    ),
    lambda draw, at_s: JobHit(at_s, draw.pick(("user", "user", "user", "end", "stop"))),
    lambda draw, at_s: Outage(
        at_s,
        draw.pick(
            (
                "api",
                "storage",
                "checkpoints",
                "savepoints",
                "quota",
                "room",
                "watch",
                "pods",
                "streamjobs",
                "savepoints-seen",
            )
        ),
        draw.pick((3.0, 20.0, 60.0)),
    ),
    lambda draw, at_s: OperatorHit(at_s, draw.pick(("kill", "second", "second"))),
    lambda draw, at_s: SavepointStep(at_s, draw.pick(("take", "keep", "delete")), draw.pick(("one", "two"))),
    lambda draw, at_s: SavepointStep(at_s, draw.pick(("take", "keep", "delete")), draw.pick(("one", "two"))),
    lambda draw, at_s: JobStep(at_s, draw.pick(("Background", "Foreground", "Orphan", "create", "create"))),
    lambda draw, at_s: RestoreLast(at_s),
)


def draw_story(draw: Draw, seed: int) -> Story:
    """A story out of choices."""
    steps: list[Step] = []
    at_s = 0.0
    for _ in range(draw.pick((1, 2, 3, 4, 6, 8, 12, 20))):
        at_s += draw.pick((0.0, 1.0, 4.0, 15.0, 40.0, 90.0))
        steps.append(draw.pick(_STEPS)(draw, at_s))
    mode = draw.pick(("Savepoint", "Savepoint", "LastState", "Stateless"))
    spec = (("upgrade", {"mode": mode, "progressDeadline": "2m"}),)
    return Story(seed, draw.pick((CALM, BREEZE, STORM)), spec, tuple(steps), draw.pick((0.0, 30.0)))


def shorter(story: Story) -> Sequence[Story]:
    """The same story with one thing left out, for each."""
    cut = [
        replace(story, steps=tuple(step for at, step in enumerate(story.steps) if at != left))
        for left in range(len(story.steps))
    ]
    calmer = [replace(story, weather=weather) for weather in (CALM, BREEZE) if story.weather not in (CALM, weather)]
    return [*cut, *calmer]
