"""The operator as it is, but for that it may kill itself before or after one of its writes: `python mortal_operator.py`.

`MORTAL_OPERATOR=before:3` ends it by SIGKILL when it is about to send its third write, `after:3` when it has the answer to it and has done nothing with it yet,
`before:revision=2` when it is about to write that revision ahead. Writes are what it asks the API server to change, except for its
Lease and its Events, and what it asks coordinators to do, except for checkpoints. In between an operator cannot leave anything half
done that another one would see.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from checkdam_operator.__main__ import main
from checkdam_operator.coordinators.client import HttpCoordinatorApi
from checkdam_operator.kube.client import KubeClient
from checkdam_operator.kube.kinds import EVENT, LEASE

VARIABLE: Final = "MORTAL_OPERATOR"


class Fate:
    """Counts writes, and ends the process at one of them.

    Args:
        wish: As in the environment.
    """

    def __init__(self, wish: str) -> None:
        self._when, _, moment = wish.partition(":")
        name, _, revision = moment.rpartition("=")
        self._revision = int(revision) if name else 0
        self._left = 0 if name else int(moment)

    def _has_come(self, arguments: Sequence[Any]) -> bool:
        if self._revision:
            return _revision_in(arguments[-1]) == self._revision
        self._left -= 1
        return self._left == 0

    def awaits(self, write: Callable[..., Awaitable[Any]], counts: Callable[..., bool]) -> Callable[..., Any]:
        """The same write, at which the process may die."""

        async def fateful(*arguments: Any, **named: Any) -> Any:
            if not counts(*arguments):
                return await write(*arguments, **named)
            its_turn = self._has_come(arguments)
            if its_turn and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = await write(*arguments, **named)
            if its_turn:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return fateful


def _is_about_jobs(_client: Any, kind: Any, *_: Any) -> bool:
    return kind not in (LEASE, EVENT)


def _changes_a_job(_api: Any, _address: Any, method: str, path: str, *_: Any) -> bool:
    return method == "POST" and path != "/v1/checkpoints"


def _revision_in(body: Any) -> int:
    """The revision that a status written ahead has; 0 for all other writes."""
    status = body.get("status") if isinstance(body, dict) else None
    deployment = (status or {}).get("deployment") or {}
    return int(deployment.get("revision", 0))


if __name__ == "__main__":
    if wish := os.environ.get(VARIABLE, ""):
        fate = Fate(wish)
        for verb in ("create", "apply", "patch", "delete"):
            setattr(KubeClient, verb, fate.awaits(getattr(KubeClient, verb), _is_about_jobs))
        HttpCoordinatorApi.ask = fate.awaits(HttpCoordinatorApi.ask, _changes_a_job)  # type: ignore[method-assign]
    main()
