"""Manifests that are right, for tests to spoil."""

from __future__ import annotations

import copy
from typing import Any

_MINIMAL: dict[str, Any] = {
    "apiVersion": "checkdam.dev/v1alpha1",
    "kind": "StreamJob",
    "metadata": {"name": "flight-delays"},
    "spec": {
        "program": {"entrypoint": "flight_delays:build"},
        "checkpoint": {"storage": {"uri": "file:///checkpoints"}},
    },
}


_SAVEPOINT: dict[str, Any] = {
    "apiVersion": "checkdam.dev/v1alpha1",
    "kind": "Savepoint",
    "metadata": {"name": "before-friday"},
    "spec": {"job": "flight-delays"},
}


def manifest(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """The smallest StreamJob with `fields` (path such as `spec.parallelism` → value) laid over it; `...` removes one."""
    return _overlaid(_MINIMAL, fields or {})


def savepoint(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """The smallest Savepoint with `fields` laid over it."""
    return _overlaid(_SAVEPOINT, fields or {})


def _overlaid(base: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(base)
    for path, value in fields.items():
        *parents, name = path.split(".")
        node = made
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is ...:
            del node[name]
        else:
            node[name] = value
    return made
