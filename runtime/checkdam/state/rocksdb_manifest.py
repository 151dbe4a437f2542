"""The list of a RocksDB database's data files, and changing it: leaving files out, and taking those of another database in.

After a rescale a subtask owns parts of the databases of several others. Most of their data files hold either nothing that it
owns, and need not be downloaded, or nothing else, and need not be read. RocksDB itself can drop files by range and import
those of another database, but its Python binding cannot; so it is done where it is recorded. A database's MANIFEST is a log
of edits, each of which adds and removes files, and RocksDB reads it when the database is opened. One more edit at its end
removes files that are not wanted, or adds linked ones of another database, described as that one has described them.

::

    MANIFEST  = blocks of 32 KiB of fragments; a fragment never crosses the end of a block
    fragment  = masked CRC-32C u32 | length u16 | kind u8 (whole, first, middle, last) | bytes     (little-endian)
    record    = an edit: tags (varints), each with fields of its own
    data file = added by tag 103: level, number, size, smallest key, largest key, …; removed by tag 6: level, number

That format has been stable for a decade: RocksDB opens old databases, and old releases new ones; it checks sums, sizes and
identities of files, and that those of a level do not overlap. Yet an edit with a tag that is not known here says nothing
certain, and then a database is left as it is (`read_manifest` returns None).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.state.rocksdb_rows import unpack_group

CURRENT_NAME: Final = "CURRENT"
"""The file that names the MANIFEST."""

_BLOCK_BYTES: Final = 1 << 15
_FRAGMENT: Final = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_KINDS: Final = {(False, True): _WHOLE, (False, False): _FIRST, (True, False): _MIDDLE, (True, True): _LAST}
"""(the record was begun before, it ends here) → kind of fragment."""

_KEY_ORDER: Final = 1
_NEXT_FILE: Final = 3
_LAST_CHANGE: Final = 4
_COMPACTION_CURSOR: Final = 5
_REMOVED_FILE: Final = 6
_ADDED_FILE: Final = 103
_COLUMN: Final = 200
_ADDED_COLUMN: Final = 201
_DROPPED_COLUMN: Final = 202
_OTHER_NUMBERS: Final = frozenset({2, 9, 10, 203, 300})
"""Tags with one number that does not matter here: of logs, of columns, of edits that belong together."""

_IGNORABLE: Final = 1 << 13
"""Tags with this bit have one string, and releases that do not know them may skip them."""

_INTERNAL_KEY_TAIL_BYTES: Final = 8
_LAST_FIELD: Final = 1


@dataclass(frozen=True)
class DataFile:
    """A data file of a database.

    Attributes:
        column: The number of its column family.
        level: Where it is in the tree.
        number: Its own.
        key_groups: All that it may have rows of, or delete some.
        description: All that the MANIFEST says of it behind its number.
    """

    column: int
    level: int
    number: int
    key_groups: range
    description: bytes

    @property
    def name(self) -> str:
        """Its name in the database's folder."""
        return _file_name(self.number)


@dataclass
class Manifest:
    """What a database consists of.

    Attributes:
        path: The MANIFEST, in the database's folder.
        columns: The numbers of the column families, by name.
        next_file: The least number that no file has had.
        last_change: The number of the last change to a row.
    """

    path: Path
    columns: dict[str, int] = field(default_factory=lambda: {"default": 0})
    next_file: int = 0
    last_change: int = 0
    _files: dict[tuple[int, int], DataFile] = field(default_factory=dict)

    @property
    def files(self) -> list[DataFile]:
        """All data files."""
        return list(self._files.values())

    def forget(self, files: Collection[DataFile]) -> None:
        """Make the database one that never had `files`. Of rows that they deleted older ones come to light."""
        self._append([_numbers(_REMOVED_FILE, file.level, file.number, _COLUMN, file.column) for file in files])

    def adopt(self, other: Manifest) -> None:
        """Give the database all data files of another, which has the same columns and no key group in common with it.

        Raises:
            CheckpointError: They cannot be linked.
        """
        edits = []
        last_change = max(self.last_change, other.last_change)
        names = {column: name for name, column in other.columns.items()}
        for number, file in enumerate(other.files, start=self.next_file):
            source = other.path.with_name(file.name)
            try:
                os.link(source, self.path.with_name(_file_name(number)))
            except OSError as error:
                raise CheckpointError(f"cannot restore {source}: {error}") from error
            edits.append(
                _numbers(_NEXT_FILE, number + 1, _LAST_CHANGE, last_change, _ADDED_FILE, file.level, number)
                + file.description
                + _numbers(_COLUMN, self.columns[names[file.column]])
            )
        self._append(edits)

    def replay(self, record: bytes) -> bool:
        """Take note of an edit, which is of one column family; false if it has a tag that is not known."""
        fields = _Fields(record)
        column, column_name, column_dropped = 0, "", False
        removed: list[int] = []
        added: list[_AddedFile] = []
        while not fields.done:
            tag = fields.number()
            if tag == _ADDED_FILE:
                added.append(_added_file(fields))
            elif tag == _REMOVED_FILE:
                fields.number()
                removed.append(fields.number())
            elif tag == _NEXT_FILE:
                self.next_file = fields.number()
            elif tag == _LAST_CHANGE:
                self.last_change = fields.number()
            elif tag == _COLUMN:
                column = fields.number()
            elif tag == _ADDED_COLUMN:
                column_name = fields.string().decode()
            elif tag == _DROPPED_COLUMN:
                column_dropped = True
            elif tag == _COMPACTION_CURSOR:
                fields.number()
                fields.string()
            elif tag in _OTHER_NUMBERS:
                fields.number()
            elif tag == _KEY_ORDER or tag & _IGNORABLE:
                fields.string()
            else:
                return False
        if column_name:
            self.columns[column_name] = column
        for number in removed:
            self._files.pop((column, number), None)
        self._files.update({(column, file[1]): DataFile(column, *file) for file in added})
        if column_dropped:
            self.columns = {name: number for name, number in self.columns.items() if number != column}
            self._files = {place: file for place, file in self._files.items() if file.column != column}
        return True

    def _append(self, edits: list[bytes]) -> None:
        with self.path.open("ab") as log:
            for edit in edits:
                self.replay(edit)
                log.write(_fragments(edit, log.tell()))


def read_manifest(database: Path) -> Manifest | None:
    """What the database in a folder, which is not open, consists of; None if its MANIFEST has edits of an unknown kind.

    Raises:
        CorruptCheckpointError: It is missing or damaged.
    """
    try:
        manifest = Manifest(database / (database / CURRENT_NAME).read_text().strip())
        known = all(manifest.replay(record) for record in _records(manifest.path.read_bytes()))
    except (OSError, IndexError, ValueError, struct.error) as error:
        raise CorruptCheckpointError(
            f"the MANIFEST of the RocksDB database in {database} is damaged: {error}"
        ) from error
    return manifest if known else None


_AddedFile = tuple[int, int, range, bytes]
"""Level, number, key groups, description."""


def _added_file(fields: _Fields) -> _AddedFile:
    level, number = fields.number(), fields.number()
    start = fields.at
    fields.number()  # size
    smallest, largest = (fields.string()[:-_INTERNAL_KEY_TAIL_BYTES] for _ in range(2))
    fields.number()  # first change
    fields.number()  # last change
    while fields.number() != _LAST_FIELD:
        fields.string()
    return level, number, range(unpack_group(smallest), unpack_group(largest) + 1), fields.data[start : fields.at]


def _file_name(number: int) -> str:
    return f"{number:06d}.sst"


class _Fields:
    """Reads numbers and strings one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.data)

    def number(self) -> int:
        """Seven bits a byte, the lowest first."""
        number = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def string(self) -> bytes:
        size = self.number()
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise IndexError("an edit ends in the middle of a field")
        self.at += size
        return found


def _numbers(*numbers: int) -> bytes:
    """Numbers as `_Fields` reads them."""
    encoded = bytearray()
    for number in numbers:
        while number > 0x7F:
            encoded.append(number & 0x7F | 0x80)
            number >>= 7
        encoded.append(number)
    return bytes(encoded)


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a log, put together from their fragments."""
    at, parts = 0, bytearray()
    while at + _FRAGMENT.size <= len(data):
        left = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left < _FRAGMENT.size:
            at += left
            continue
        _, size, kind = _FRAGMENT.unpack_from(data, at)
        at += _FRAGMENT.size + size
        if at > len(data) or not _WHOLE <= kind <= _LAST:
            raise ValueError("a fragment is cut off or of an unknown kind")
        if kind in (_WHOLE, _FIRST):
            parts.clear()
        parts += data[at - size : at]
        if kind in (_WHOLE, _LAST):
            yield bytes(parts)


def _fragments(record: bytes, position: int) -> bytes:
    """A record as it is written at a position of the log."""
    written, begun = bytearray(), False
    while True:
        left = _BLOCK_BYTES - (position + len(written)) % _BLOCK_BYTES
        if left < _FRAGMENT.size:
            written += bytes(left)
            continue
        room = left - _FRAGMENT.size
        part, record = record[:room], record[room:]
        kind = _KINDS[begun, not record]
        written += _FRAGMENT.pack(_masked(_crc32c(bytes([kind]) + part)), len(part), kind) + part
        if not record:
            return bytes(written)
        begun = True


def _masked(checksum: int) -> int:
    """As logs store checksums, since a checksum of data that holds checksums tells little."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C: Final = [_crc32c_of_byte(byte) for byte in range(256)]


def _crc32c(data: bytes) -> int:
    """CRC-32 with Castagnoli's polynomial."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = checksum >> 8 ^ _CRC32C[(checksum ^ byte) & 0xFF]
    return checksum ^ 0xFFFFFFFF
