"""Which changes of a spec make pods anew, and which do not."""

from __future__ import annotations

from typing import Any

import pytest
from resource_jobs import UID, job, manifest

from checkdam.spec import StreamJobSpec, parse_manifest
from checkdam_operator.resources import config
from checkdam_operator.resources.hashes import deploy_hash, deployed_spec, only_rescaled

STORAGE = {"storage": {"uri": "s3://checkpoints/jobs"}}

REDEPLOYED: dict[str, Any] = {
    "image": "registry.example/flight-delays:2",
    "jobId": "flights",
    "program": {"entrypoint": "flight_delays:build", "args": {"window": "2h"}},
    "parallelism": 2,
    "maxParallelism": 64,
    "stateBackend": {"type": "rocksdb"},
    "checkpoint": STORAGE | {"interval": "20s"},
    "restart": {"strategy": "Never"},
    "restartNonce": "again",
    "allowPickle": False,
    "allowNonRestoredState": True,
    "worker": {"env": [{"name": "TZ", "value": "UTC"}]},
    "coordinator": {"podTemplate": {"spec": {"priorityClassName": "high"}}},
    "serviceAccountName": "streams",
    "runtime": {"batchSize": 100},
}
"""Field of the spec → another value of it, which the processes of the job or its pods must learn of."""

KEPT: dict[str, Any] = {
    "suspend": True,
    "upgrade": {"mode": "LastState"},
    "savepoints": {"interval": "1h"},
    "restoreFrom": "Fresh",
    "networkPolicy": {"enabled": False},
}
"""Field of the spec → another value of it, which only the operator reads."""


def test_every_field_of_the_spec_is_known_here() -> None:
    fields = {info.alias for info in StreamJobSpec.model_fields.values()}
    assert fields == REDEPLOYED.keys() | KEPT.keys()


@pytest.mark.parametrize("field", REDEPLOYED)
def test_a_change_that_the_pods_must_learn_of_changes_the_hash(field: str) -> None:
    assert deploy_hash(job({field: REDEPLOYED[field]})) != deploy_hash(job())


@pytest.mark.parametrize("field", KEPT)
def test_a_change_that_only_the_operator_reads_does_not(field: str) -> None:
    changed = job({field: KEPT[field]})
    assert changed != job()
    assert deploy_hash(changed) == deploy_hash(job())


def test_the_disruption_budget_is_the_one_field_of_the_workers_that_only_the_operator_reads() -> None:
    budget = {"disruptionBudget": {"maxUnavailable": 3}}
    assert deploy_hash(job({"worker": budget})) == deploy_hash(job())
    assert deploy_hash(job({"worker": budget | REDEPLOYED["worker"]})) == deploy_hash(
        job({"worker": REDEPLOYED["worker"]})
    )


def test_defaults_that_the_api_server_fills_in_do_not_change_the_hash() -> None:
    for spec in (REDEPLOYED, {}):
        as_written = job(spec)
        filled_in = parse_manifest(as_written.to_manifest())
        assert len(filled_in.to_manifest()["spec"]) > len(manifest(spec)["spec"])
        assert deploy_hash(filled_in) == deploy_hash(as_written)


def test_the_order_of_fields_and_the_metadata_do_not_change_the_hash() -> None:
    one = manifest({"program": {"entrypoint": "a:b", "args": {"x": 1, "y": 2}}})
    two = manifest({"program": {"args": {"y": 2, "x": 1}, "entrypoint": "a:b"}})
    two["metadata"]["labels"] = {"team": "flights"}
    assert deploy_hash(parse_manifest(one)) == deploy_hash(parse_manifest(two))


def test_the_hash_stays_the_same_for_ever() -> None:
    """Another hash would redeploy every job when the operator is upgraded."""
    assert deploy_hash(job(REDEPLOYED)) == "d547e613d58e156a"


def test_what_pods_read_gives_the_same_hash_and_the_same_name_again() -> None:
    live = job(REDEPLOYED | KEPT)
    stored = config.config_map(live, 4, "registry.example/flight-delays:2")
    deployed = config.deployed_job(stored)
    assert deploy_hash(deployed) == deploy_hash(job({**REDEPLOYED, "parallelism": 1}))
    assert deployed.job_id == live.job_id
    assert deployed.metadata.uid == UID
    assert config.manifest_name(deployed, UID, 4) == stored["metadata"]["name"]


def test_what_pods_read_has_no_field_that_was_not_given() -> None:
    """An image older than the operator does not know them."""
    assert deployed_spec(job(KEPT)) == manifest({})["spec"]


def test_another_manifest_or_revision_has_a_config_map_of_another_name() -> None:
    found = {
        config.manifest_name(job(), UID, 1),
        config.manifest_name(job(), UID, 2),
        config.manifest_name(job({"restartNonce": "2"}), UID, 1),
    }
    assert len(found) == 3


def test_what_pods_read_does_not_say_how_many_they_are() -> None:
    """They stay, and so does what is stored of them, when a job is rescaled; but something is to be done about it."""
    two, three = job({"parallelism": 2}), job({"parallelism": 3})
    assert config.config_map(two, 1, "image") == config.config_map(three, 1, "image")
    assert deploy_hash(two) != deploy_hash(three)


def test_the_image_that_was_deployed_is_kept_beside_the_manifest() -> None:
    stored = config.config_map(job(), 1, "registry.example/checkdam-runtime:1.0")
    assert config.deployed_image(stored) == "registry.example/checkdam-runtime:1.0"
    assert config.deployed_job(stored).spec.image == ""


def test_a_job_of_which_only_the_parallelism_differs_was_rescaled() -> None:
    assert only_rescaled(job(), 1, job({"parallelism": 2}))
    assert only_rescaled(job(), 4, job({"suspend": True}))


def test_what_counts_is_how_many_workers_are_deployed_and_not_what_a_manifest_says_of_it() -> None:
    """Pods of an operator that stored it read a manifest that says so."""
    assert only_rescaled(job({"parallelism": 4}), 4, job({"parallelism": 2}))
    assert not only_rescaled(job({"parallelism": 4}), 2, job({"parallelism": 2}))


def test_a_job_that_differs_otherwise_or_not_at_all_was_not_rescaled() -> None:
    assert not only_rescaled(job(), 1, job())
    assert not only_rescaled(job(), 1, job({"image": "x"}))
    assert not only_rescaled(job(), 1, job({"image": "x", "parallelism": 2}))
    assert not only_rescaled(job(), 2, job({"parallelism": 2}))
