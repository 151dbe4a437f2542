"""Conditions in the shape of Kubernetes' conventions."""

from __future__ import annotations

from checkdam.spec.status import Condition, ConditionStatus
from checkdam_operator.reasons import Reason
from checkdam_operator.times import iso

MESSAGE_LIMIT: int = 2000
"""Longest message, in characters. Tracebacks are in the logs; a status is read by people and copied by every watch."""


def set_condition(
    conditions: list[Condition],
    kind: str,
    status: ConditionStatus,
    reason: Reason,
    message: str,
    generation: int,
    now_ms: int,
) -> None:
    """Put a condition into the list, in place of the one of its type; the time of transition changes only with the status."""
    message = message if len(message) <= MESSAGE_LIMIT else f"{message[: MESSAGE_LIMIT - 1]}…"
    position = next((at for at, condition in enumerate(conditions) if condition.type == kind), len(conditions))
    last = conditions[position] if position < len(conditions) else None
    changed = iso(now_ms) if last is None or last.status != status else last.last_transition_time
    conditions[position:] = [
        Condition(
            type=kind,
            status=status,
            reason=str(reason),
            message=message,
            last_transition_time=changed,
            observed_generation=generation,
        ),
        *conditions[position + 1 :],
    ]
