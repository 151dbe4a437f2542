"""A pipeline's code changes between two of its lives: what is carried over, and what is refused by name."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest

import checkdam as cd
from checkdam.core.errors import CheckpointError, IncompatibleCheckpointError, PipelineError
from checkdam.state.backends import BackendKind
from checkdam.testing import PAUSE, CommittedCollectSink, Harness, ScriptedSource

BACKENDS = get_args(BackendKind)
Build = Callable[[cd.Pipeline, dict[str, Any]], None]


class Side(enum.Enum):
    BUY = "b"
    SELL = "s"


@dataclass
class Order:
    number: int
    amount: int
    side: Side = Side.BUY
    note: str = ""


@cd.formerly("test_upgrades.Order", fields={"total": "amount"})
@dataclass
class Purchase:
    """An Order, renamed, with a field renamed and widened, one gone and one new."""

    number: int
    total: float
    side: Side = Side.BUY
    lines: list[str] = field(default_factory=list)


@cd.formerly("test_upgrades.Purchase", "test_upgrades.Order")
@dataclass
class Forgetful:
    """A Purchase that does not know what `total` was called."""

    number: int
    total: float


@cd.formerly("test_upgrades.Order")
@dataclass
class Noted:
    """An Order whose note is something else."""

    number: int
    note: int = 0


@cd.formerly("test_upgrades.Order")
@dataclass
class Numbered:
    """An Order without its note."""

    number: int


@cd.formerly("test_upgrades.Numbered", "test_upgrades.Order")
@dataclass
class Renoted:
    """A Numbered with a note again, which is something else than an Order's."""

    number: int
    note: int = 0


@dataclass
class Stranger:
    number: int


class Last(cd.ProcessFunction):
    """Yields the record before, of whatever class it is stored as."""

    order_type: Any = Order
    make: Any = staticmethod(Order)

    def __init__(self) -> None:
        self.last = cd.ValueState("last", self.order_type)

    def process(self, value: tuple[int, int], ctx: cd.ProcessContext) -> Iterable[Any]:
        before = self.last.get()
        if value[1] >= 0:
            self.last.update(self.make(*value))
        return [before] if before is not None else []


def last_of(order_type: Any, make: Any = None) -> type[Last]:
    return type("LastOf", (Last,), {"order_type": order_type, "make": staticmethod(make or order_type)})


def number_of(record: tuple[int, int]) -> int:
    return record[0]


def pipeline_of(function: Any, *, name: str = "last", sink: str = "out", two_phase: bool = True) -> Build:
    """orders → function → sink."""

    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("orders", args["source"]).key_by(number_of).process(function, name=name)
        stream.sink(sink, CommittedCollectSink("upgraded") if two_phase else cd.CollectSink("upgraded"))

    return build


@contextmanager
def after_a_checkpoint(
    backend: BackendKind, build: Build, *script: Any, commit: bool = True, parallelism: int = 2
) -> Iterator[Harness]:
    """A pipeline whose state holds orders 1 to 5; the script goes on with them after the checkpoint."""
    first = [(number, number * 10) for number in range(1, 6)]
    source = ScriptedSource([*first, PAUSE, *script])
    with Harness(build, args={"source": source}, backend=backend, parallelism=parallelism) as harness:
        harness.run()
        harness.checkpoint(commit=commit)
        yield harness


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_and_its_fields_are_renamed_widened_added_and_removed(backend: BackendKind) -> None:
    # Two rounds: the first reads old values and leaves them as they are, the second reads them after another checkpoint.
    script = [*((number, -1) for number in range(1, 6)), PAUSE, *((number, 0) for number in range(1, 6))]
    with after_a_checkpoint(backend, pipeline_of(Last), *script) as harness:
        harness.upgrade(pipeline_of(last_of(Purchase)))
        harness.run()
        harness.checkpoint()
        harness.crash()
        found = harness.finish()["upgraded"]
    assert sorted(found, key=lambda order: order.number) == [
        Purchase(number, float(number * 10)) for number in range(1, 6) for _ in range(2)
    ]
    assert {type(order.total) for order in found} == {float}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (
            Stranger,
            r"`test_upgrades\.Stranger` now but was `test_upgrades\.Order`; .*formerly\(\"test_upgrades\.Order\"\)",
        ),
        (Forgetful, r"`test_upgrades\.Forgetful\.total` is new and has no default"),
        (Noted, r"`test_upgrades\.Noted\.note` is `int` now but was `str`"),
        (int, "the value is `int` now but was `test_upgrades.Order`"),
        (None, "it is pickled now but had a declared type"),
    ],
)
def test_a_type_that_cannot_read_what_is_stored_is_refused_before_any_record(
    backend: BackendKind, declared: Any, reason: str
) -> None:
    with after_a_checkpoint(backend, pipeline_of(Last), (1, 0)) as harness:
        with pytest.raises(IncompatibleCheckpointError, match=reason) as raised:
            harness.upgrade(pipeline_of(last_of(declared, Order)), allow_non_restored_state=True)
        assert "state `last` of operator `last` is declared as `" in str(raised.value)
        assert "` now, but checkpoint 1 has it as `test_upgrades.Order`: " in str(raised.value)
        assert "`spec.allowNonRestoredState: true` to drop" in str(raised.value)
        assert harness.finish()["upgraded"] == [Order(1, 10)], "the old pipeline goes on"


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_values_were_written_as_counts_until_they_are_written_anew(backend: BackendKind) -> None:
    with after_a_checkpoint(backend, pipeline_of(Last), (1, 0)) as harness:
        harness.upgrade(pipeline_of(last_of(Numbered, lambda number, amount: Numbered(number))))
        harness.checkpoint()
        # The note is gone and comes back as an int; RocksDB still has it as the text that it was.
        upgrade = pipeline_of(last_of(Renoted))
        if backend == "rocksdb":
            with pytest.raises(
                IncompatibleCheckpointError, match=r"`test_upgrades\.Renoted\.note` is `int` now but was `str`"
            ):
                harness.upgrade(upgrade)
        else:
            harness.upgrade(upgrade)
            assert harness.finish()["upgraded"] == [Renoted(1)]


def test_an_accumulator_of_a_window_that_changed_is_named() -> None:
    def counting(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        windows(pipeline, args).count(name="windows").sink("out", cd.CollectSink("windows"))

    def averaging(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        windows(pipeline, args).mean(lambda order: order[1], name="windows").sink("out", cd.CollectSink("windows"))

    def windows(pipeline: cd.Pipeline, args: dict[str, Any]) -> cd.WindowedStream:
        source = pipeline.source("orders", args["source"], cd.monotonous(number_of))
        return source.key_by(number_of).window(cd.Tumbling("1h"))

    words = r"state `panes` of operator `windows` is declared as `pickle` now, but checkpoint 1 has it as `int`"
    with after_a_checkpoint("hashmap", counting) as harness, pytest.raises(IncompatibleCheckpointError, match=words):
        harness.upgrade(averaging)


class Enrich(cd.BroadcastFunction):
    key_type, value_type = int, Order

    def process(self, value: Any, ctx: cd.BroadcastContext) -> Iterable[Any]:
        return [ctx.broadcast_state.get(value[0])]

    def process_broadcast(self, value: Any, ctx: cd.BroadcastContext) -> None:
        ctx.broadcast_state.put(value, Order(value, value * 10))


class EnrichPurchases(Enrich):
    value_type = Purchase


class EnrichStrangers(Enrich):
    value_type = Stranger


def test_an_operators_own_state_follows_the_same_rules() -> None:
    def enriching(function: type[Enrich]) -> Build:
        def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
            main = pipeline.source("orders", args["source"])
            side = pipeline.source("numbers", args["numbers"])
            main.broadcast_join(side, function, name="enrich").sink("out", cd.CollectSink("enriched"))

        return build

    sources = {"source": ScriptedSource([PAUSE, (3, 0)]), "numbers": ScriptedSource([1, 2, 3])}
    with Harness(enriching(Enrich), args=sources) as harness:
        harness.run()
        harness.checkpoint()
        with pytest.raises(IncompatibleCheckpointError, match=r"state `values` of operator `enrich`.*Stranger"):
            harness.upgrade(enriching(EnrichStrangers))
        harness.upgrade(enriching(EnrichPurchases))
        assert harness.finish()["enriched"] == [Purchase(3, 30.0)]


class TwoStates(Last):
    def __init__(self) -> None:
        super().__init__()
        self.seen = cd.ValueState("seen", int)

    def process(self, value: tuple[int, int], ctx: cd.ProcessContext) -> Iterable[Any]:
        self.seen.update(self.seen.get(0) + 1)
        return [(self.seen.get(), *super().process(value, ctx))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_state_starts_empty_and_one_that_is_gone_needs_the_flag(backend: BackendKind) -> None:
    with after_a_checkpoint(backend, pipeline_of(Last), (1, 0)) as harness:
        harness.upgrade(pipeline_of(TwoStates))
        harness.checkpoint()
        with pytest.raises(
            IncompatibleCheckpointError, match=r"`last` \(process\) has the state `seen` in checkpoint 2 but does"
        ):
            harness.upgrade(pipeline_of(Last))
        harness.upgrade(pipeline_of(Last), allow_non_restored_state=True)
        assert harness.finish()["upgraded"] == [Order(1, 10)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_operator_with_state_that_is_renamed_needs_the_flag_and_then_starts_empty(backend: BackendKind) -> None:
    with after_a_checkpoint(backend, pipeline_of(Last), (1, 0)) as harness:
        with pytest.raises(IncompatibleCheckpointError) as raised:
            harness.upgrade(pipeline_of(Last, name="latest"))
        removed, added = str(raised.value).split("\n")
        assert removed.startswith(
            "operator `last` (process) has state in checkpoint 1 but is not in the pipeline any more"
        )
        assert added.startswith("operator `latest` (process) has no state in checkpoint 1")
        harness.upgrade(pipeline_of(Last, name="latest"), allow_non_restored_state=True)
        assert harness.finish()["upgraded"] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_stateless_operators_come_and_go_and_may_become_others(backend: BackendKind) -> None:
    def with_steps(*kinds: str) -> Build:
        def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
            stream = pipeline.source("orders", args["source"])
            for number, kind in enumerate(kinds):
                name = f"step-{number}"
                stream = stream.map(lambda order: order, name=name) if kind == "map" else stream.filter(bool, name=name)
            stream.key_by(number_of).process(Last, name="last").sink("out", CommittedCollectSink("upgraded"))

        return build

    with after_a_checkpoint(backend, with_steps("map"), (1, 0)) as harness:
        harness.upgrade(with_steps("filter", "map", "map"))
        harness.upgrade(with_steps())
        assert harness.finish()["upgraded"] == [Order(1, 10)]


class Reminder(cd.ProcessFunction):
    """Keeps timers and nothing else."""

    def process(self, value: tuple[int, int], ctx: cd.ProcessContext) -> None:
        ctx.register_processing_timer(1_000_000)

    def on_timer(self, time_ms: int, ctx: cd.ProcessContext) -> Iterable[Any]:
        return [ctx.key]


@pytest.mark.parametrize("backend", BACKENDS)
def test_timers_are_state_that_is_carried_over_and_not_dropped_unasked(backend: BackendKind) -> None:
    with after_a_checkpoint(backend, pipeline_of(Reminder)) as harness:
        with pytest.raises(IncompatibleCheckpointError, match=r"operator `last` \(process\) has state in checkpoint 1"):
            harness.upgrade(pipeline_of(Last, name="other"))
        harness.upgrade(pipeline_of(Reminder))
        harness.advance(1_000_000)
        assert sorted(harness.finish()["upgraded"]) == [1, 2, 3, 4, 5]


def test_a_name_that_another_kind_of_operator_bears_now_is_refused_whatever_the_flag() -> None:
    def reduced(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("orders", args["source"]).key_by(number_of).reduce(max, name="last")
        stream.sink("out", CommittedCollectSink("upgraded"))

    words = "`last` is of the kind `aggregate` now but was of the kind `process` in checkpoint 1"
    with (
        after_a_checkpoint("hashmap", pipeline_of(Last)) as harness,
        pytest.raises(IncompatibleCheckpointError, match=words),
    ):
        harness.upgrade(reduced, allow_non_restored_state=True)


@pytest.mark.parametrize(
    "changed", [{"sink": "other"}, {"two_phase": False}], ids=["removed", "not two-phase any more"]
)
def test_a_sink_with_pending_output_stays_until_it_is_committed(changed: dict[str, Any]) -> None:
    build = pipeline_of(last_of(Order))
    source = ScriptedSource([(1, 0), (1, 1), PAUSE, (1, 2)])
    with Harness(build, args={"source": source}) as harness:
        harness.run()
        harness.checkpoint(commit=False)
        with pytest.raises(
            IncompatibleCheckpointError, match=r"sink `out` is .*holds output of .*may not be committed yet"
        ):
            harness.upgrade(pipeline_of(last_of(Order), **changed), allow_non_restored_state=True)
        harness.crash()
        assert harness.collected()["upgraded"] == [Order(1, 0)], "restoring has committed it"
        harness.upgrade(pipeline_of(last_of(Order), **changed))
        assert harness.finish()["upgraded"][-1] == Order(1, 1)


def test_an_upgrade_needs_a_checkpoint_and_a_pipeline_that_can_run() -> None:
    class Plain(ScriptedSource):
        can_reserve = False

    args = {"source": ScriptedSource([(1, 0)])}
    with Harness(pipeline_of(Last), args=args, mode="AtMostOnce") as harness:
        with pytest.raises(CheckpointError, match="there is no checkpoint to go on from"):
            harness.upgrade(pipeline_of(Last))
        harness.checkpoint()
        with pytest.raises(PipelineError, match=r"source `orders` \(Plain\) cannot reserve positions"):
            harness.upgrade(pipeline_of(Last), args={"source": Plain([])})
