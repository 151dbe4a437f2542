"""What of a checkpoint is not restored as it stands, because more is known of it than it says. Pure.

What its sinks had prepared may be known to be committed: then nobody needs to commit it again, or to find it where it was,
since output that is done may have been moved on. And where the job was drained, the watermarks in it are not those of the
input: the next records of its sources would all be late.
"""

from __future__ import annotations

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.core.batch import MIN_TIME


def without_committables(manifest: CheckpointManifest) -> CheckpointManifest:
    """`manifest` with nothing left to commit."""
    settled = {info.id for info in manifest.operators if info.two_phase}
    subtasks = [
        msgspec.structs.replace(
            snapshot, operators={name: data for name, data in snapshot.operators.items() if name not in settled}
        )
        for snapshot in manifest.subtasks
    ]
    return msgspec.structs.replace(manifest, subtasks=subtasks)


def with_event_time_back(manifest: CheckpointManifest) -> CheckpointManifest:
    """`manifest`, of a job that was drained, with no key group as far in event time as draining brought it.

    What the splits themselves had reached is untouched by draining, and counts on: from there on watermarks rise again.
    """
    subtasks = [
        msgspec.structs.replace(snapshot, watermark_ms=MIN_TIME, group_watermarks=[]) for snapshot in manifest.subtasks
    ]
    return msgspec.structs.replace(manifest, subtasks=subtasks, drained=False)


__all__ = ["with_event_time_back", "without_committables"]
