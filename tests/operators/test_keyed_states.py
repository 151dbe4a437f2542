"""State handles: what each kind keeps per key, how long, and where it may be used."""

from __future__ import annotations

from typing import Any

import pytest
from function_run import FunctionRun

from checkdam.core.errors import PipelineError, UserCodeError, ValueTypeError
from checkdam.operators.aggregators import mean_of
from checkdam.operators.functions import (
    AggregatingState,
    ListState,
    MapState,
    ProcessFunction,
    ReducingState,
    ValueState,
)
from checkdam.operators.process import KeyedProcessOperator
from checkdam.state.backends import BackendKind

KINDS: list[BackendKind] = ["hashmap", "rocksdb"]


class Script(ProcessFunction):
    """Runs the call that a record is, and yields what it returns."""

    value = ValueState("value", int)
    items = ListState("items", str)
    entries = MapState("entries", str, int)
    largest = ReducingState("largest", int, max)
    mean = AggregatingState("mean", mean_of())
    brief = ValueState("brief", int, ttl="1s")
    brief_items = ListState("brief_items", int, ttl=1000)

    def process(self, value: Any, ctx: Any) -> Any:
        yield value(self)


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Any:
    made = FunctionRun(lambda: KeyedProcessOperator("op", Script), request.param)
    yield made
    made.close()


def ask(run: FunctionRun, key: Any, call: Any) -> Any:
    run.feed((key, 0, call))
    return run.taken()[0]


def test_a_value_is_kept_per_key_until_it_is_cleared(run: FunctionRun) -> None:
    ask(run, "a", lambda f: f.value.update(1))
    ask(run, "b", lambda f: f.value.update(2))
    run.restore()
    assert ask(run, "a", lambda f: f.value.get()) == 1
    assert ask(run, "b", lambda f: f.value.get(0)) == 2
    assert ask(run, "c", lambda f: f.value.get()) is None
    assert ask(run, "c", lambda f: f.value.get(7)) == 7
    ask(run, "a", lambda f: f.value.clear())
    run.restore()
    assert ask(run, "a", lambda f: f.value.get()) is None
    assert ask(run, "b", lambda f: f.value.get()) == 2


def test_a_list_grows_is_replaced_and_cleared(run: FunctionRun) -> None:
    assert ask(run, "a", lambda f: f.items.get()) == []
    ask(run, "a", lambda f: f.items.add("x"))
    ask(run, "a", lambda f: f.items.add("y"))
    run.restore()
    assert ask(run, "a", lambda f: f.items.get()) == ["x", "y"]
    ask(run, "a", lambda f: f.items.update(["z"]))
    ask(run, "a", lambda f: f.items.add("w"))
    assert ask(run, "a", lambda f: f.items.get()) == ["z", "w"]
    ask(run, "a", lambda f: f.items.clear())
    assert ask(run, "a", lambda f: f.items.get()) == []


def test_a_list_that_was_read_is_the_callers_own(run: FunctionRun) -> None:
    given = ["x"]
    ask(run, "a", lambda f: f.items.update(given))
    given.append("later")
    ask(run, "a", lambda f: f.items.get()).append("mine")
    assert ask(run, "a", lambda f: f.items.get()) == ["x"]


def test_a_map_keeps_its_entries_one_by_one(run: FunctionRun) -> None:
    ask(run, "a", lambda f: f.entries.put("x", 1))
    ask(run, "a", lambda f: f.entries.put("y", 2))
    ask(run, "b", lambda f: f.entries.put("x", 3))
    run.restore()
    assert ask(run, "a", lambda f: f.entries.get("x")) == 1
    assert ask(run, "a", lambda f: f.entries.get("z", 9)) == 9
    assert sorted(ask(run, "a", lambda f: f.entries.items())) == [("x", 1), ("y", 2)]
    assert sorted(ask(run, "a", lambda f: f.entries.keys())) == ["x", "y"]
    assert ask(run, "a", lambda f: "x" in f.entries)
    assert not ask(run, "a", lambda f: "z" in f.entries)
    ask(run, "a", lambda f: f.entries.remove("x"))
    assert ask(run, "a", lambda f: f.entries.keys()) == ["y"]
    ask(run, "a", lambda f: f.entries.clear())
    assert ask(run, "a", lambda f: f.entries.items()) == []
    assert ask(run, "b", lambda f: f.entries.items()) == [("x", 3)]


def test_a_reducing_state_folds_what_is_added(run: FunctionRun) -> None:
    assert ask(run, "a", lambda f: f.largest.get()) is None
    for number in (3, 5, 4):
        ask(run, "a", lambda f, number=number: f.largest.add(number))
    run.restore()
    assert ask(run, "a", lambda f: f.largest.get()) == 5
    ask(run, "a", lambda f: f.largest.clear())
    assert ask(run, "a", lambda f: f.largest.get()) is None


def test_an_aggregating_state_gives_the_aggregators_result(run: FunctionRun) -> None:
    assert ask(run, "a", lambda f: f.mean.get()) is None
    for number in (1, 2, 6):
        ask(run, "a", lambda f, number=number: f.mean.add(number))
    run.restore()
    assert ask(run, "a", lambda f: f.mean.get()) == 3
    ask(run, "a", lambda f: f.mean.clear())
    assert ask(run, "a", lambda f: f.mean.get()) is None


def test_state_with_a_ttl_lives_from_its_last_update(run: FunctionRun) -> None:
    ask(run, "a", lambda f: f.brief.update(1))
    ask(run, "a", lambda f: f.brief_items.add(1))
    run.clock.advance(999)
    assert ask(run, "a", lambda f: f.brief.get()) == 1
    ask(run, "a", lambda f: f.brief_items.add(2))
    run.restore()
    run.clock.advance(1)
    assert ask(run, "a", lambda f: f.brief.get(0)) == 0
    assert ask(run, "a", lambda f: f.brief_items.get()) == [1, 2]
    run.clock.advance(1000)
    assert ask(run, "a", lambda f: f.brief_items.get()) == []
    ask(run, "a", lambda f: f.brief.update(2))
    ask(run, "a", lambda f: f.brief.clear())
    assert ask(run, "a", lambda f: f.brief.get()) is None


def test_none_is_a_value() -> None:
    class Keep(ProcessFunction):
        kept = ValueState("kept")

        def process(self, value: Any, ctx: Any) -> Any:
            before = self.kept.get("nothing")
            self.kept.update(None)
            return [before]

    run = FunctionRun(lambda: KeyedProcessOperator("op", Keep))
    run.feed(("a", 0, 1), ("a", 0, 2))
    assert run.taken() == ["nothing", None]


def test_a_handle_refuses_to_work_without_a_current_key() -> None:
    kept: list[Any] = []

    class Leak(ProcessFunction):
        count = ValueState("count", int)
        seen = MapState("seen", str, int)

        def process(self, value: Any, ctx: Any) -> None:
            kept.extend((self.count, self.seen))

    run = FunctionRun(lambda: KeyedProcessOperator("op", Leak))
    run.feed(("a", 0, 1))
    count, seen = kept
    calls = (count.get, lambda: count.update(1), count.clear, seen.items, lambda: seen.put("x", 1), lambda: "x" in seen)
    for call in calls:
        with pytest.raises(PipelineError, match=r"state `(count|seen)` of operator `op` was used where there is no"):
            call()


def test_state_used_in_open_is_refused_by_name() -> None:
    class Early(ProcessFunction):
        count = ValueState("count", int)

        def open(self, context: Any) -> None:
            self.count.update(1)

    with pytest.raises(UserCodeError, match="state `count` can be used only in process"):
        FunctionRun(lambda: KeyedProcessOperator("op", Early))


def test_states_set_in_init_and_inherited_ones_work_alike() -> None:
    class Base(ProcessFunction):
        total = ValueState("total", int)

    class Derived(Base):
        def __init__(self, name: str) -> None:
            self.named: Any = ValueState(name, int)

        def process(self, value: Any, ctx: Any) -> Any:
            self.total.update(self.total.get(0) + value)
            self.named.update(self.named.get(0) + 1)
            return [(self.total.get(), self.named.get())]

    run = FunctionRun(lambda: KeyedProcessOperator("op", Derived("mine")))
    run.feed(("a", 0, 5), ("a", 0, 6))
    assert run.taken() == [(5, 1), (11, 2)]
    assert [spec.id for spec in KeyedProcessOperator("op", Derived("mine")).tables()] == ["op/total", "op/mine"]


def test_two_operators_of_one_instance_share_no_state() -> None:
    class Remember(ProcessFunction):
        def __init__(self) -> None:
            self.values: list[Any] = []

        def process(self, value: Any, ctx: Any) -> Any:
            self.values.append(value)
            return [list(self.values)]

    shared = Remember()
    first, second = (FunctionRun(lambda: KeyedProcessOperator("op", shared)) for _ in range(2))
    first.feed(("a", 0, 1))
    second.feed(("a", 0, 2))
    assert (first.taken(), second.taken()) == ([[1]], [[2]])
    assert shared.values == []


def test_tables_are_known_before_open_with_their_types() -> None:
    tables = {spec.name: spec for spec in KeyedProcessOperator("op", Script).tables()}
    assert tables["value"].serde.name == "msgpack:int"
    assert tables["items"].serde.name == "msgpack:list[str]"
    assert (tables["entries"].kind, tables["value"].kind) == ("map", "value")
    assert (tables["brief"].ttl_ms, tables["value"].ttl_ms) == (1000, 0)


def test_undeclared_state_is_refused_where_pickle_is_forbidden() -> None:
    class Undeclared(ProcessFunction):
        kept = ValueState("kept")

    with pytest.raises(ValueTypeError, match="state `kept` of operator `op`"):
        KeyedProcessOperator("op", Undeclared, allow_pickle=False).tables()


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: ValueState(""), "the name of a state must be a text without `/`"),
        (lambda: ValueState("a/b"), "the name of a state must be a text without `/`"),
        (lambda: ValueState("a", int, ttl="soon"), "`ttl` of state `a` must be a duration"),
        (lambda: ValueState("a", int, ttl=0), "`ttl` of state `a` must be longer than 0"),
    ],
)
def test_a_wrong_declaration_is_refused(declare: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        declare()


def test_two_states_of_one_name_are_refused() -> None:
    class Twice(ProcessFunction):
        first = ValueState("same", int)
        second = ListState("same", int)

    with pytest.raises(PipelineError, match="two states of `Twice` are named `same`"):
        KeyedProcessOperator("op", Twice)


def test_a_missing_attribute_stays_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'ProcessFunction' object has no attribute 'nothing'"):
        ProcessFunction().nothing  # noqa: B018
