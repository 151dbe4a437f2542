"""Sinks as operators: what was prepared stays pending until a checkpoint that holds it has completed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.connectors.base import Sink, SinkContext, SinkWriter, TwoPhaseWriter
from checkdam.core.batch import Batch
from checkdam.core.clock import ManualClock
from checkdam.operators.base import OperatorContext, OperatorMetrics, WatermarkFloor
from checkdam.operators.sink import DirectSinkOperator, TwoPhaseSinkOperator, sink_operator


class Ledger(Sink[int]):
    """A two-phase sink: prepared output outlives a crash, output being written does not."""

    two_phase: ClassVar[bool] = True

    def __init__(self) -> None:
        self.prepared: dict[str, list[int]] = {}
        self.committed: dict[str, list[int]] = {}
        self.closed = 0

    def open(self, context: SinkContext) -> SinkWriter[int]:
        return _LedgerWriter(self, context)

    def commit(self, committables: list[Any]) -> None:
        for name in committables:
            self.committed[name] = self.prepared[name]

    def discard(self, context: SinkContext, keep: list[Any]) -> None:
        for name in [n for n in self.prepared if n not in keep and n not in self.committed]:
            del self.prepared[name]


class _LedgerWriter(TwoPhaseWriter[int]):
    def __init__(self, sink: Ledger, context: SinkContext) -> None:
        self._sink, self._prefix = sink, context.attempt
        self._values: list[int] = []

    def write(self, values: list[int], times: list[int] | None) -> None:
        self._values += values

    def prepare(self, checkpoint: int) -> list[Any]:
        if not self._values:
            return []
        name = f"{self._prefix}-{checkpoint}"
        self._sink.prepared[name], self._values = self._values, []
        return [name]

    def close(self) -> None:
        self._sink.closed += 1


def opened(sink: Sink[Any], attempt: int = 1, restored: Any = None) -> Any:
    operator = sink_operator("out", sink)
    context = OperatorContext(
        "out",
        0,
        1,
        None,
        ManualClock(),
        OperatorMetrics(),
        f"1.{attempt}",
        WatermarkFloor(),
        lambda: None,  # type: ignore[arg-type]
    )
    operator.open(context, [] if restored is None else [json.loads(json.dumps(restored))])
    return operator


def write(operator: Any, *values: int) -> None:
    assert list(operator.process(Batch(list(values)), 0)) == []


def test_output_of_aborted_checkpoints_goes_into_the_next_snapshot() -> None:
    ledger = Ledger()
    operator = opened(ledger)
    write(operator, 1)
    operator.snapshot(1)
    write(operator, 2)
    state = operator.snapshot(2)

    assert [number for number, _ in state["pending"]] == [1, 2]
    operator.commit(2)()
    operator.committed(2)
    assert sorted(ledger.committed) == ["1.1-1", "1.1-2"]
    assert operator.snapshot(3) == {"pending": []}


def test_a_commit_takes_what_is_prepared_for_its_checkpoint_and_lower_ones_only() -> None:
    ledger = Ledger()
    operator = opened(ledger)
    for number in (1, 2, 3):
        write(operator, number)
        operator.snapshot(number)

    operator.commit(2)()
    assert sorted(ledger.committed) == ["1.1-1", "1.1-2"]
    assert len(operator.snapshot(4)["pending"]) == 3, "pending until it is said that the commit has succeeded"
    operator.committed(2)
    assert [number for number, _ in operator.snapshot(5)["pending"]] == [3]


def test_restored_committables_are_committed_and_other_leftovers_discarded() -> None:
    ledger = Ledger()
    operator = opened(ledger)
    write(operator, 1)
    state = operator.snapshot(1)
    write(operator, 2)
    operator.snapshot(2)
    operator.close()

    restored = opened(ledger, 2, state)
    restored.restored_commit()()

    assert ledger.committed == {"1.1-1": [1]}
    assert "1.1-2" not in ledger.prepared
    assert restored.snapshot(3) == {"pending": []}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["write", "snapshot", "complete", "crash"]), max_size=40))
def test_every_record_of_a_completed_checkpoint_is_committed_once_and_no_other(steps: list[str]) -> None:
    ledger = Ledger()
    operator = opened(ledger)
    written: list[int] = []
    base: tuple[Any, int] = (None, 0)
    latest: tuple[int, Any, int] | None = None
    number = attempt = 0
    for step in [*steps, "snapshot", "complete"]:
        if step == "write":
            written.append(len(written))
            write(operator, written[-1])
        elif step == "snapshot":
            number += 1
            latest = (number, operator.snapshot(number), len(written))
        elif step == "complete" and latest is not None:
            base = latest[1:]
            operator.commit(latest[0])()
            operator.committed(latest[0])
            latest = None
        elif step == "crash":
            attempt += 1
            operator.close()
            operator = opened(ledger, attempt + 1, base[0])
            operator.restored_commit()()
            # The source goes back with the sink.
            del written[base[1] :]
            latest = None

    assert sorted(value for values in ledger.committed.values() for value in values) == written


def test_a_two_phase_sink_needs_a_writer_that_prepares() -> None:
    class Wrong(Ledger):
        def open(self, context: SinkContext) -> SinkWriter[int]:
            return _Appending([])

    with pytest.raises(TypeError, match="sink `out` is two-phase"):
        opened(Wrong())


class _Appending(SinkWriter[int]):
    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def write(self, values: list[int], times: list[int] | None) -> None:
        self._log.append(list(values))

    def flush(self) -> None:
        self._log.append("flush")

    def close(self) -> None:
        self._log.append("close")


class Direct(Sink[int]):
    def __init__(self) -> None:
        self.log: list[Any] = []

    def open(self, context: SinkContext) -> SinkWriter[int]:
        return _Appending(self.log)


def test_a_direct_sink_writes_at_once_and_flushes_at_barriers(tmp_path: Path) -> None:
    sink = Direct()
    operator = opened(sink)
    write(operator, 1, 2)
    assert operator.snapshot(1) is None
    operator.close()
    operator.close()

    assert sink.log == [[1, 2], "flush", "close"]
    assert isinstance(operator, DirectSinkOperator)
    assert isinstance(opened(Ledger()), TwoPhaseSinkOperator)
