"""What a manifest means: defaults, accessors and the job's identity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from spec_samples import manifest

from checkdam.spec import ExponentialDelay, FailureRate, FixedDelay, Never, StreamJob, parse_manifest


def test_the_smallest_manifest_needs_an_entrypoint_and_a_storage_only() -> None:
    job = parse_manifest(manifest())

    spec = job.spec
    assert (spec.program.module, spec.program.function, spec.program.args) == ("flight_delays", "build", {})
    assert (spec.parallelism, spec.max_parallelism, spec.suspend) == (1, 128, False)
    assert (spec.allow_pickle, spec.allow_non_restored_state) == (True, False)
    assert (spec.state_backend.type, spec.state_backend.rocksdb.memory_bytes) == ("hashmap", 256 * 2**20)
    checkpoint = spec.checkpoint
    assert (checkpoint.interval_ms, checkpoint.timeout_ms, checkpoint.min_pause_ms) == (10_000, 600_000, 0)
    assert (checkpoint.mode, checkpoint.retain, checkpoint.tolerable_failures) == ("ExactlyOnce", 3, 0)
    assert (checkpoint.incremental, checkpoint.on_corrupt) == (True, "Fail")
    assert checkpoint.storage.scheme == "file"
    assert spec.runtime.channel_credit_bytes == 512 * 1024
    assert (spec.runtime.batch_size, spec.runtime.heartbeat_timeout_ms) == (4096, 10_000)


def test_the_job_id_is_namespace_and_name_unless_it_is_given() -> None:
    assert parse_manifest(manifest()).job_id == "default/flight-delays"
    assert parse_manifest(manifest({"metadata.namespace": "prod"})).job_id == "prod/flight-delays"
    assert parse_manifest(manifest({"spec.jobId": "old-name"})).job_id == "old-name"


def test_sizes_and_durations_are_kept_as_written_and_given_as_numbers() -> None:
    job = parse_manifest(
        manifest(
            {
                "spec.stateBackend": {"type": "rocksdb", "rocksdb": {"memory": "1.5Gi"}},
                "spec.checkpoint.interval": "1m30s",
                "spec.runtime.channelCredit": 65536,
                "spec.checkpoint.storage": {"uri": "memory://", "memory": {"limit": "200M"}, "allowVolatile": True},
            }
        )
    )

    assert job.spec.state_backend.rocksdb.memory_bytes == 3 * 2**29
    assert job.spec.checkpoint.interval == "1m30s"
    assert job.spec.checkpoint.interval_ms == 90_000
    assert job.spec.runtime.channel_credit_bytes == 65536
    assert job.spec.checkpoint.storage.memory_limit_bytes == 200_000_000


@pytest.mark.parametrize(
    ("restart", "strategy"),
    [
        ({}, ExponentialDelay(1_000, 60_000, 2.0, 0.1, 600_000)),
        (
            {"initialDelay": "50ms", "maxDelay": "2s", "multiplier": 3, "jitter": 0.0},
            ExponentialDelay(50, 2_000, 3.0, 0.0, 600_000),
        ),
        ({"strategy": "FixedDelay"}, FixedDelay(1_000, 1)),
        ({"strategy": "FixedDelay", "delay": "0s", "attempts": 7}, FixedDelay(0, 7)),
        ({"strategy": "FailureRate", "failures": 3, "interval": "5m"}, FailureRate(3, 300_000, 1_000)),
        ({"strategy": "Never"}, Never()),
    ],
)
def test_a_restart_strategy_is_resolved_with_its_own_defaults(restart: dict[str, object], strategy: object) -> None:
    assert parse_manifest(manifest({"spec.restart": restart})).spec.restart.resolved() == strategy


def test_a_job_written_out_with_its_defaults_is_the_same_job() -> None:
    job = parse_manifest(
        manifest(
            {
                "spec.restart": {"strategy": "FailureRate", "failures": 2},
                "spec.program.args": {"window": "1h", "limits": [1, None, {"a": True}]},
                "spec.worker.env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "spec.worker.podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}},
            }
        )
    )

    assert parse_manifest(job.to_manifest()) == job
    assert job.to_manifest()["spec"]["worker"]["env"][0]["valueFrom"] == {"secretKeyRef": {"name": "s", "key": "k"}}


def test_defaults_given_or_left_out_make_the_same_essence() -> None:
    def essence(job: StreamJob) -> dict[str, Any]:
        return job.spec.model_dump(exclude_defaults=True, by_alias=True, mode="json")

    job = parse_manifest(
        manifest({"spec.checkpoint.storage": {"uri": "s3://bucket", "s3": {}}, "spec.worker.env": [{"name": "A"}]})
    )

    assert essence(parse_manifest(job.to_manifest())) == essence(job)
    assert essence(job) == {
        "program": {"entrypoint": "flight_delays:build"},
        "checkpoint": {"storage": {"uri": "s3://bucket", "s3": {}}},
        "worker": {"env": [{"name": "A"}]},
    }


def test_new_versions_may_go_back_and_have_ten_minutes_unless_told_otherwise() -> None:
    upgrade = parse_manifest(manifest()).spec.upgrade

    assert (upgrade.mode, upgrade.rollback, upgrade.progress_deadline_ms) == ("Savepoint", True, 600_000)


@pytest.mark.parametrize(
    ("savepoints", "due"),
    [
        ({}, None),
        ({"interval": "1h30m"}, datetime(2026, 3, 1, 13, 30, 5, tzinfo=UTC)),
        ({"schedule": "0 3 * * *"}, datetime(2026, 3, 2, 3, tzinfo=UTC)),
        ({"schedule": "*/30 8-18 * * MON-fri"}, datetime(2026, 3, 2, 8, tzinfo=UTC)),
    ],
)
def test_savepoints_by_the_clock_are_due_by_interval_or_schedule(
    savepoints: dict[str, str], due: datetime | None
) -> None:
    sunday_noon = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)

    assert parse_manifest(manifest({"spec.savepoints": savepoints})).spec.savepoints.next_after(sunday_noon) == due


def test_a_schedule_is_in_utc_whatever_the_last_savepoint_was_noted_in() -> None:
    savepoints = parse_manifest(manifest({"spec.savepoints": {"schedule": "0 3 * * *"}})).spec.savepoints
    last = datetime(2026, 3, 1, 1, 0, tzinfo=timezone(timedelta(hours=-5)))

    assert savepoints.next_after(last) == datetime(2026, 3, 2, 3, tzinfo=UTC)


def test_null_means_left_out_as_it_does_for_the_api_server() -> None:
    assert parse_manifest(manifest({"spec.parallelism": None, "spec.restart": None})) == parse_manifest(manifest())


def test_a_manifest_read_back_from_the_api_server_is_accepted() -> None:
    job = parse_manifest(
        manifest(
            {
                "metadata.uid": "5b1e",
                "metadata.generation": 4,
                "metadata.managedFields": [{"manager": "kubectl"}],
                "metadata.creationTimestamp": "2026-01-01T00:00:00Z",
                "status": {"state": "RUNNING"},
            }
        )
    )

    assert job.metadata.uid == "5b1e"
