"""`python -m checkdam.coordinator CONFIG.json`: run a job's coordinator."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from checkdam.coordinator.app import run_coordinator
from checkdam.coordinator.config import load_config
from checkdam.coordinator.ending import EXIT_FAILED
from checkdam.core.errors import CheckdamError, ManifestError

_EXIT_USAGE = 2


def main(arguments: list[str]) -> int:
    """Run the coordinator that the file named configures; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m checkdam.coordinator CONFIG.json\n")
        return _EXIT_USAGE
    logging.basicConfig(level=logging.INFO, format="%(asctime)s coordinator %(levelname)s %(message)s")
    try:
        return asyncio.run(run_coordinator(load_config(Path(arguments[0]))))
    except ManifestError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_USAGE
    except CheckdamError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: the threads of a transfer that hangs must not keep alive a coordinator that has been deposed.
    os._exit(exit_code)
