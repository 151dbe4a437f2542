"""Asking a job for a savepoint while its processes are killed: again and again, until there is one."""

from __future__ import annotations

import json
import random
import threading
import urllib.request
from pathlib import Path
from typing import Any

_PAUSE_S = 0.05


class SavepointWish:
    """Asks the coordinator of a run, whoever that is, for a savepoint after some checkpoints.

    Args:
        run_folder: The run's.
        after: How many checkpoints the job has completed before.
        stop: Whether the job is to stop with it.

    Attributes:
        uri: Where the savepoint is; empty as long as nobody has said that it is complete.
    """

    def __init__(self, run_folder: Path, after: int, *, stop: bool) -> None:
        self.uri = ""
        self._run_folder = run_folder
        self._after = after
        self._stop = stop
        self._withdrawn = threading.Event()
        self._names = random.Random(after)
        self._thread = threading.Thread(target=self._ask_again_and_again, daemon=True)

    def begin(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def withdraw(self) -> None:
        """Stop asking, and wait until that is so."""
        self._withdrawn.set()
        self._thread.join()

    def _ask_again_and_again(self) -> None:
        while not self._withdrawn.is_set() and not self._due():
            self._withdrawn.wait(_PAUSE_S)
        while not self._withdrawn.is_set() and not self.uri:
            # Under a new name: one that has failed is remembered.
            name = f"wish-{self._names.getrandbits(64):x}"
            record = self._ask("/v1/savepoints", {"request": name, "stop": self._stop})
            while record is not None and record["status"] == "IN_PROGRESS" and not self._withdrawn.is_set():
                record = self._ask(f"/v1/savepoints/{name}?waitMs=200")
            if record is not None and record["status"] == "COMPLETED":
                self.uri = record["uri"]
            self._withdrawn.wait(_PAUSE_S)

    def _due(self) -> bool:
        job = self._ask("/v1/job")
        return job is not None and job["lastCheckpoint"] is not None and job["lastCheckpoint"]["id"] >= self._after

    def _ask(self, route: str, body: Any = None) -> Any:
        """The answer; `None` if there is none."""
        try:
            address = json.loads((self._run_folder / "coordinator.json").read_text())
            token = (self._run_folder / "token").read_text()
            request = urllib.request.Request(
                f"http://{address['http_host']}:{address['http_port']}{route}",
                data=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {token}"},
            )
            with urllib.request.urlopen(request, timeout=2) as response:
                return json.load(response)
        except (OSError, ValueError, KeyError):
            return None
