from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from state_backends import Workshop


@pytest.fixture(params=["hashmap", "rocksdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def workshop(kind: str, tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(kind, tmp_path)
    yield made
    made.close()
