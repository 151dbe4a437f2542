"""Every error that Checkdam raises on purpose.

::

    CheckdamError
    ├── ManifestError            a StreamJob that is wrong; lists all problems at once
    ├── PipelineError            a pipeline that cannot be built, or was built differently than before
    ├── EntrypointError          the user's module does not import, or its build function raised
    ├── KeyTypeError             a key of a type that has no stable encoding
    ├── ValueTypeError           a value that does not fit its declared type, or must not be pickled
    ├── UserCodeError            a user's function raised; names operator and record
    ├── SourceError              a source cannot say what there is to read
    ├── RecordError              an input record that cannot be parsed; names file and line
    ├── StorageError             checkpoint storage failed; carries operation, path and hint
    │   ├── AlreadyExistsError   a conditional create lost
    │   ├── NotFoundError        nothing is stored under that name
    │   └── UnknownOutcomeError  a write may or may not have happened
    ├── DeposedError             another coordinator owns the job now
    │   └── SupersededError      one of the same job that was started later
    ├── OutOfTouchError          the journal could not be reached for too long to go on
    ├── CheckpointError          a checkpoint failed or cannot be used
    │   ├── CorruptCheckpointError       a file is missing or its bytes changed
    │   └── IncompatibleCheckpointError  of another job, graph or state type
    │       └── DrainedError             a savepoint whose event time has come to its end
    └── AuthenticationError      a peer could not prove that it belongs to the job

Messages say what is wrong with which thing and value, and what to do about it; they never carry a secret.
"""

from __future__ import annotations

from collections.abc import Sequence


class CheckdamError(Exception):
    """The root of all errors that Checkdam raises on purpose."""


class ManifestError(CheckdamError):
    """A StreamJob that is wrong.

    Args:
        problems: One sentence for each problem: the field, what it must be, what it is.
        source: The file or the flags it came from, for the heading.
    """

    def __init__(self, problems: Sequence[str], source: str = "StreamJob") -> None:
        self.problems = list(problems)
        self.source = source
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{source} is not valid:\n{lines}")


class PipelineError(CheckdamError):
    """A pipeline that cannot be built."""


class EntrypointError(CheckdamError):
    """The user's entrypoint does not import, is not callable, or raised.

    Args:
        message: What failed, in one sentence.
        user_traceback: The traceback, of the user's frames alone.
    """

    def __init__(self, message: str, user_traceback: str = "") -> None:
        self.user_traceback = user_traceback
        super().__init__(f"{message}\n{user_traceback}" if user_traceback else message)


class KeyTypeError(CheckdamError, TypeError):
    """A key of a type that has no stable encoding."""


class ValueTypeError(CheckdamError, TypeError):
    """A value that does not fit its declared type, or that would need pickle where pickle is forbidden."""


class UserCodeError(CheckdamError):
    """A function that the user passed to an operator raised.

    Args:
        operator: The operator's name.
        record: `repr` of the record, cut to 200 characters.
        user_traceback: The traceback, of the user's frames alone.
    """

    def __init__(self, operator: str, record: str, user_traceback: str) -> None:
        self.operator = operator
        self.record = record
        self.user_traceback = user_traceback
        super().__init__(f"operator `{operator}` failed on record {record}\n{user_traceback}")


class SourceError(CheckdamError):
    """A source cannot find its splits: what it reads from is not there, or did not answer."""


class RecordError(CheckdamError):
    """An input record that cannot be parsed; the message names the file and the line or position."""


class StorageError(CheckdamError):
    """Checkpoint storage failed.

    Args:
        operation: What was tried: `create`, `read`, `list`, …
        path: On what, as a whole uri or path.
        cause: Why, in a few words.
        hint: What the user can do about it.
    """

    def __init__(self, operation: str, path: str, cause: str, hint: str = "") -> None:
        self.operation = operation
        self.path = path
        self.cause = cause
        self.hint = hint
        super().__init__(f"cannot {operation} {path}: {cause}" + (f"; {hint}" if hint else ""))


class AlreadyExistsError(StorageError):
    """A conditional create found the name taken."""


class NotFoundError(StorageError):
    """Nothing is stored under that name."""


class UnknownOutcomeError(StorageError):
    """The answer to a write was lost: it may or may not have happened."""


class DeposedError(CheckdamError):
    """Another coordinator has fenced this one: stop at once and touch nothing more."""


class SupersededError(DeposedError):
    """A coordinator of the same job that was started later has been there before this one: it has nothing to take over."""


class OutOfTouchError(CheckdamError):
    """A coordinator could not reach its journal for so long that it gives up; nobody is known to have taken the job over."""


class CheckpointError(CheckdamError):
    """A checkpoint failed or cannot be used."""


class CorruptCheckpointError(CheckpointError):
    """A file of a checkpoint is missing, has the wrong size or the wrong SHA-256."""


class IncompatibleCheckpointError(CheckpointError):
    """A checkpoint of another job, of a changed graph or of a changed state type."""


class DrainedError(IncompatibleCheckpointError):
    """A savepoint for which the job was drained: nothing goes on from it unless it is named."""


class AuthenticationError(CheckdamError):
    """A peer could not prove that it knows the job's secret."""
