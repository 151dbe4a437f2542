"""When the operator asks for a checkpoint.

The operator keeps the schedule while it is there; the coordinator alone enforces `minPause` and one in flight, and triggers by itself what is overdue. Asking is
safe to repeat, so all that counts here is not to ask too late or much too often.
"""

from __future__ import annotations

from checkdam_operator.decide.actions import TriggerCheckpoint
from checkdam_operator.observed import Situation


def plan_checkpoint(situation: Situation) -> tuple[TriggerCheckpoint | None, int | None]:
    """The checkpoint to ask for now, if one is due; and when the next one will be."""
    report, deployed = situation.report, situation.deployed
    if (
        report is None
        or deployed is None
        or report.state != "RUNNING"
        or situation.coordinator.unreachable_since_ms is not None
    ):
        return None, None
    interval_ms = deployed.spec.checkpoint.interval_ms
    last = report.last_checkpoint
    last_ms = max(situation.coordinator.last_trigger_ms, situation.coordinator.running_since_ms or 0)
    if last is not None:
        # Of the coordinator's clock; one that is ahead must not put checkpoints off.
        last_ms = max(last_ms, min(last.triggered_ms, situation.now_ms))
    due_ms = last_ms + interval_ms
    if situation.now_ms < due_ms:
        return None, due_ms
    return TriggerCheckpoint(last.id if last is not None else -1), situation.now_ms + interval_ms
