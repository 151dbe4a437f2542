"""A manifest that is right, for tests to spoil."""

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


def manifest(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """The smallest manifest with `fields` (path such as `spec.parallelism` → value) laid over it; `...` removes one."""
    made = copy.deepcopy(_MINIMAL)
    for path, value in (fields or {}).items():
        *parents, name = path.split(".")
        node = made
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is ...:
            del node[name]
        else:
            node[name] = value
    return made
