"""The operator as its next version may be: it makes other pods. `python next_operator.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from checkdam_operator.__main__ import main
from checkdam_operator.reconcile import doing

NEW_VARIABLE: Final = {"name": "SINCE_THE_NEXT_VERSION", "value": "yes"}


def _with_more(make: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def made(*arguments: Any, **named: Any) -> dict[str, Any]:
        pod = make(*arguments, **named)
        pod["spec"]["containers"][0]["env"].append(NEW_VARIABLE)
        return pod

    return made


if __name__ == "__main__":
    doing.coordinator_pod = _with_more(doing.coordinator_pod)
    doing.worker_pod = _with_more(doing.worker_pod)
    main()
