"""The tests of what is deployed run the real helm and kubectl; where these are not built they are left out, as those against Kubernetes are."""

from __future__ import annotations

import os

import pytest

from cluster.programs import REMEDY, missing


@pytest.fixture(autouse=True)
def _real_programs() -> None:
    lacking = missing(["helm", "kubectl"])
    if lacking and not os.environ.get("CHECKDAM_ALL_TESTS"):
        pytest.skip(f"`{REMEDY}` must build {' and '.join(lacking)} first")
