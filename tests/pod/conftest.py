"""The pods of a test end with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pod_kit import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    try:
        yield found
    finally:
        found.close()
