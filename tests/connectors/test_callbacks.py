"""Sinks into the same process."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from checkdam.connectors.base import SinkContext, TwoPhaseWriter
from checkdam.connectors.callbacks import (
    CollectSink,
    CommittedCollectSink,
    FunctionSink,
    PrintSink,
    collected,
    forget_collected,
)
from checkdam.core.errors import StorageError

CONTEXT = SinkContext("sink", 0, "1.1", 2)


@pytest.fixture(autouse=True)
def _empty_lists() -> Iterator[None]:
    yield
    forget_collected("seen")


def test_a_function_is_called_with_records_or_with_whole_batches() -> None:
    seen: list[object] = []
    FunctionSink[int](seen.append).open(CONTEXT).write([1, 2], None)
    FunctionSink[int](seen.append, whole_batches=True).open(CONTEXT).write([3, 4], None)
    assert seen == [1, 2, [3, 4]]


def test_print_writes_a_line_for_each_record() -> None:
    out = io.StringIO()
    PrintSink[object]("> ", out).open(CONTEXT).write([1, ("a", 2)], None)
    assert out.getvalue() == "> 1\n> ('a', 2)\n"


def test_print_follows_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    PrintSink[int]().open(CONTEXT).write([5], None)
    assert capsys.readouterr().out == "5\n"


def test_collected_records_are_found_by_name() -> None:
    CollectSink[int]("seen").open(CONTEXT).write([1, 2], None)
    assert CollectSink[int]("seen").values == collected("seen") == [1, 2]
    forget_collected("seen")
    assert collected("seen") == []


def test_committed_records_appear_once_with_their_checkpoint() -> None:
    sink = CommittedCollectSink[int]("seen")
    writer = sink.open(CONTEXT)
    assert isinstance(writer, TwoPhaseWriter)
    writer.write([1, 2], None)
    first = writer.prepare(1)
    writer.write([3], None)
    second = writer.prepare(2)
    assert writer.prepare(3) == []
    assert collected("seen") == []
    sink.commit(first)
    sink.commit(first)
    assert collected("seen") == [1, 2]
    sink.discard(SinkContext("sink", 0, "1.2", 2), first)
    with pytest.raises(StorageError, match="process that is gone"):
        sink.commit(second)
    sink.commit(first)
    assert collected("seen") == [1, 2]
