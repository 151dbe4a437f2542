"""Broadcast joins: a small stream known to every subtask."""

from __future__ import annotations

from typing import Any

import pytest
from function_run import FunctionRun

from checkdam.core.errors import PipelineError, UserCodeError, ValueTypeError
from checkdam.operators.base import OperatorContext, OperatorMetrics, WatermarkFloor
from checkdam.operators.broadcast import (
    BROADCAST,
    BroadcastContext,
    BroadcastFunction,
    BroadcastJoinOperator,
    broadcast_lookup,
)
from checkdam.operators.functions import ValueState


class Rules(BroadcastFunction):
    key_type, value_type = str, int

    def process(self, value: str, ctx: BroadcastContext) -> Any:
        limit = ctx.broadcast_state.get(value, 0)
        if limit < 0:
            ctx.emit_to("refused", value)
            return None
        return [(ctx.key, value, limit, ctx.watermark_ms > 0)]

    def process_broadcast(self, value: tuple[str, int | None], ctx: BroadcastContext) -> Any:
        name, limit = value
        if limit is None:
            ctx.broadcast_state.remove(name)
        else:
            ctx.broadcast_state.put(name, limit)
        yield f"{len(ctx.broadcast_state)} rules"


def test_records_are_worked_with_what_was_broadcast_before() -> None:
    run = FunctionRun(lambda: BroadcastJoinOperator("op", Rules))
    run.feed(("k", 1, "a"))
    run.feed((None, 2, ("a", 5)), (None, 2, ("b", -1)), port=BROADCAST)
    run.watermark(3)
    run.feed(("k", 4, "a"), ("k", 5, "b"))
    run.feed((None, 6, ("a", None)), port=BROADCAST)
    run.feed((None, 7, "a"))
    assert run.outputs == [
        ("", ("k", "a", 0, False), 1),
        ("", "1 rules", 2),
        ("", "2 rules", 2),
        ("", ("k", "a", 5, True), 4),
        ("refused", "b", 5),
        ("", "1 rules", 6),
        ("", (None, "a", 0, True), 7),
    ]


def test_the_broadcast_state_survives_a_restore_without_pickle() -> None:
    run = FunctionRun(lambda: BroadcastJoinOperator("op", Rules, allow_pickle=False))
    run.feed((None, 2, ("a", 5)), port=BROADCAST)
    run.restore()
    run.feed(("k", 4, "a"))
    assert run.taken()[-1][2] == 5


def test_after_a_rescale_any_copy_of_the_state_is_taken() -> None:
    run = FunctionRun(lambda: BroadcastJoinOperator("op", Rules))
    run.feed((None, 2, ("a", 5)), port=BROADCAST)
    copies = [run.operator.snapshot(1)] * 3
    run.operator = BroadcastJoinOperator("op", Rules)
    metrics, floor = OperatorMetrics(), WatermarkFloor()
    run.operator.open(OperatorContext("op", 4, 5, run.backend, run.clock, metrics, "1.2", floor, lambda: None), copies)
    run.feed(("k", 4, "a"))
    assert run.taken()[-1][2] == 5


def test_the_state_cannot_be_changed_while_the_main_stream_is_worked() -> None:
    class Sneaky(Rules):
        def process(self, value: str, ctx: BroadcastContext) -> Any:
            ctx.broadcast_state["a"] = 1

    run = FunctionRun(lambda: BroadcastJoinOperator("op", Sneaky))
    with pytest.raises(UserCodeError, match="'mappingproxy' object does not support item assignment"):
        run.feed(("k", 1, "x"))


def test_a_lookup_keeps_the_latest_record_of_each_key() -> None:
    lookup = broadcast_lookup(lambda airline: airline["code"], lambda code, table: table.get(code, {}).get("name"))
    run = FunctionRun(lambda: BroadcastJoinOperator("op", lookup))
    run.feed((None, 0, {"code": "UA", "name": "old"}), (None, 0, {"code": "UA", "name": "United"}), port=BROADCAST)
    run.restore()
    run.feed((None, 1, "UA"), (None, 1, "??"))
    assert run.taken() == ["United", None]


def test_keyed_state_and_undeclared_types_without_pickle_are_refused() -> None:
    class Stateful(BroadcastFunction):
        count = ValueState("count", int)

    with pytest.raises(PipelineError, match=r"declares state \(`count`\).*use ctx.broadcast_state"):
        BroadcastJoinOperator("op", Stateful)
    with pytest.raises(ValueTypeError, match="the keys of the broadcast state of operator `op`"):
        BroadcastJoinOperator("op", BroadcastFunction, allow_pickle=False)


def test_close_reaches_the_function() -> None:
    closed = []

    class Life(Rules):
        def close(self) -> None:
            closed.append(True)

    run = FunctionRun(lambda: BroadcastJoinOperator("op", Life))
    run.operator.close()
    run.operator.close()
    assert closed == [True]
