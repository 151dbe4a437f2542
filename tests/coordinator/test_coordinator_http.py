"""The HTTP API: who may ask, what is answered."""

from __future__ import annotations

from pathlib import Path

from coordinator_kit import coordinator, job_of, started, workers
from prometheus_client.parser import text_string_to_metric_families

from checkdam.coordinator.http import ROUTES
from checkdam.coordinator.openapi import main, openapi_bytes, openapi_document
from checkdam.wire.messages import Complete, OperatorStats, Stats, Trigger


async def test_every_route_but_healthz_needs_the_token(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        for route in ROUTES:
            path = route.path.replace("{id}", "0")
            for header in ("", "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer ö"):
                status, body = await running.call(route.method, path, Authorization=header)
                assert status == (200 if path == "/healthz" else 401), path
                assert path == "/healthz" or "token" in body["error"]


async def test_a_host_header_that_names_somebody_else_is_refused(tmp_path: Path) -> None:
    async with coordinator(tmp_path, allowed_hosts=["coordinator.default.svc"]) as running:
        for host in ("evil.example", "evil.example:80", "10.0.0.1", "localhost.evil.example", ""):
            assert (await running.call("GET", "/healthz", Host=host))[0] == 421, host
        for host in ("localhost:1", "127.0.0.1", "[::1]:99", "LocalHost", "coordinator.default.svc:80"):
            assert (await running.call("GET", "/healthz", Host=host))[0] == 200, host


async def test_triggering_is_idempotent(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        first.acks = False
        assert await running.trigger(after=0) == (1, "SCHEDULED")
        trigger = await first.until(Trigger)
        for _ in range(2):
            assert await running.trigger(after=0) == (1, "IN_PROGRESS")
        first.ack(trigger)
        await first.until(Complete)
        assert await running.trigger(after=0) == (1, "COMPLETED")
        assert len(first.of(Trigger)) == 1
        first.acks = True
        assert await running.trigger(after=1) == (2, "SCHEDULED")
        await first.until(Complete, 2)


async def test_a_trigger_waits_for_min_pause(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__minPause="200ms")
    async with coordinator(tmp_path, job) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/checkpoints", {})
        await found[0].until(Complete)
        await running.call("POST", "/v1/checkpoints", {})
        await found[0].until(Complete, 2)
        _, [_, first, second] = await running.call("GET", "/v1/checkpoints")
        assert second["triggeredMs"] - first["triggeredMs"] >= 195


async def test_a_trigger_is_refused_while_nothing_runs(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        status, body = await running.call("POST", "/v1/checkpoints", {"after": 0})
        assert status == 409
        assert "it is STARTING" in body["error"]


async def test_wrong_requests_are_answered_with_what_is_wrong(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        assert (await running.call("POST", "/v1/stop", {"checkpoint": "yes"}))[0] == 400
        assert (await running.call("GET", "/v1/checkpoints/99"))[0] == 404
        assert (await running.call("GET", "/v1/checkpoints/x"))[0] == 404
        status, body = await running.call("GET", "/v1/nothing")
        assert (status, "error" in body) == (404, True)
        assert (await running.call("DELETE", "/v1/job"))[0] == 405


async def test_operators_and_metrics_sum_what_workers_report(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        await running.call("POST", "/v1/checkpoints", {})
        await first.until(Complete)
        for worker, watermark_ms in ((first, 5_000), (second, 3_000)):
            stats = OperatorStats("count", 10, 4, 1, 2, 1_500, watermark_ms)
            worker.send(Stats(worker.attempt, [stats], 1_000_000, 7, rejected_peers=1))
        for _ in range(200):
            _, operators = await running.call("GET", "/v1/operators")
            if operators[1]["recordsIn"] == 20:
                break
        assert operators[1] == {
            "id": "count", "kind": "aggregate", "recordsIn": 20, "recordsOut": 8, "lateRecords": 2,
            "skippedRecords": 4, "busyMs": 3_000, "watermarkMs": 3_000,
        }  # fmt: skip
        status, text = await running.call("GET", "/metrics")
        assert status == 200
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        }
        job = ("job_id", "default/test")
        assert samples["checkdam_job_operator_records_in_total", job, ("operator", "count")] == 20
        assert samples["checkdam_job_operator_watermark_seconds", job, ("operator", "count")] == 3
        assert samples["checkdam_job_state", job, ("state", "RUNNING")] == 1
        assert samples["checkdam_job_checkpoints_completed_total", job] == 1
        assert samples["checkdam_job_last_checkpoint_id", job] == 1
        assert samples["checkdam_job_rejected_peers_total", job] == 2
        _, [attempt] = await running.call("GET", "/v1/attempts")
        assert (attempt["state"], attempt["restoredCheckpoint"], attempt["restoredBytes"]) == ("RUNNING", 0, 20)
        assert (await running.call("GET", "/v1/openapi.json"))[1]["openapi"] == "3.1.0"


def test_the_openapi_document_in_docs_is_the_generated_one(tmp_path: Path) -> None:
    stored = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert stored.read_bytes() == openapi_bytes(), "run `python -m checkdam.coordinator.openapi docs/openapi.json`"
    assert main([str(tmp_path / "openapi.json")]) == 0
    assert (tmp_path / "openapi.json").read_bytes() == openapi_bytes()


def test_the_openapi_document_describes_every_route() -> None:
    document = openapi_document()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "restoredFrom" in document["components"]["schemas"]["JobView"]["properties"]
