"""AtMostOnce: what was granted is durable, and where reading starts after a failure."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from coordinator_kit import coordinator, eventually, job_of, started, storage_of, workers

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.coordinator.reservations import Reservations
from checkdam.coordinator.threads import SerialThread
from checkdam.wire.messages import AssignSplits, AttemptId, Complete, Deploy, RequestSplits, Reserve, Reserved


def reserved_in(deploy: Deploy) -> dict[str, int]:
    assert deploy.restore is not None
    return deploy.restore.sources["numbers"].reserved


async def test_reading_starts_at_the_last_reservation_after_any_failure(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__mode="AtMostOnce")
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        await started([first, second])
        assert reserved_in(first.of(Deploy)[0]) == {}
        first.send(RequestSplits(first.attempt, "numbers"))
        await first.until(AssignSplits)
        first.send(Reserve(first.attempt, "numbers", {"a": 100}))
        granted = await first.until(Reserved)
        assert granted.positions == {"a": 100}
        tail = Journal(storage_of(tmp_path), "reservations").tail()
        assert tail is not None
        assert tail.data == {"numbers": {"a": 100}}
        second.fail("user", "boom")
        await started([first, second], attempt=2)
        assert reserved_in(second.of(Deploy)[1]) == {"a": 100}
        first.send(RequestSplits(first.attempt, "numbers"))
        # No checkpoint held the split, so it is given out again, from the reserved position on.
        assert (await first.until(AssignSplits, 2)).splits == [("a", {"path": "a"}, 100)]
    async with coordinator(tmp_path, job) as running, workers(running) as found:
        await started(found)
        assert reserved_in(found[0].of(Deploy)[0]) == {"a": 100}


async def test_requests_of_a_second_share_one_durable_write(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__mode="AtMostOnce")
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        await started([first, second])
        first.send(Reserve(first.attempt, "numbers", {"a": 1}))
        await first.until(Reserved)
        before = Journal(storage_of(tmp_path), "reservations").tail()
        for position in (2, 3):
            first.send(Reserve(first.attempt, "numbers", {"a": position}))
            second.send(Reserve(second.attempt, "numbers", {"b": position}))
        await second.until(Reserved, 2)
        after = Journal(storage_of(tmp_path), "reservations").tail()
        assert before is not None
        assert after is not None
        assert after.seq == before.seq + 1
        assert after.data == {"numbers": {"a": 3, "b": 3}}


async def test_cleaning_up_waits_for_a_write_that_is_under_way(tmp_path: Path) -> None:
    class Gated(FileStorage):
        gate = threading.Event()
        waiting = False

        def create(self, path: str, data: bytes) -> None:
            if b'"kind":"reserve"' in data:
                self.waiting = True
                assert self.gate.wait(10)
            super().create(path, data)

    storage = Gated(tmp_path)
    thread = SerialThread("storage")
    reservations = Reservations(Journal(storage, "reservations"), thread, lambda attempt, index, message: None)
    await reservations.take_over(void=False)
    reservations.request(0, Reserve(AttemptId(1, 1), "numbers", {"a": 100}))
    writing = asyncio.create_task(reservations.run())
    await eventually(lambda: storage.waiting)
    reservations.prune()
    assert reservations.positions == {}
    storage.gate.set()
    await eventually(lambda: reservations.positions == {"numbers": {"a": 100}})
    assert not writing.done()
    writing.cancel()
    thread.close()


async def test_a_clean_stop_or_a_fresh_start_makes_reservations_void(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__mode="AtMostOnce")
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        await started([first, second])
        first.send(Reserve(first.attempt, "numbers", {"a": 100}))
        await first.until(Reserved)
        await running.call("POST", "/v1/stop", {})
        assert await running.exit_code() == 0
        assert first.of(Complete)
    async with coordinator(tmp_path, job, resume=True) as running, workers(running) as (first, second):
        await started([first, second])
        assert reserved_in(first.of(Deploy)[0]) == {}
        first.send(Reserve(first.attempt, "numbers", {"a": 300}))
        await first.until(Reserved)
    # Resumed once, it has read on since: with the same wish again nothing may be read twice.
    async with coordinator(tmp_path, job, resume=True) as running, workers(running) as found:
        await started(found)
        assert reserved_in(found[0].of(Deploy)[0]) == {"a": 300}
    async with coordinator(tmp_path, job, fresh=True) as running, workers(running) as found:
        await started(found)
        assert reserved_in(found[0].of(Deploy)[0]) == {}


async def test_a_deposed_coordinator_grants_nothing(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__mode="AtMostOnce")
    async with coordinator(tmp_path, job) as old, workers(old) as orphans:
        await started(orphans)
        async with coordinator(tmp_path, job):
            reservations = Journal(storage_of(tmp_path), "reservations")
            await eventually(lambda: (tail := reservations.tail()) and tail.epoch == 2, "the reservations are fenced")
            orphans[0].send(Reserve(orphans[0].attempt, "numbers", {"a": 1}))
            assert await old.exit_code() == 3
            assert not orphans[0].of(Reserved)
