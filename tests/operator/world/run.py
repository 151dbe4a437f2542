"""Playing a story: the world is made, things happen to it, then all is quiet, and it must come to rest where it is to be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.status import Deployment
from checkdam_operator.kube.kinds import CONFIG_MAP, STREAM_JOB
from checkdam_operator.kube.protocol import Object
from checkdam_operator.resources.config import IMAGE_KEY
from checkdam_operator.resources.names import JOB_LABEL
from world.chance import CALM, Chance, Weather
from world.loop import VirtualLoop, run_virtual
from world.nodes import Nodes
from world.operators import Operator
from world.rules import Rules
from world.server import ApiServer, Change
from world.storage import Saved, Storage
from world.story import Story

REST_S = 1800.0
"""So long it may take until all is as it is to be, after the last disturbance: pauses between replacements grow to five minutes, and what a watch
has missed is found after five."""

LOOK_S = 5.0
STEADY_LOOKS = 6
"""So many looks in a row must find it so."""


@dataclass
class Facts:
    """What people and fate have done that nobody can see afterwards."""

    input_ended: bool = False
    orphaned: bool = False


@dataclass
class Outcome:
    """How a story ended.

    Attributes:
        problems: Rules that were broken; none is how it is to be.
        pods: The pods in the end: place, image.
        state: The job's state in the end.
        looks: How often operators looked at the job.
        waits: At how many points operators waited.
        seconds: Virtual time.
        log: What has happened, for people.
    """

    problems: list[str] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)
    state: str = ""
    looks: int = 0
    waits: int = 0
    seconds: float = 0.0
    log: list[str] = field(default_factory=list)


class World:
    """Everything there is.

    Args:
        story: What happens.
        loop: Its time.

    Attributes:
        weather: How often things go wrong now.
        api_down: Whether the API server answers nobody.
        watch_lost: Whether no watch shows anything, and forgets what happens meanwhile.
        looks, waits: Counters.
        kill_at: The number of the wait at which the operator is killed, if one is.
    """

    namespace = "streams"
    name = "job"

    def __init__(self, story: Story, loop: VirtualLoop, kill_at: int | None = None) -> None:
        self.loop = loop
        self.chance = Chance(story.seed)
        self.weather: Weather = story.weather
        self.api_down = False
        self.watch_lost = False
        self.looks = 0
        self.waits = 0
        self.kill_at = kill_at
        self.facts = Facts()
        self.log: list[str] = []
        self.server = ApiServer(loop)
        self.storage = Storage()
        self.nodes = Nodes(self)
        self.rules = Rules(self)
        self.operators: list[Operator] = []
        self._operators_made = 0
        self._growing: list[asyncio.Future[None]] = []
        self.server.watchers.append(self._grown)

    def note(self, text: str) -> None:
        """Write into the log."""
        self.log.append(f"{self.loop.time():7.1f} s  {text}")

    # Operators

    def add_operator(self) -> Operator:
        """Start another operator."""
        self._operators_made += 1
        operator = Operator(self, self._operators_made)
        self.operators.append(operator)
        operator.start()
        return operator

    def kill_operator(self, operator: Operator) -> None:
        """Kill an operator; if it was the last, another one starts after a while."""
        if operator not in self.operators:
            return
        self.note(f"operator {operator.number} is killed")
        self.operators.remove(operator)
        operator.kill()
        self.loop.call_later(self.chance.between(0.1, 10.0), self._replace_operator)

    def _replace_operator(self) -> None:
        if not self.operators:
            self.add_operator()

    def waited(self, operator: Operator) -> None:
        """An operator waits for an answer, at a point where it may be killed."""
        self.waits += 1
        if self.waits == self.kill_at or self.chance.happens(self.weather.killed):
            self.kill_operator(operator)

    # Looking

    def _grown(self, change: Change) -> None:
        growing, self._growing = self._growing, []
        for future in growing:
            if not future.done():
                future.set_result(None)

    async def history_grows(self) -> None:
        """Wait for the next change at the API server."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._growing.append(future)
        await future

    def find_saved(self, uri: str) -> Saved | None:
        """The savepoint at a uri."""
        folder = uri.rstrip("/").rpartition("/")[2]
        return next(
            (found for journal in self.storage.journals.values() if (found := journal.savepoints.get(folder))), None
        )

    def image_of(self, deployment: Deployment) -> str:
        """What the pods of a deployment run."""
        stored = self.server.find(CONFIG_MAP, self.namespace, deployment.config_map)
        return str(stored["data"][IMAGE_KEY]) if stored is not None else "app:1"

    @staticmethod
    def nodes_config_map(pod: Object) -> str:
        """The ConfigMap that a pod reads its manifest from."""
        job = pod["metadata"]["labels"][JOB_LABEL]
        names = (str(volume.get("configMap", {}).get("name", "")) for volume in pod["spec"]["volumes"])
        return next(name for name in names if name.startswith(f"{job}-"))

    @staticmethod
    def seconds(duration: str) -> float:
        """A duration of the spec."""
        return parse_duration_ms(duration) / 1000

    # The story

    async def play(self, story: Story) -> None:
        """From the beginning until all is quiet and as it is to be; what is not is among the problems."""
        self.add_operator()
        story.begin(self)
        for step in sorted(story.steps, key=lambda step: step.at_s):
            await asyncio.sleep(max(0.0, step.at_s - self.loop.time()))
            if self.rules.problems:
                return
            self.note(str(step))
            step.happen(self)
        await asyncio.sleep(story.rough_s)
        self.become_quiet()
        await self._come_to_rest()

    def become_quiet(self) -> None:
        """Nothing goes wrong any more, and one operator leads."""
        self.note("all becomes quiet")
        self.weather = CALM
        self.api_down = self.watch_lost = False
        self.server.quota_exhausted = self.nodes.full = False
        self.storage.down = self.storage.checkpoints_fail = self.storage.savepoints_fail = False
        self.nodes.bring_back_all()
        for operator in self.operators[:-1]:
            self.operators.remove(operator)
            operator.kill()
        for operator in self.operators:
            operator.stale.clear()

    async def _come_to_rest(self) -> None:
        deadline_s, steady, why = self.loop.time() + REST_S, 0, ""
        while steady < STEADY_LOOKS:
            await asyncio.sleep(LOOK_S)
            if self.rules.problems:
                return
            why = self.rules.unsettled()
            steady = 0 if why else steady + 1
            if self.loop.time() > deadline_s:
                self.rules.broken(f"it does not come to rest: {why or 'what is right does not stay so'}")
                return


def play(story: Story, kill_at: int | None = None) -> Outcome:
    """Play a story.

    Args:
        story: Which.
        kill_at: Kill the operator at its wait of this number, counted from 1.
    """
    loop = VirtualLoop()
    world: list[World] = []

    async def main() -> None:
        world.append(World(story, loop, kill_at))
        await world[0].play(story)

    problems: list[str] = []
    loop.set_exception_handler(lambda _, context: problems.append(_told(context)))
    with _errors_logged(problems):
        run_virtual(main(), loop)
    made = world[0]
    job = made.server.find(STREAM_JOB, made.namespace, made.name)
    return Outcome(
        problems=[*made.rules.problems, *problems],
        pods=sorted(f"{life.role} {life.index} {life.image}" for life in made.nodes.lives),
        state=str(((job or {}).get("status") or {}).get("state", "gone")),
        looks=made.looks,
        waits=made.waits,
        seconds=loop.time(),
        log=made.log,
    )


@contextmanager
def _errors_logged(problems: list[str]) -> Iterator[None]:
    """What the operator logs as an exception is one that nobody has thought of; all else that it logs is of no interest here."""
    logger = logging.getLogger("checkdam_operator")
    handler = _Exceptions(problems)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Exceptions(logging.Handler):
    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._problems.append(logging.Formatter().format(record))


def _told(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"


__all__ = ["Outcome", "World", "play"]
