"""`make faults`: many seeded fault runs, a few at a time; prints each and, at the end, the seeds that failed.

All share one S3 server and one HDFS, which are started if a seed needs them. A failed run keeps its folder and what is in the
servers' folders, and `make faults ARGS="--seed N"` repeats it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent.parent / "real_parts"))
sys.path.insert(0, str(Path(__file__).parent))

from chaos import Outcome, run_scenario
from hdfs_server import hdfs
from s3_server import s3
from scenarios import Scenario, scenario
from stores import Servers


def main(
    runs: Annotated[int, typer.Option(help="How many seeds.")] = 96,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Run this seed alone.")] = None,
    at_once: Annotated[int, typer.Option(help="How many jobs at a time.")] = 4,
    folder: Annotated[Path | None, typer.Option(help="Where runs work; failed ones stay there.")] = None,
) -> None:
    """Kill processes of real jobs at random moments, break their storage, and check what they have committed and left."""
    plans = [scenario(number) for number in ([seed] if seed is not None else range(first, first + runs))]
    base = Path(tempfile.mkdtemp(prefix="checkdam-faults-")) if folder is None else folder
    failed: list[Outcome] = []
    with servers_for(plans, base) as servers, ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(run_scenario, plan, base / f"seed-{plan.seed}", servers) for plan in plans]
        for job in as_completed(jobs):
            outcome = job.result()
            verdict = "ok  " if not outcome.problems else "FAIL"
            print(f"{verdict} {outcome.seconds:5.1f} s  {outcome.scenario}  [{', '.join(outcome.strikes)}]", flush=True)
            for problem in outcome.problems:
                print(f"       {problem}")
            if outcome.problems:
                failed.append(outcome)
            else:
                shutil.rmtree(base / f"seed-{outcome.scenario.seed}", ignore_errors=True)
    if not failed:
        shutil.rmtree(base, ignore_errors=True)
    print(f"{len(plans) - len(failed)} passed, {len(failed)} failed")
    for outcome in failed:
        number = outcome.scenario.seed
        print(f'repeat with: make faults ARGS="--seed {number}"; its files are in {base / f"seed-{number}"}')
    raise typer.Exit(1 if failed else 0)


@contextmanager
def servers_for(plans: list[Scenario], folder: Path) -> Iterator[Servers]:
    """The servers that the scenarios need; S3's keys are put into the environment of this process."""
    stores = {plan.store for plan in plans}
    with ExitStack() as stack:
        bucket_server = stack.enter_context(s3(folder / "s3")) if stores & {"s3", "faulty"} else None
        if bucket_server is not None:
            os.environ.update(bucket_server.environment())
        file_server = stack.enter_context(hdfs(folder / "hdfs")) if "hdfs" in stores else None
        yield Servers(bucket_server, file_server)


if __name__ == "__main__":
    typer.run(main)
