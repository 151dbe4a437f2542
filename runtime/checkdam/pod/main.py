"""From the command line of a pod to the process that it is."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkdam.checkpoint.storage.locate import open_storage
from checkdam.core.errors import CheckdamError
from checkdam.core.exits import write_termination_log
from checkdam.pod.keeper import Keeper
from checkdam.pod.mounts import Mounts, coordinator_config, count_start, worker_config
from checkdam.spec import parse_manifest


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Be the coordinator or the worker of a pod; returns the exit code of its container."""
    parser = argparse.ArgumentParser(prog="python -m checkdam.pod", description="Process 1 of a pod of a job.")
    parser.add_argument("role", choices=("coordinator", "worker"))
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the mounts are found")
    parser.add_argument("--listen", default="", help="the address that the coordinator listens on; all by default")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s {options.role} %(levelname)s %(message)s", stream=sys.stderr
    )
    mounts = Mounts(options.root)
    try:
        mounts.run_dir.mkdir(parents=True, exist_ok=True)
        if options.role == "worker":
            return _worker(mounts, environment)
        return _coordinator(mounts, environment, options.listen)
    except (CheckdamError, OSError) as error:
        logging.getLogger(__name__).error("%s", error)
        write_termination_log(mounts.termination_log, str(error))
        return 1


def _worker(mounts: Mounts, environment: Mapping[str, str]) -> int:
    from checkdam.worker.supervisor import supervise

    config = worker_config(mounts, environment)
    for left in mounts.run_dir.glob("attempt-*"):  # by a container before this one
        shutil.rmtree(left, ignore_errors=True)
    return supervise(config)


def _coordinator(mounts: Mounts, environment: Mapping[str, str], listen: str) -> int:
    # Imported here, once: each start of the coordinator is a fork of this process.
    from checkdam.coordinator.app import run_coordinator
    from checkdam.coordinator.ending import recorded_ending

    def work() -> int:
        config = coordinator_config(mounts, environment, count_start(mounts), listen)
        return asyncio.run(run_coordinator(config))

    def outcome() -> str:
        ending = recorded_ending(mounts.run_dir)
        return f"{ending.state}: {ending.message}" if ending is not None else ""

    _import_storage(mounts.manifest(), mounts)
    return Keeper(work, outcome, mounts.termination_log).run()


def _import_storage(manifest: dict[str, Any], mounts: Mounts) -> None:
    """Import the clients of the job's storage, too. What is wrong with it the coordinator says itself."""
    try:
        job = parse_manifest(manifest)
        open_storage(job.spec.checkpoint.storage, job.job_id, base=mounts.base_folder)
    except CheckdamError:
        pass


__all__ = ["main"]
