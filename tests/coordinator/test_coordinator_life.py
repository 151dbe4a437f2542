"""A coordinator over real sockets and file storage, with scripted workers: the life of a job."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from coordinator_kit import (
    Numbers,
    Worker,
    coordinator,
    ending_at_once,
    eventually,
    graph_of,
    job_of,
    journal_kinds,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import FileHandle
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.connectors.base import Split
from checkdam.coordinator.redistribution import splits_of
from checkdam.core.batch import MIN_TIME
from checkdam.graph.model import Graph, Node, SourceSpec
from checkdam.wire.messages import (
    AssignSplits,
    Committed,
    Complete,
    Deploy,
    Drop,
    Ended,
    Failed,
    Peers,
    Prepare,
    RequestSplits,
    Shutdown,
    Start,
    Trigger,
)


async def test_a_job_runs_from_registration_to_finished(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        assert [type(message) for message in first.received] == [type(first.welcome), Deploy, Peers, Start]
        deploy = first.of(Deploy)[0]
        assert deploy.restore is not None
        assert (deploy.restore.id, deploy.index, deploy.parallelism) == (0, 0, 2)
        assert [list(address) for address in first.of(Peers)[0].addresses] == [
            ["127.0.0.1", 40000],
            ["127.0.0.1", 40001],
        ]
        first.send(RequestSplits(first.attempt, "numbers"))
        assert (await first.until(AssignSplits)).splits == [("a", {"path": "a"}, None)]
        first.ended()
        second.ended()
        trigger = await second.until(Trigger)
        complete = await second.until(Complete)
        assert complete.checkpoint == trigger.checkpoint == 1
        await first.until(Shutdown)
        assert await running.exit_code() == 0
        assert running.ending().state == "FINISHED"
    assert journal_kinds(tmp_path) == ["fence", "checkpoint", "checkpoint", "finished"]


async def test_checkpoint_0_holds_the_splits_before_anything_is_deployed(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        await running.until_state("STARTING")
        await eventually(lambda: (tail := Journal(storage_of(tmp_path)).tail()) and tail.checkpoint)
        tail = Journal(storage_of(tmp_path)).tail()
        assert tail is not None
        manifest = CheckpointStore(storage_of(tmp_path), "default/test").read_manifest(tail.checkpoint)
        assert manifest.id == 0
        assert [name for name, _ in manifest.sources["numbers"].unassigned] == ["a", "b", "c"]


async def test_periodic_checkpoints_hold_states_and_the_splits_that_nobody_has(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__interval="40ms", checkpoint__retain=2)
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        first.send(RequestSplits((await first.until(Start)).attempt, "numbers"))
        await first.until(AssignSplits)
        await second.until(Complete, 3)
        assert first.of(Prepare)[0].checkpoint == 1
        triggers = first.of(Trigger)
        assert [trigger.base for trigger in triggers[:3]] == [-1, 1, 2], "checkpoint 0 is the coordinator's own"
        complete = first.of(Complete)[2].checkpoint
        store = CheckpointStore(storage_of(tmp_path), "default/test")
        manifest = store.read_manifest(triggers[complete - 1].folder)
        assert [name for name, _ in manifest.sources["numbers"].unassigned] == ["b", "c"]
        assert {(s.stage, s.subtask) for s in manifest.subtasks} == {
            (s, i) for s in ("numbers", "count") for i in (0, 1)
        }
        await eventually(lambda: not store.storage.exists(f"{triggers[0].folder}/_metadata"), "the oldest goes")
        tail = Journal(storage_of(tmp_path)).tail()
        assert tail is not None
        assert len(tail.retained) == 2


async def test_a_failed_attempt_is_dropped_and_followed_by_one_from_the_last_checkpoint(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        assert (await running.call("POST", "/v1/checkpoints", {"after": 0}))[1]["id"] == 1
        await first.until(Complete)
        second.fail("user", "ValueError: boom")
        await first.until(Drop)
        await started([first, second], attempt=2)
        deploy = first.of(Deploy)[1]
        assert deploy.attempt.attempt == 2
        assert deploy.restore is not None
        assert deploy.restore.id == 1
        assert {snapshot.subtask for snapshot in deploy.restore.subtasks} == {0}
        view = await running.until_state("RUNNING")
        assert (view["restarts"], view["lastFailure"]["kind"], view["lastFailure"]["worker"]) == (1, "user", 1)


async def test_the_cause_of_a_failure_is_reported_even_if_its_consequence_came_first(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        first.fail("peer", "the connection to worker 1 broke")
        first.fail("process", "the task process exited with 1")
        second.fail("user", "ValueError: boom")
        await started([first, second], attempt=2)
        assert (await running.call("GET", "/v1/job"))[1]["lastFailure"]["error"] == "ValueError: boom"


async def test_a_consequence_whose_cause_nobody_knows_fails_the_attempt_all_the_same(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        first.fail("peer", "the connection to worker 1 broke")
        await started([first, second], attempt=2)
        assert (await running.call("GET", "/v1/job"))[1]["lastFailure"]["kind"] == "peer"


async def test_a_worker_that_comes_back_gets_the_next_attempt(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        await second.close()
        await first.until(Drop)
        assert await running.state() == "RESTARTING"
        again = await Worker(1, running.graph).connect(running.addresses)
        await again.until(Start)
        assert first.of(Deploy)[-1].attempt.attempt == 2
        await again.close()


async def test_a_job_fails_when_its_restart_strategy_gives_up(tmp_path: Path) -> None:
    job = job_of(tmp_path, restart={"strategy": "Never"})
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        await started([first, second])
        first.fail("user", "ValueError: boom")
        await second.until(Shutdown)
        assert await running.exit_code() == 1
        assert running.ending().state == "FAILED"
        assert "ValueError: boom" in running.ending().message


async def test_graphs_that_differ_fail_the_job_whatever_the_restart_strategy(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, 1):
        other = await Worker(1, running.graph, fingerprint="another").connect(running.addresses)
        assert await running.exit_code() == 1
        assert "worker 1 built another graph" in running.ending().message
        await other.close()


async def test_finished_is_journalled_only_when_all_sinks_have_committed(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        second.commits = False
        first.ended()
        second.ended()
        complete = await second.until(Complete)
        await running.until_state("FINISHING")
        assert journal_kinds(tmp_path)[-1] == "checkpoint"
        second.send(Committed(complete.attempt, complete.checkpoint))
        assert await running.exit_code() == 0
        assert journal_kinds(tmp_path)[-1] == "finished"


async def test_a_finished_job_is_not_run_again_but_starts_over_when_told_so(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        for worker in found:
            worker.ended()
        assert await running.exit_code() == 0
    ending = await ending_at_once(tmp_path)
    assert (ending.state, ending.exit_code) == ("FINISHED", 0)
    async with coordinator(tmp_path, fresh=True) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == 0


async def test_a_coordinator_started_again_with_the_same_fresh_wish_goes_on(tmp_path: Path) -> None:
    for life, expected in ((1, 0), (2, 1), (3, 2)):
        async with (
            coordinator(tmp_path, fresh=True, request="run-1", start_count=life) as running,
            workers(running) as found,
        ):
            await started(found)
            restore = found[0].of(Deploy)[0].restore
            assert restore is not None
            assert restore.id == expected
            await running.call("POST", "/v1/checkpoints", {})
            await found[0].until(Complete)


async def test_a_second_coordinator_deposes_the_first_which_commits_nothing_more(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as old, workers(old) as orphans:
        await started(orphans)
        async with coordinator(tmp_path) as new, workers(new) as found:
            await started(found)
            assert new.addresses.epoch > old.addresses.epoch
            await old.call("POST", "/v1/checkpoints", {})
            assert await old.exit_code() == 3
            assert not orphans[0].of(Complete)
            assert not orphans[0].of(Shutdown)
            await new.call("POST", "/v1/checkpoints", {})
            assert (await found[0].until(Complete)).attempt.epoch == new.addresses.epoch


async def test_a_deposed_coordinator_notices_while_it_has_nothing_to_commit(tmp_path: Path) -> None:
    job = job_of(tmp_path, runtime__heartbeatTimeout="100ms")
    async with coordinator(tmp_path, job) as old, coordinator(tmp_path, job):
        assert await old.exit_code() == 3


async def test_with_memory_storage_the_epoch_comes_from_outside_and_nothing_is_kept(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__storage={"uri": "memory://", "allowVolatile": True}, checkpoint__interval="30ms")
    for life in (3, 4):
        async with (
            coordinator(tmp_path, job, storage=MemoryStorage("default/test"), start_count=life) as running,
            workers(running) as found,
        ):
            assert running.addresses.epoch == life
            await found[0].until(Complete, 2)
            restore = found[0].of(Deploy)[0].restore
            assert restore is not None
            assert restore.id == 0


async def test_a_job_can_start_from_a_checkpoint_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    job = job_of(tmp_path / "elsewhere")
    async with coordinator(tmp_path / "elsewhere", job) as running, workers(running) as found:
        await started(found)
        for worker in found:
            worker.acks = False
        await running.call("POST", "/v1/checkpoints", {})
        storage = storage_of(tmp_path / "elsewhere")
        for worker in found:
            trigger = await worker.until(Trigger)
            local = tmp_path / f"upload-{worker.index}"
            local.write_bytes(b"keyed state")
            path = f"{trigger.folder}/{worker.index}-state"
            storage.put_file(path, local)
            digest = hashlib.sha256(b"keyed state").hexdigest()
            worker.ack(trigger, files=[FileHandle("state", 11, digest, path)])
        await found[0].until(Complete)
    uri = f"file://{tmp_path}/elsewhere/checkpoints/default/test"
    async with coordinator(tmp_path, restore_from=uri) as running, workers(running) as found:
        await started(found)
        restore = found[1].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == 2
        [handle] = [handle for snapshot in restore.subtasks for handle in snapshot.files]
        assert storage_of(tmp_path).read(handle.path) == b"keyed state"
        assert (await running.call("GET", "/v1/job"))[1]["restoredFrom"] == uri


async def test_a_source_that_was_added_gets_its_splits_committed_before_it_is_read(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/checkpoints", {})
        await found[0].until(Complete)
    graph = graph_of()
    extra = Node("letters", "source", None, source=SourceSpec(Numbers(["x"]), None))
    wider = Graph({**graph.nodes, "letters": extra}, graph.edges)
    ending = await ending_at_once(tmp_path, graph=wider)
    assert "`letters`" in ending.message
    assert "allowNonRestoredState" in ending.message
    job = job_of(tmp_path, allowNonRestoredState=True)
    async with coordinator(tmp_path, job, wider) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == 2
        assert {snapshot.stage for snapshot in restore.subtasks} == {"numbers", "count"}
        found[0].send(RequestSplits(found[0].attempt, "letters"))
        await eventually(lambda: [m for m in found[0].of(AssignSplits) if m.source == "letters" and m.splits])


async def test_a_damaged_checkpoint_stops_the_job_and_says_how_to_go_on(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/checkpoints", {})
        await found[0].until(Complete)
    tail = Journal(storage_of(tmp_path)).tail()
    assert tail is not None
    storage_of(tmp_path).delete([f"{tail.checkpoint}/_metadata"])
    ending = await ending_at_once(tmp_path)
    assert ending.state == "FAILED"
    assert "onCorrupt: FallBack" in ending.message
    assert tail.checkpoint in ending.message
    job = job_of(tmp_path, checkpoint__onCorrupt="FallBack")
    async with coordinator(tmp_path, job) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == 0
    assert "rollback" in journal_kinds(tmp_path)


async def test_a_file_found_damaged_while_restoring_falls_back_too(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__onCorrupt="FallBack")
    async with coordinator(tmp_path, job) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/checkpoints", {})
        await found[0].until(Complete)  # its inline state has a wrong SHA-256
    async with coordinator(tmp_path, job) as running, workers(running, readies=False) as (first, second):
        await first.until(Peers)
        first.readies = second.readies = True
        first.fail("fatal", "the state of `count` is damaged")
        await started([first, second])
        restore = first.of(Deploy)[1].restore
        assert restore is not None
        assert restore.id == 0


async def test_new_splits_of_an_unbounded_source_go_to_a_worker_that_waits(tmp_path: Path) -> None:
    source = Numbers(["a"], bounded=False, interval_ms=20)
    async with coordinator(tmp_path, graph=graph_of(source)) as running, workers(running) as (first, second):
        await started([first, second])
        first.send(RequestSplits(first.attempt, "numbers"))
        assert [s[0] for s in (await first.until(AssignSplits)).splits] == ["a"]
        second.send(RequestSplits(second.attempt, "numbers"))
        empty = await second.until(AssignSplits)
        assert (empty.splits, empty.exhausted, empty.more) == ([], True, True)
        source.found = ["a", "b"]
        assert [s[0] for s in (await second.until(AssignSplits, 2)).splits] == ["b"]


async def test_messages_of_an_earlier_attempt_are_ignored(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        old = first.attempt
        first.fail("user", "boom")
        await started([first, second], attempt=2)
        first.send(Failed(old, "late news", "user"))
        first.send(Ended(old))
        second.ended()
        await running.call("POST", "/v1/checkpoints", {})
        await first.until(Complete)
        assert (await running.call("GET", "/v1/job"))[1]["restarts"] == 1
        assert await running.state() == "RUNNING"


async def test_a_job_goes_on_with_another_parallelism_and_its_first_checkpoint_is_full(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await running.call("POST", "/v1/checkpoints", {})
        for worker, split in zip(found, "ab", strict=True):
            reading = {"splits": [[split, None, 7, MIN_TIME]], "start_ms": MIN_TIME}
            worker.ack(await worker.until(Trigger), operators={"numbers": msgspec.msgpack.encode(reading)})
        await found[0].until(Complete)

    job = job_of(tmp_path, parallelism=3)
    async with coordinator(tmp_path, job) as running, workers(running) as found:
        await started(found)
        parts = [worker.of(Deploy)[-1].restore for worker in found]
        await running.call("POST", "/v1/checkpoints", {})
        trigger = await found[0].until(Trigger)
        await found[0].until(Complete)
        again = (await running.call("POST", "/v1/checkpoints", {})) and await found[0].until(Trigger, 2)

    groups = [[s.key_groups for s in part.subtasks if s.key_groups] for part in parts if part is not None]
    assert groups == [[(0, 64)], [(0, 64), (64, 128)], [(64, 128)]]
    held = [splits_of(part.subtasks, "numbers") for part in parts if part is not None]
    assert held == [["a"], ["b"], []]
    assert (trigger.base, again.base) == (-1, trigger.checkpoint)


async def test_a_source_that_cannot_find_its_splits_is_named(tmp_path: Path) -> None:
    class Unreachable(Numbers):
        def splits(self, parallelism: int) -> list[Split]:
            raise ConnectionError("nobody there")

    ending = await ending_at_once(tmp_path, graph=graph_of(Unreachable([])))
    assert "source `numbers` cannot find its splits" in ending.message
    assert "nobody there" in ending.message
