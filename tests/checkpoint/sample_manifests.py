"""Manifests of checkpoints that no job has taken."""

from __future__ import annotations

from typing import Any

from checkdam.checkpoint.manifest import FORMAT_VERSION, CheckpointManifest


def sample_manifest(number: int = 1, **fields: Any) -> CheckpointManifest:
    """Checkpoint `number` of a job with one worker, without operators or state, but for what `fields` say."""
    return CheckpointManifest(
        **{
            "version": FORMAT_VERSION,
            "job_id": "default/job",
            "id": number,
            "epoch": 1,
            "attempt": 1,
            "parallelism": 1,
            "max_parallelism": 128,
            "mode": "ExactlyOnce",
            "created_ms": number,
            "fingerprint": "",
            "operators": [],
        }
        | fields
    )
