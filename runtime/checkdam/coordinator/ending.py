"""How a coordinator's work ends: as data, for the API, the outcome file and whoever started the process.

Whether a job may be started again, and by what wish, depends on why it ended; that is told apart here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from checkdam.coordinator.checkpoints import CheckpointRecord
from checkdam.coordinator.views import JobState, Refusal
from checkdam.core.errors import (
    CheckdamError,
    DeposedError,
    DrainedError,
    IncompatibleCheckpointError,
    OutOfTouchError,
    SourceError,
    StorageError,
    SupersededError,
)

EXIT_OK: Final = 0
"""The job has finished, or was stopped as asked; or the coordinator has left it."""

EXIT_FAILED: Final = 1
"""The job has failed, could not start, or could not be stopped as asked."""

EXIT_DEPOSED: Final = 3
"""Another coordinator owns the job; starting this one again would take it back."""

OUTCOME_FILE: Final = "outcome.json"
"""In the run directory: how the job ended, as JSON (`Ending`)."""


class UnusableHostError(CheckdamError):
    """The coordinator cannot listen where it was told to."""


EndState = Literal["FINISHED", "STOPPED", "FAILED", "DEPOSED", "NOT_RESUMED", "LEFT"]


class Ending(msgspec.Struct, frozen=True):
    """How it ended; the content of the outcome file.

    Attributes:
        state: FINISHED, STOPPED, FAILED or DEPOSED; NOT_RESUMED where the job was stopped before and waits to be resumed; LEFT where the
            coordinator was told to go and the job goes on without it.
        message: For people.
        exit_code: Of the process.
        refusal: As in `JobView`.
        retryable: As in `JobView`.
        checkpoint: Folder of the last checkpoint in the job's storage; empty if there is none.
        last_checkpoint: Its number; `None` if there is none.
        drained: Whether the last checkpoint is a savepoint for which the job was drained, which does not go on by itself.
        stopped_with: Uri of the last checkpoint, where the journal holds it as what the job was stopped with.
        restored_from: Uri of the checkpoint that this coordinator began with; empty if it did not come so far.
        epoch: The coordinator's; 0 if it did not come so far.
        record: What the API showed of the last checkpoint.
    """

    state: EndState
    message: str
    exit_code: int = EXIT_OK
    refusal: Refusal = ""
    retryable: bool = False
    checkpoint: str = ""
    last_checkpoint: int | None = None
    drained: bool = False
    stopped_with: str = ""
    restored_from: str = ""
    epoch: int = 0
    record: CheckpointRecord | None = None

    @property
    def job_state(self) -> JobState:
        """What the API calls it."""
        match self.state:
            case "FINISHED" | "STOPPED" | "FAILED":
                return self.state
            case "DEPOSED" | "NOT_RESUMED":
                return "FAILED"
            case "LEFT":
                return "STOPPING"

    @property
    def stands(self) -> bool:
        """Whether the same coordinator, started again, has nothing else to do than to say the same."""
        return self.state != "LEFT" and not self.retryable


def ending_of(error: CheckdamError, *, while_loading: bool = False) -> Ending:
    """How it ends with `error`.

    Args:
        error: What was raised.
        while_loading: It was raised before there was a graph.
    """
    text = str(error)
    if isinstance(error, SupersededError):
        # Where clocks have gone back it is the one that is wanted, and whoever wants it starts another in its place.
        return Ending("FAILED", text, EXIT_DEPOSED, retryable=True)
    if isinstance(error, DeposedError):
        return Ending("DEPOSED", text, EXIT_DEPOSED, "Deposed")
    if while_loading:
        return Ending("FAILED", text, EXIT_FAILED, "Program")
    if isinstance(error, DrainedError):
        return Ending("FAILED", text, EXIT_FAILED, "Drained")
    if isinstance(error, IncompatibleCheckpointError):
        return Ending("FAILED", text, EXIT_FAILED, "Incompatible")
    passing = isinstance(error, StorageError | OutOfTouchError | SourceError | UnusableHostError)
    return Ending("FAILED", text, EXIT_FAILED, retryable=passing)


def recorded_ending(run_dir: Path) -> Ending | None:
    """How a coordinator that was started with this run directory before has ended; `None` if none said so."""
    try:
        return msgspec.json.decode((run_dir / OUTCOME_FILE).read_bytes(), type=Ending)
    except (OSError, msgspec.DecodeError):
        return None


__all__ = [
    "EXIT_DEPOSED",
    "EXIT_FAILED",
    "EXIT_OK",
    "OUTCOME_FILE",
    "EndState",
    "Ending",
    "UnusableHostError",
    "ending_of",
    "recorded_ending",
]
