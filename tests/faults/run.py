"""`make faults`: many seeded fault runs, a few at a time; prints each and, at the end, the seeds that failed.

A failed run keeps its folder, and `make faults ARGS="--seed N"` repeats it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent))

from chaos import Outcome, run_scenario, scenario


def main(
    runs: Annotated[int, typer.Option(help="How many seeds.")] = 78,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Run this seed alone.")] = None,
    at_once: Annotated[int, typer.Option(help="How many jobs at a time.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="Where runs work; failed ones stay there.")] = None,
) -> None:
    """Kill processes of real jobs at random moments and check what they have committed."""
    seeds = [seed] if seed is not None else list(range(first, first + runs))
    base = Path(tempfile.mkdtemp(prefix="checkdam-faults-")) if folder is None else folder
    failed: list[Outcome] = []
    with ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(run_scenario, scenario(number), base / f"seed-{number}") for number in seeds]
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
    print(f"{len(seeds) - len(failed)} passed, {len(failed)} failed")
    for outcome in failed:
        number = outcome.scenario.seed
        print(f'repeat with: make faults ARGS="--seed {number}"; its files are in {base / f"seed-{number}"}')
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
