"""Calling the command line inside the test's process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from checkdam.cli.main import main

MANIFEST = """\
apiVersion: checkdam.dev/v1alpha1
kind: StreamJob
metadata: {name: flight-delays}
spec:
  program: {entrypoint: "flight_delays:build", args: {window: 1h, top: 3}}
  parallelism: 2
  checkpoint:
    interval: 10s
    storage: {uri: "s3://bucket/jobs", s3: {region: eu}}
"""


@dataclass(frozen=True)
class Outcome:
    """What a call left behind."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Outcome:
    """Run `checkdam` with `arguments`."""
    code: Any
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code or 0
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Callable[..., Any]) -> None:
    """Let `import name` find these functions instead of the real module."""
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)
