"""A coordinator process of the tests, over the tests' graph: `python coordinator_process.py CONFIG.json`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coordinator_kit import graph_of, storage_of

from checkdam.coordinator.app import coordinate
from checkdam.coordinator.config import load_config
from checkdam.spec import parse_manifest

if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]))
    sys.exit(
        asyncio.run(
            coordinate(config, parse_manifest(config.manifest), graph_of(), storage_of(Path(config.base_folder)))
        )
    )
