"""Strikes at a whole job at random moments, from a seed: at pods, operators, storage, and by what users do without waiting for what they did before.

Afterwards all is healed, and the job must come to run as its spec says by then, have lost and doubled nothing, and nothing in its
status may have gone back; every checkpoint and savepoint must verify.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from job_scene import Scene
from operator_process import eventually
from tcp_gate import Gate

from cluster.control_plane import ApiError

HEALING_S: Final = 180.0
"""Pods that crashed in a row are replaced after longer and longer pauses."""

Strike = Callable[[], Awaitable[None]]


@dataclass
class Chaos:
    """Strikes at the job of a scene.

    Attributes:
        scene: It runs, with its storage behind the gate.
        gate: On the way to its storage.
        chance: Decides what happens and when.
        log: What has happened.
    """

    scene: Scene
    gate: Gate
    chance: random.Random
    log: list[str] = field(default_factory=list)
    savepoints: int = 0

    async def strike_for(self, seconds: float) -> None:
        """Strike again and again, then heal, and check what came of it."""
        scene = self.scene
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with scene.watched():
            while loop.time() < end:
                strike = self.chance.choice(self.strikes())
                self.log.append(strike.__name__)
                with suppress(ApiError, ValueError):  # what it was aimed at is gone, or not there yet
                    await strike()
                await asyncio.sleep(self.chance.uniform(0.1, 2.5))
            await self._heal()
            await scene.suspend(HEALING_S)
            found = await asyncio.to_thread(scene.storage_problems)
            assert not found, found

    def strikes(self) -> list[Strike]:
        """All that may happen; what is there twice is twice as likely."""
        return [
            *(self.kill_a_worker, self.kill_a_worker, self.kill_the_coordinator, self.freeze_a_pod, self.lose_a_node),
            *(self.delete_a_worker, self.delete_the_coordinator),
            *(self.kill_the_operator, self.freeze_the_operator, self.let_operators_die),
            *(self.change_the_program, self.scale, self.scale, self.suspend_or_resume, self.deploy_nonsense),
            *(self.ask_for_a_savepoint, self.delete_a_savepoint, self.cut_off_storage),
        ]

    async def _heal(self) -> None:
        scene = self.scene
        self.gate.open()
        await scene.patch(suspend=False, parallelism=2, program={"entrypoint": "pod_job_program:build"})
        await scene.until_workers(2, HEALING_S)
        await scene.until_more_rows()
        names = await asyncio.to_thread(scene.savepoints)
        for name in names:
            await eventually(
                lambda name=name: scene.jobs.savepoint_status(name).get("state") in ("Completed", "Failed"), name
            )

    # Pods

    async def kill_a_worker(self) -> None:
        self._kill(await asyncio.to_thread(self.scene.pod, "worker", self.chance.randrange(2)))

    async def kill_the_coordinator(self) -> None:
        self._kill(await asyncio.to_thread(self.scene.pod, "coordinator"))

    def _kill(self, name: str) -> None:
        pod = self.scene.kubelet.pods.get(name)
        if pod is not None and pod.process is not None:
            self.scene.kubelet.kill(name)

    async def delete_a_worker(self) -> None:
        name = await asyncio.to_thread(self.scene.pod, "worker", self.chance.randrange(2))
        await asyncio.to_thread(self.scene.jobs.delete_pod, name)

    async def delete_the_coordinator(self) -> None:
        name = await asyncio.to_thread(self.scene.pod, "coordinator")
        await asyncio.to_thread(self.scene.jobs.delete_pod, name)

    async def freeze_a_pod(self) -> None:
        name = await self._any_pod()
        async with self.scene.frozen(name):
            await asyncio.sleep(self.chance.uniform(0.5, 8.0))

    async def lose_a_node(self) -> None:
        name = await self._any_pod()
        self.scene.kubelet.lose(name)
        await asyncio.sleep(self.chance.uniform(0.5, 8.0))
        self.scene.kubelet.find(name)

    async def _any_pod(self) -> str:
        pods = await asyncio.to_thread(self.scene.jobs.pods)
        there = [pod["metadata"]["name"] for pod in pods if pod["metadata"]["name"] in self.scene.kubelet.pods]
        if not there:
            raise ValueError("there are no pods")
        return str(self.chance.choice(there))

    # Operators

    async def kill_the_operator(self) -> None:
        await self.scene.operator.kill()
        await self.scene.operator.start()

    async def freeze_the_operator(self) -> None:
        os.kill(self.scene.operator.pid, signal.SIGSTOP)
        await asyncio.sleep(self.chance.uniform(0.5, 5.0))
        os.kill(self.scene.operator.pid, signal.SIGCONT)

    async def let_operators_die(self) -> None:
        async with self.scene.mortal_operator(self.chance, 2):
            await self.chance.choice([self.change_the_program, self.scale, self.suspend_or_resume])()

    # What users do

    async def change_the_program(self) -> None:
        await self.scene.patch(
            program={"entrypoint": "pod_job_program:build", "args": {"rate": self.chance.randrange(300, 800)}},
            upgrade={"mode": self.chance.choice(["Savepoint", "LastState"])},
        )

    async def deploy_nonsense(self) -> None:
        await self.scene.patch(program={"entrypoint": "pod_job_program:no_such_function"})
        await asyncio.sleep(self.chance.uniform(0.0, 8.0))
        await self.scene.patch(program={"entrypoint": "pod_job_program:build"})

    async def scale(self) -> None:
        await self.scene.patch(parallelism=self.chance.randrange(1, 4))

    async def suspend_or_resume(self) -> None:
        suspended = self.scene.jobs.get()["spec"].get("suspend", False)
        await self.scene.patch(suspend=not suspended)

    async def ask_for_a_savepoint(self) -> None:
        self.savepoints += 1
        keeps = self.chance.choice(["Delete", "Retain"])
        await asyncio.to_thread(self.scene.jobs.savepoint, f"asked-{self.savepoints}", onDelete=keeps)

    async def delete_a_savepoint(self) -> None:
        names = await asyncio.to_thread(self.scene.savepoints)
        if names:
            await asyncio.to_thread(self.scene.jobs.delete_savepoint, self.chance.choice(names))

    # Storage

    async def cut_off_storage(self) -> None:
        self.gate.shut()
        await asyncio.sleep(self.chance.uniform(0.5, 6.0))
        self.gate.open()


async def play(scene: Scene, gate: Gate, seed: int, seconds: float) -> list[str]:
    """Create a job, and strike at it.

    Args:
        scene: Without a job.
        gate: On the way to its storage.
        seed: Decides all that is decided by chance. What it meets differs from run to run.
        seconds: For how long to strike.

    Returns:
        What has happened.

    Raises:
        AssertionError: Something that must hold does not; the message ends with what has happened.
    """
    chance = random.Random(seed)
    chaos = Chaos(scene, gate, chance)
    storage = {**scene.bucket.storage("jobs"), "s3": {"endpoint": gate.url}}
    await asyncio.to_thread(
        scene.create,
        checkpoint={"storage": storage, "timeout": "10s", "tolerableFailures": 3},
        runtime={"heartbeatTimeout": "3s"},
        stateBackend={"type": chance.choice(["hashmap", "rocksdb"])},
    )
    try:
        await scene.until_runs()
        await chaos.strike_for(seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; before: {', '.join(chaos.log)}") from error
    return chaos.log
