from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from state_backends import Workshop


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where that is possible: RocksDB syncs its files whenever it is opened."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(params=["hashmap", "rocksdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def workshop(kind: str, tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(kind, tmp_path)
    yield made
    made.close()
