"""One short round of strikes at random; `make faults-kubernetes` plays longer ones."""

from __future__ import annotations

import pytest
from job_scene import Scene
from job_strikes import play
from tcp_gate import tcp_gate

pytestmark = pytest.mark.long


async def test_a_job_gets_over_strikes_at_all_its_parts(scene: Scene) -> None:
    async with tcp_gate(scene.bucket.server.endpoint) as gate:
        strikes = await play(scene, gate, seed=7, seconds=30.0)

    assert len(strikes) >= 4
