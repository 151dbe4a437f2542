"""What a run tells while it goes on, where there is no terminal."""

from __future__ import annotations

from typing import Any, cast

import pytest

from checkdam.local.api import CoordinatorApi
from checkdam.local.progress import PlainDisplay
from checkdam.spec import parse_manifest

JOB = parse_manifest(
    {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": "job"},
        "spec": {"program": {"entrypoint": "job:build"}, "checkpoint": {"storage": {"uri": "file:///checkpoints"}}},
    }
)


class Coordinator:
    """Answers as a coordinator does."""

    def __init__(self) -> None:
        self.problem = ""

    async def get(self, path: str) -> Any:
        if path != "/v1/job":
            return []
        return {
            "state": "FINISHING",
            "epoch": 1,
            "attempt": 1,
            "restarts": 0,
            "restoredFrom": "",
            "lastFailure": None,
            "checkpointProblem": self.problem,
        }


async def test_checkpoints_that_fail_are_told_once_until_one_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    coordinator, display = Coordinator(), PlainDisplay(JOB)
    for problem in ("", "the disk is full", "the disk is still full", "", "it is full again", ""):
        coordinator.problem = problem
        await display.update(cast(CoordinatorApi, coordinator))
    told = [line for line in capsys.readouterr().err.splitlines() if "checkpoint has failed" in line]
    assert told == [
        "checkdam: a checkpoint has failed, and is tried again: the disk is full",
        "checkdam: a checkpoint has failed, and is tried again: it is full again",
    ]
