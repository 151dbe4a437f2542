"""The log of changes: what value tables hold in their caches and the database lacks, in files that snapshots share.

A cache may hold changes of many checkpoints, since it writes to the database only what it gives up. If each snapshot had all of
them, it would write the same cells again and again; if they were written to the database first, that would cost more than
counting did. So a snapshot adds one file with what has changed since the last one, and names the files before it as well.
A file begins with cells, the newest that there are; behind them it says which cells of earlier files are void, because the
database has got them, or their namespace is gone. To read a log, read the latest file first and believe the first word on each key.

The log is begun anew, by a file with all changes, when it has become long, and when the last snapshot was not written to its
end: nothing is ever built upon a file that may be missing. Files of the log never change, so a later checkpoint names them again
instead of storing them twice, as it does with data files; here they are kept, linked, for as long as they are part of the log.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from checkdam.core.keys import decode_keys
from checkdam.core.serde import never_changes
from checkdam.state.base import Key, LocalFile, TableSpec
from checkdam.state.blocks import ANY_GROUP, Block, BlockWriter, unpack_ints
from checkdam.state.columns import BlockSize, ChangeRun, cut_runs, encode_changes, encode_gone
from checkdam.state.rocksdb_capture import Capture

LOG_FILES: Final = 32
"""Files that a log has at most: each of them is one more to name in every checkpoint, and to fetch."""

LOG_GROWTH: Final = 2
"""Times the rows of its first file that the others may have together: so much longer than necessary a restore may take."""

_FREE_ROWS: Final = 4_096
"""Rows that may be added in any case."""


class LoggedTable(Protocol):
    """A table whose changes are logged."""

    spec: TableSpec

    def log_size(self, whole: bool) -> int:
        """About how many rows `freeze` would have."""
        ...

    def freeze(self, whole: bool) -> FrozenChanges:
        """What has changed since the last snapshot, or everything that differs from the database."""
        ...

    def settle(self) -> None:
        """Whatever was frozen before does not need this table any more."""
        ...

    def begin_log(self) -> None:
        """A snapshot has taken what `freeze` had."""
        ...


@dataclass(frozen=True)
class FrozenChanges:
    """Changes of a table, by reference: they stay as they are only if nobody changes a cell in place; see `rocksdb_capture`.

    Attributes:
        spec: The table.
        now_ms: The update time of cells that have none.
        outdated: What is void of earlier files of the log; `None` where it begins anew.
        runs: Namespaces, and of each the keys that have changed.
    """

    spec: TableSpec
    now_ms: int
    outdated: Outdated | None
    runs: list[tuple[int, Capture]] = field(default_factory=list)

    def blocks(self) -> Iterator[Block]:
        """They as blocks of a log. To be called once.

        Raises:
            ValueTypeError: A value does not fit its declared type.
        """
        runs: list[ChangeRun] = []
        cells_of: dict[int, Iterator[Any]] = {}
        for namespace, captured in self.runs:
            keys, cells, gone = captured.rest()
            runs.append((namespace, keys, gone))
            cells_of[namespace] = iter(cells)
        yield from encode_changes(
            runs, lambda namespace, keys: islice(cells_of[namespace], len(keys)), self.spec, self.now_ms
        )
        if self.outdated is not None:
            yield from self.outdated.blocks()


@dataclass(frozen=True)
class _Logged:
    file: LocalFile
    rows: int


class LogPart:
    """What one snapshot has of the log. Made by `ChangeLog`.

    Args:
        folder: Where files of the log are kept; `None` for a snapshot that the log does not go on from.
        number: Of this part.
        tables: In the order of their sections.
        earlier: The files of the log that this part goes on from; empty where it begins the log anew.
        obsolete: Files that are not part of the log any more, once this part is written.
    """

    def __init__(
        self,
        folder: Path | None,
        number: int,
        tables: Sequence[LoggedTable],
        earlier: tuple[_Logged, ...] = (),
        obsolete: tuple[_Logged, ...] = (),
    ) -> None:
        self.log: tuple[_Logged, ...] | None = None
        """The whole log with this part; `None` until it is written."""
        self.rows = sum([table.log_size(not earlier) for table in tables])
        self._folder = folder
        self._name = f"changes-{number:06}.blocks"
        self.names = [logged.file.name for logged in earlier] + ([self._name] if self.rows else [])
        """Of the files of the log, the earliest first."""
        self._tables = tables
        self._earlier = earlier
        self._obsolete = obsolete
        self._frozen: list[FrozenChanges] = []

    def freeze(self) -> bool:
        """Keep what is to be written, by reference, so that `write` may be called later; false if that does not keep it as it is.

        Raises:
            CheckpointError: A key is not owned here.
        """
        if not all(never_changes(table.spec.serde.name) for table in self._tables):
            return False
        self._frozen = [table.freeze(not self._earlier) for table in self._tables]
        return True

    def write(self, directory: Path) -> list[LocalFile]:
        """Write this part's file into a snapshot's folder, if there is anything to write. In whichever process.

        Raises:
            CheckpointError: A key is not owned here.
            ValueTypeError: A value does not fit its declared type.
        """
        if not self.rows:
            return []
        frozen = self._frozen or (table.freeze(not self._earlier) for table in self._tables)
        with contextlib.closing(BlockWriter(directory / self._name)) as writer:
            for section, changes in enumerate(frozen):
                for block in changes.blocks():
                    writer.write(ANY_GROUP, section, block)
            self._frozen = []
            return [writer.finish()]

    def finish(self, directory: Path, files: list[LocalFile]) -> list[LocalFile]:
        """The snapshot is written: complete its files by those of the log. In an I/O thread.

        Raises:
            OSError: A link cannot be made.
        """
        if self._folder is None:
            return files
        log = list(self._earlier)
        for place, file in enumerate(files):
            if file.name == self._name:
                kept = self._folder / file.name
                self._folder.mkdir(exist_ok=True)
                os.link(file.path, kept)
                files[place] = replace(file, reusable=True)
                log.append(_Logged(replace(file, path=kept, reusable=True), self.rows))
        for logged in self._earlier:
            os.link(logged.file.path, directory / logged.file.name)
            files.append(replace(logged.file, path=directory / logged.file.name))
        self.log = tuple(log)
        for logged in self._obsolete:
            logged.file.path.unlink(missing_ok=True)
        return files


class ChangeLog:
    """The log of one backend. Task thread.

    Args:
        folder: Of its own, on the file system of snapshots; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._last = LogPart(folder, 0, ())
        self._kept: tuple[_Logged, ...] = ()

    def next_part(self, tables: Sequence[LoggedTable]) -> LogPart:
        """The part of a snapshot that is taken now, from which the log goes on."""
        log = self._last.log
        if log is not None:
            self._kept = log
        self._number += 1
        if not log or _is_long(log):
            self._last = LogPart(self._folder, self._number, tables, obsolete=self._kept)
        else:
            self._last = LogPart(self._folder, self._number, tables, earlier=log)
        return self._last

    def whole(self, tables: Sequence[LoggedTable]) -> LogPart:
        """A part that has everything, for a snapshot that the log does not go on from."""
        return LogPart(None, 0, tables)


def _is_long(log: tuple[_Logged, ...]) -> bool:
    return len(log) >= LOG_FILES or sum([logged.rows for logged in log[1:]]) > LOG_GROWTH * log[0].rows + _FREE_ROWS


class Outdated:
    """Which cells of a log are void, by namespace, since the last snapshot."""

    def __init__(self) -> None:
        self._keys: dict[int, set[Key]] = defaultdict(set)
        self._namespaces: set[int] = set()

    def __len__(self) -> int:
        return len(self._namespaces) + sum([len(keys) for keys in self._keys.values()])

    def add(self, namespace: int, keys: set[Key]) -> None:
        """The database has what the log has of `keys`, or something newer."""
        if keys and namespace not in self._namespaces:
            self._keys[namespace] |= keys

    def add_all(self, namespace: int) -> None:
        """As `add`, for all keys of a namespace."""
        self._keys.pop(namespace, None)
        self._namespaces.add(namespace)

    def blocks(self) -> Iterator[Block]:
        """It as blocks of a log."""
        for part in cut_runs([(namespace, list(keys)) for namespace, keys in self._keys.items()], BlockSize()):
            yield encode_gone([run for run in part if run[1]])
        if self._namespaces:
            yield encode_gone([(namespace, []) for namespace in self._namespaces])


class LogReader:
    """Believes the first word on each key of one log of one table, which is read the latest block first.

    Args:
        groups: The key group of each key.
        owned: Only keys of these key groups are wanted; `None` where the log has no others.
    """

    def __init__(self, groups: Callable[[list[Key]], list[int]], owned: range | None) -> None:
        self._groups = groups
        self._owned = owned
        self._known: dict[int, set[Key]] = defaultdict(set)
        self._closed: set[int] = set()

    def wanted(self, namespace: int, keys: Iterable[Key]) -> list[Key]:
        """Which of `keys` are owned and not known yet; from now on they are."""
        if namespace in self._closed:
            return []
        known = self._known[namespace]
        unknown = [key for key in keys if key not in known]
        known.update(unknown)
        if self._owned is None:
            return unknown
        owned = self._owned
        return [key for key, group in zip(unknown, self._groups(unknown), strict=True) if group in owned]

    def read(self, blocks: Iterable[Block], keys_of: Callable[[bytes], list[Key]] = decode_keys) -> Iterator[Block]:
        """The blocks that hold cells or deletions; what the others say is noted on the way.

        Args:
            blocks: The latest first.
            keys_of: What the keys that are asked for are, of a block's keys.
        """
        for block in blocks:
            if not block.gone:
                yield block
                continue
            keys, at = keys_of(block.keys), 0
            for namespace, count in zip(decode_keys(block.heads), unpack_ints(block.counts), strict=True):
                self._known[namespace].update(keys[at : at + count])
                at += count
                if not count:
                    self._closed.add(namespace)
