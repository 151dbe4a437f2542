"""Which checkpoint a new one may build on.

An incremental checkpoint names files of its *base*, the last completed one, instead of uploading them again; without a
base it is full. Nothing but the last completed checkpoint can be a base: it stays in `retained` until the new one has
been journalled, so none of its files can be deleted meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.coordinator.bootstrap import BOOTSTRAP_ATTEMPT


@dataclass(frozen=True)
class Increments:
    """The job's wishes about incremental checkpoints.

    Attributes:
        incremental: Whether there are any.
        full_every: Every n-th checkpoint is full; 0: none has to be.
    """

    incremental: bool = True
    full_every: int = 0

    def base(self, last: CheckpointManifest | None, parallelism: int) -> CheckpointManifest | None:
        """What the next checkpoint may build on; `None` if it is to be full.

        Args:
            last: The last completed checkpoint, or the savepoint that the job was stopped with.
            parallelism: Of the attempt that takes it.
        """
        if last is None or not self.incremental:
            return None
        # A savepoint belongs to its user, who may delete it. What the coordinator itself has made holds files that came from
        # elsewhere. And with another parallelism workers hold parts of several subtasks, in files of their own by now.
        if last.kind != "checkpoint" or last.attempt == BOOTSTRAP_ATTEMPT or last.parallelism != parallelism:
            return None
        if self.full_every and last.increments + 1 >= self.full_every:
            return None
        return last


__all__ = ["Increments"]
