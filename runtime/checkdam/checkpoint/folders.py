"""The names of checkpoints' folders and files, which say who wrote them.

A name carries the epoch and attempt of its writer, so that the sweep can tell, from names alone, what a dead attempt
left behind from what the running one is writing just now.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

METADATA: Final = "_metadata"
"""The file of a checkpoint's folder that makes it a checkpoint; written last."""

JOURNAL_FOLDER: Final = "journal"
"""Where the journal's entries lie."""

SHARED_FOLDER: Final = "shared"
"""Where files lie that several checkpoints may name: `shared/<epoch>.<attempt>-<id>.<try>-<unique>`, after whoever uploaded them."""

_CHECKPOINT = re.compile(r"chk-(\d+)-(\d+)\.(\d+)-(\d+)")
_SAVEPOINT = re.compile(r"savepoint-(\d+)-(\d+)\.(\d+)-(\d+)")
_SHARED = re.compile(r"(\d+)\.(\d+)-.+")
_LEAVING = frozenset({"", ".", ".."})


class Attempt(Protocol):
    """Anything that names an attempt, such as `wire.messages.AttemptId`."""

    @property
    def epoch(self) -> int: ...

    @property
    def attempt(self) -> int: ...


@dataclass(frozen=True)
class CheckpointFolder:
    """`chk-<id>-<epoch>.<attempt>-<attempt's try>`, the name of a checkpoint's folder; `str` gives the name.

    Attributes:
        id: The checkpoint's number.
        epoch, attempt: Who takes it.
        try_number: Counts tries at one number within an attempt, from 0, so that a name is never used twice.
    """

    id: int
    epoch: int
    attempt: int
    try_number: int = 0

    def __str__(self) -> str:
        return f"chk-{self.id}-{self.epoch}.{self.attempt}-{self.try_number}"

    @classmethod
    def parse(cls, name: str) -> CheckpointFolder | None:
        """The parts of a folder's name; `None` if it is no checkpoint's."""
        match = _CHECKPOINT.fullmatch(name)
        return cls(*map(int, match.groups())) if match else None


@dataclass(frozen=True)
class SavepointFolder:
    """`savepoint-<id>-<epoch>.<attempt>-<attempt's try>`, the name of a savepoint's folder; attributes as `CheckpointFolder`.

    A complete savepoint belongs to the user: nothing here ever deletes one unasked.
    """

    id: int
    epoch: int
    attempt: int
    try_number: int = 0

    def __str__(self) -> str:
        return f"savepoint-{self.id}-{self.epoch}.{self.attempt}-{self.try_number}"

    @classmethod
    def parse(cls, name: str) -> SavepointFolder | None:
        """The parts of a folder's name; `None` if it is no savepoint's."""
        match = _SAVEPOINT.fullmatch(name)
        return cls(*map(int, match.groups())) if match else None


def shared_prefix(folder: str) -> str:
    """What the names of shared files begin with that are uploaded for the checkpoint in `folder`.

    Empty where the folder's name is no checkpoint's: all files of a savepoint lie in its own folder.
    """
    found = CheckpointFolder.parse(folder)
    return f"{SHARED_FOLDER}/{found.epoch}.{found.attempt}-{found.id}.{found.try_number}-" if found else ""


def is_own(path: str, folder: str) -> bool:
    """Whether the file `path` was uploaded in the try at a checkpoint whose folder is `folder`, by its name."""
    shared = shared_prefix(folder)
    own = path.startswith(f"{folder}/") or (bool(shared) and path.startswith(shared))
    return own and not _LEAVING & set(path.split("/"))


def number_of(folder: str) -> int:
    """The number of the checkpoint or savepoint in `folder`, by the folder's name; -1 if the name does not say."""
    parsed = CheckpointFolder.parse(folder) or SavepointFolder.parse(folder)
    return parsed.id if parsed else -1


def writer_of(path: str) -> tuple[int, int] | None:
    """(epoch, attempt) of whoever wrote the file `path`, by its name; `None` if the name does not say."""
    if _LEAVING & set(path.split("/")):
        return None
    top, _, rest = path.partition("/")
    if top == SHARED_FOLDER:
        match = _SHARED.fullmatch(rest.split("/", 1)[0])
        return (int(match[1]), int(match[2])) if match else None
    folder = CheckpointFolder.parse(top) or SavepointFolder.parse(top)
    return (folder.epoch, folder.attempt) if folder else None
