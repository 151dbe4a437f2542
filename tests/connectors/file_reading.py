"""Reading file sources to their end, at once or with readers that are thrown away on the way."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from checkdam.connectors.base import Source, SplitReader


def drain(reader: SplitReader[Any], max_records: int = 3, limit: Any = None) -> list[Any]:
    """All records until the end, or until the limit lets nothing more through; closes the reader."""
    values: list[Any] = []
    with closing(reader):
        while (batch := reader.read(max_records, limit)) is not None:
            assert len(batch.values) <= max_records
            values += batch.values
            if not batch.values and reader.wait_hint_ms():
                break
    return values


def read_all(source: Source[Any], max_records: int = 3) -> list[Any]:
    values: list[Any] = []
    for split in source.splits(2):
        values += drain(source.open(split, None), max_records)
    return values


def read_interrupted(source: Source[Any], max_records: int, every: int) -> list[Any]:
    """Read, but throw the reader away after each `every` batches of records and go on from its position in a new one."""
    values: list[Any] = []
    for split in source.splits(2):
        position = None
        ended = False
        while not ended:
            reader = source.open(split, position)
            left = every
            while left and not ended:
                batch = reader.read(max_records)
                if batch is None:
                    ended = True
                elif batch.values:
                    values += batch.values
                    left -= 1
            position = json.loads(json.dumps(reader.position()))
            reader.close()
    return values


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
