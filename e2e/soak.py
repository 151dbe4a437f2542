"""A job that is struck again and again, and all that must hold when that is over.

Its output goes to files, its checkpoints to S3. After the last strike the job must come to rest with all of its
pods. One more failure makes it clear up after all the others. Then it is suspended: what it has read is written, and what is stored
stays as it is.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from typing import Final

from cluster_s3 import s3_storage
from installation import OPERATOR_NAMESPACE, until_operator_runs
from leftovers import objects_of, stored_by
from orders_job import NAME, OrdersJob
from outputs import first_after, outputs
from s3_orders_job import S3OrdersJob
from soak_memory import MOST_GROWTH_BYTES, Growth, Reading, growths, watched_memory
from soak_output import output_of
from soak_plan import planned_strikes
from soak_report import Report, Struck
from soak_strikes import MissedError, runs, strikes_on

INTERVAL_S: Final = 2
_HEALING_S: Final = 360.0
"""Pods that were replaced again and again are replaced, and containers that have ended as often started, after pauses of up to five minutes."""

Say = Callable[[str], None]
"""Told what happens, a line at a time."""


def soak(job: S3OrdersJob, seconds: float, report: Report, say: Say) -> None:
    """Run the job, strike at it, and look at what is left.

    Args:
        job: Not applied yet, in a namespace of its own.
        seconds: How long it is struck at.
        report: Has the seed; the rest is filled in.

    Raises:
        AssertionError, CommandError: It does not come to rest, so there is nothing to look at.
    """
    # Failures follow each other here, and are not to be waited for longer and longer.
    job.apply(restart={"maxDelay": "1s"})
    job.wait("condition=Ready")
    job.until_more(0)
    components = {(OPERATOR_NAMESPACE, "checkdam"): "operator", (job.namespace, f"{NAME}-coordinator"): "coordinator"}
    with watched_memory(job.cluster, components) as readings:
        report.began_s = time.time()
        try:
            _strike(job, seconds, report, say)
            _come_to_rest(job, say)
            _fail_once_more(job, say)
        finally:
            report.outputs_s = [output.time_s for output in outputs(job.output)]
            report.growths = growths(readings)
    report.problems += _memory_problems(components.values(), readings, report.growths)
    disposed = _delete_savepoints(job)
    _suspend(job, say)
    report.receipts, wrong = output_of(job.output)
    report.problems += wrong
    report.stored = stored_by(job, s3_storage(job.bucket)["uri"])
    report.problems += [*report.stored.problems, *(f"{path} is an orphan" for path in report.stored.orphans)]
    report.problems += [f"{name} was to be deleted" for name in disposed if name in report.stored.kept]
    _delete(job, say)


def _strike(job: OrdersJob, seconds: float, report: Report, say: Say) -> None:
    """Strike for so long; the last strike is followed by a pause, too."""
    available, end_s = strikes_on(job.cluster), time.monotonic() + seconds
    for planned in planned_strikes(report.seed, list(available)):
        time.sleep(max(0.0, min(planned.pause_s, end_s - time.monotonic())))
        if time.monotonic() >= end_s:
            return
        at_s = time.time()
        try:
            hit = available[planned.kind](job, random.Random(planned.seed))
        except MissedError as missed:
            hit = f"nobody: {missed}"
        report.strikes.append(Struck(planned.kind, at_s, hit))
        say(f"after {at_s - report.began_s:.0f} s: {planned.kind}: {hit}")


def _come_to_rest(job: OrdersJob, say: Say) -> None:
    """Wait until there are as many pods as there are to be, all of them run, and there is new output."""
    say("waiting for the job to come to rest")
    until_operator_runs(job.cluster, _HEALING_S)
    wanted = int(job.object()["spec"]["parallelism"]) + 1

    def rests() -> bool | None:
        pods = json.loads(job.kubectl("get", "pods", "--output=json"))["items"]
        return True if len(pods) == wanted and all(map(runs, pods)) else None

    job.until(rests, f"{wanted} pods that run, and no others,", _HEALING_S)
    job.wait("condition=Ready", _HEALING_S)
    now_s = time.time()
    job.until(lambda: True if outputs(job.output)[-1].time_s > now_s else None, "new output")


def _fail_once_more(job: OrdersJob, say: Say) -> None:
    """The attempt that follows clears up after all before it."""
    say("killing a task process once more")
    before = max(output.attempt for output in outputs(job.output))
    job.kill_process(job.names("worker")[0])
    job.until(lambda: first_after(outputs(job.output), before), "output of another attempt")
    job.wait("condition=Ready")


def _delete_savepoints(job: OrdersJob) -> list[str]:
    """Delete all Savepoints, and wait until the job has forgotten them; the names of those whose files were to go with them."""
    found = json.loads(job.kubectl("get", "savepoints", "--output=json"))["items"]
    with_files = [each for each in found if each["spec"]["onDelete"] == "Delete" and each["status"].get("uri")]
    job.kubectl("delete", "savepoints", "--all", "--timeout=60s")
    job.until(lambda: None if job.object()["status"].get("disposals") else True, "end of the disposal of savepoints")
    return [each["status"]["uri"].rpartition("/")[2] for each in with_files]


def _suspend(job: OrdersJob, say: Say) -> None:
    say("suspending the job")
    job.patch(suspend=True)
    job.wait("jsonpath={.status.state}=Suspended")
    job.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=90s")


def _delete(job: OrdersJob, say: Say) -> None:
    """Delete the job, and wait until nothing is left of it.

    Raises:
        AssertionError: Something is.
    """
    say("deleting the job")
    job.kubectl("delete", "streamjob", NAME, "--timeout=60s")
    left: list[str] = []

    def is_gone() -> bool | None:
        left[:] = objects_of(job)
        return None if left else True

    try:
        job.until(is_gone, "end of what the job consists of", 60.0)
    except AssertionError as error:
        raise AssertionError(f"{error}: {', '.join(left)}") from None


def _memory_problems(components: Iterable[str], readings: Iterable[Reading], found: Iterable[Growth]) -> list[str]:
    unread = set(components) - {reading.component for reading in readings}
    grown = [growth for growth in found if growth.bytes > MOST_GROWTH_BYTES]
    return [
        *(f"no memory of any {component} could be read" for component in sorted(unread)),
        *(
            f"the {growth.component} in {growth.container} has grown by {growth.bytes >> 20} MiB in {growth.over_s:.0f} s"
            for growth in grown
        ),
    ]
