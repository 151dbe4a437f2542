"""Which reasons the operator gives in conditions and Events, read from its code.

Reasons are the first words of `Trouble(…)` and `Event(…)`, and stand at fixed places of a few other calls. Whatever expression stands there must be one that
is understood here, so a reason that is made in a new way is not overlooked.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

from checkdam.spec.status import Outcome
from checkdam_operator.decide.rollout import Change

PACKAGE: Final = Path(__file__).resolve().parents[2] / "operator" / "checkdam_operator"

_PLACES: Final = {"Trouble": 0, "Event": 0, "Standing": 2, "_status": 3, "set_condition": 3}
"""call → which of its arguments is the reason."""

_NAMED: Final = {
    "rollout.change": {change for change in get_args(Change) if change not in ("", "Deploy")},
    "state": {"Starting", "Restarting"},
}
_PASSED_ON: Final = frozenset({"reason"})
"""Names of arguments and attributes whose value was given elsewhere."""


def reasons() -> dict[str, set[str]]:
    """call → all reasons that are given by it; `checkpoints` stands for the condition CheckpointHealthy."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    trees = [ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))]
    constants = dict(pair for tree in trees for pair in _constants(tree))
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", "")
                place = _PLACES.get(name)
                if place is not None and len(node.args) > place:
                    found[name] |= _values(node.args[place], constants)
                if name == "replace":
                    given = [word.value for word in node.keywords if word.arg == "reason"]
                    found["Trouble"].update(*(_values(value, constants) for value in given))
            if isinstance(node, ast.FunctionDef) and node.name == "_checkpoint_health":
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple):
                        found["checkpoints"] |= _values(inner.value.elts[1], constants)
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.value, ast.Constant)
        ):
            yield node.target.id, str(node.value.value)


def _values(expression: ast.expr, constants: dict[str, str]) -> set[str]:
    text = ast.unparse(expression)
    if isinstance(expression, ast.Constant):
        return {str(expression.value)}
    if isinstance(expression, ast.IfExp):
        return _values(expression.body, constants) | _values(expression.orelse, constants)
    if isinstance(expression, ast.JoinedStr):
        assert re.fullmatch(r"f'Job\{\w+\.outcome\}'", text), f"what reasons does {text} give?"
        return {f"Job{outcome}" for outcome in get_args(Outcome) if outcome not in ("", "Completed")}
    if text in _NAMED:
        return _NAMED[text]
    if text in constants:
        return {constants[text]}
    assert text.rpartition(".")[2] in _PASSED_ON, f"what reasons does {text} give?"
    return set()
