"""The examples as modules, and what must hold of the output of those that several suites run."""

from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"


@cache
def module_of(path: Path) -> ModuleType:
    """An example's module, by its file."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_statements(rows: list[dict[str, Any]], count: int) -> None:
    """Of `state-backends`: each of `count` payments once, and every account's rows numbered without a gap, each with the sum of those up to it."""
    payment = module_of(EXAMPLES / "state-backends" / "accounts.py").payment
    assert sorted(row["payment"] for row in rows) == list(range(count))
    accounts: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        accounts[row["account"]].append(row)
    for account, statements in accounts.items():
        balance = 0
        for number, row in enumerate(sorted(statements, key=lambda row: row["number"]), start=1):
            paid = payment(row["payment"])
            balance += paid.cents
            assert (row["number"], row["balance"], paid.account) == (number, balance, account)
