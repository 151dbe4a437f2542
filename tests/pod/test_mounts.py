"""What becomes of a pod's mounts and environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from checkdam.coordinator.config import Addresses, CoordinatorConfig, read_secret
from checkdam.core.errors import CheckdamError
from checkdam.pod.mounts import Mounts, coordinator_config, count_start, leave_patience_s, worker_config

ENVIRONMENT = {
    "CHECKDAM_POD_NAME": "words-w3-abcde",
    "CHECKDAM_POD_IP": "10.1.2.3",
    "CHECKDAM_INDEX": "3",
    "CHECKDAM_COORDINATOR": "10.96.0.7:6470",
}


@pytest.fixture
def mounts(tmp_path: Path) -> Mounts:
    job = tmp_path / "etc/checkdam/job"
    job.mkdir(parents=True)
    (job / "streamjob.json").write_text(json.dumps({"metadata": {"name": "words", "namespace": "team"}}))
    (tmp_path / "var/lib/checkdam").mkdir(parents=True)
    return Mounts(tmp_path)


def config(mounts: Mounts, start: Any = None, number: int = 1, **environment: str) -> CoordinatorConfig:
    wish = {} if start is None else {"CHECKDAM_START": json.dumps(start)}
    return coordinator_config(mounts, ENVIRONMENT | wish | environment, number)


def test_a_worker_listens_on_the_pods_address_and_keeps_its_files_as_long_as_the_pod_lives(mounts: Mounts) -> None:
    found = worker_config(mounts, ENVIRONMENT)
    assert (found.index, found.host, found.data_port, found.name) == (3, "10.1.2.3", 6472, "words-w3-abcde")
    assert found.coordinator_address() == ("10.96.0.7", 6470)
    assert found.local_folder == mounts.root / "var/lib/checkdam/local"
    assert (found.stays, found.leave_patience_s) == (True, 55)


def test_the_address_of_a_coordinator_may_be_one_of_ipv6(mounts: Mounts) -> None:
    found = worker_config(mounts, ENVIRONMENT | {"CHECKDAM_COORDINATOR": "[fd00::7]:6470"})
    assert found.coordinator_address() == ("fd00::7", 6470)
    assert config(mounts, CHECKDAM_POD_IP="fd00::1").host == "::"


def test_a_coordinator_begins_as_it_is_wished(mounts: Mounts) -> None:
    wish = {
        "resume": True,
        "restoreFrom": "s3://b/sp",
        "request": "r7",
        "expectedCheckpoint": "chk-3-1.1-0",
        "later": 1,
    }
    found = config(mounts, wish)
    assert (found.resume, found.fresh, found.restore_from, found.request) == (True, False, "s3://b/sp", "r7")
    assert (found.expected_checkpoint, found.start_count, found.since_epoch) == ("chk-3-1.1-0", 1, 0)
    assert (found.on_signal, found.linger, found.external_schedule) == ("leave", True, True)
    assert {"10.1.2.3", "words-coordinator", "words-coordinator.team.svc"} <= set(found.allowed_hosts)
    assert not config(mounts).resume


def test_a_wish_that_is_none_is_refused(mounts: Mounts) -> None:
    for text in ("{", "[]", '{"resume": "perhaps"}'):
        with pytest.raises(CheckdamError, match="CHECKDAM_START must be the wish to start"):
            coordinator_config(mounts, ENVIRONMENT | {"CHECKDAM_START": text}, 1)


def test_starts_of_later_pods_have_greater_numbers_than_those_of_earlier_ones(mounts: Mounts) -> None:
    numbers = [config(mounts, {"startNumber": pod}, start).start_count for pod in (1, 2, 3) for start in (1, 2, 500)]
    assert numbers == sorted(set(numbers))
    assert [count_start(mounts) for _ in range(3)] == [1, 2, 3]


def test_a_wish_holds_until_the_latest_coordinator_that_had_it(mounts: Mounts) -> None:
    addresses = mounts.run_dir / "coordinator.json"
    addresses.write_bytes(msgspec.json.encode(Addresses("10.1.2.3", 6470, "10.1.2.3", 6471, 17, 12)))
    assert config(mounts, {"sinceEpoch": 5}).since_epoch == 12
    assert config(mounts, {"sinceEpoch": 14}).since_epoch == 14


def test_a_programs_files_are_where_they_are_mounted(mounts: Mounts) -> None:
    assert config(mounts).base_folder == str(mounts.root / "var/lib/checkdam/program")
    (mounts.root / "etc/checkdam/program").mkdir()
    assert config(mounts).base_folder == str(mounts.root / "etc/checkdam/program")


@pytest.mark.parametrize(
    ("grace_s", "patience_s"),
    [(None, 55), (60, 55), (600, 595), (20, 15), (8, 6), (1, 0.75), (0, 55), ("x", 55), (True, 55)],
)
def test_a_process_ends_before_the_kubelet_ends_it(grace_s: Any, patience_s: float) -> None:
    template = {} if grace_s is None else {"spec": {"terminationGracePeriodSeconds": grace_s}}
    assert leave_patience_s({"spec": {"worker": {"podTemplate": template}}}, "worker") == patience_s
    assert leave_patience_s({"spec": {"worker": None}}, "worker") == 55


def test_a_manifest_that_is_not_there_or_none_is_named(mounts: Mounts) -> None:
    path = mounts.root / "etc/checkdam/job/streamjob.json"
    path.write_text("[]")
    with pytest.raises(CheckdamError, match=r"streamjob\.json is not one"):
        config(mounts)
    path.unlink()
    with pytest.raises(CheckdamError, match=r"streamjob\.json cannot be read: No such file"):
        config(mounts)


def test_a_secret_that_kubernetes_mounts_is_read_and_one_that_all_may_read_is_not(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret")
    path.chmod(0o440)
    assert read_secret(path, group_may_read=True) == b"s3cret"
    for mode in (0o444, 0o460):
        path.chmod(mode)
        with pytest.raises(CheckdamError, match="must have mode 0600"):
            read_secret(path, group_may_read=True)


def test_how_many_workers_a_job_is_to_have_is_told_to_its_coordinator_and_not_to_its_revision(mounts: Mounts) -> None:
    manifest = mounts.root / "etc/checkdam/job/streamjob.json"
    manifest.write_text(json.dumps({"metadata": {"name": "words"}, "spec": {"maxParallelism": 8}}))
    found = config(mounts, {"parallelism": 3})
    assert found.manifest["spec"] == {"maxParallelism": 8, "parallelism": 3}
    assert "parallelism" not in config(mounts).manifest["spec"]
    # What it was told while it ran is newer than what its pod was created with.
    (mounts.run_dir / "parallelism").write_text("5")
    assert config(mounts, {"parallelism": 3}).manifest["spec"]["parallelism"] == 5
