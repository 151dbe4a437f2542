"""How a job ends, by what the journal and its last attempt say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from checkdam.coordinator.attempt import AttemptEnd, Finished, Stopped
from checkdam.coordinator.deployment import Deployment


@dataclass(frozen=True)
class Outcome:
    """How the job ended.

    Attributes:
        state: FINISHED, STOPPED or FAILED; LEFT where the job goes on under another coordinator.
        message: One for people.
        clean: Whether everything went as asked.
        journalled: Whether the journal holds that the job was stopped, so that it does not go on by itself.
    """

    state: Literal["FINISHED", "STOPPED", "FAILED", "LEFT"]
    message: str
    clean: bool = True
    journalled: bool = False


LEFT: Final = Outcome("LEFT", "the coordinator has left; the job goes on from its last checkpoint under another one")


@dataclass(frozen=True)
class StopWish:
    """Somebody wants the job to stop.

    Attributes:
        checkpoint: After a last checkpoint.
        insist: Even if that fails.
    """

    checkpoint: bool
    insist: bool


def outcome_of(deployment: Deployment, end: AttemptEnd) -> Outcome | None:
    """How the job has ended, by what the journal and the attempt say; `None` if it goes on."""
    if isinstance(end, Finished) or deployment.journalled_finish:
        return Outcome("FINISHED", "all input has been read and all output is committed")
    if isinstance(end, Stopped) and end.checkpoint is None and deployment.journalled_stop is None:
        return Outcome("STOPPED", end.problem or "stopped without a last checkpoint", not end.problem)
    if deployment.journalled_stop is not None:
        problem = "not all sinks have committed yet; that is made good when the job is resumed"
        if isinstance(end, Stopped) and end.checkpoint is not None:
            problem = end.problem
        message = f"stopped with checkpoint {deployment.journalled_stop}"
        return Outcome("STOPPED", f"{message}; {problem}" if problem else message, journalled=True)
    return None


__all__ = ["LEFT", "Outcome", "StopWish", "outcome_of"]
