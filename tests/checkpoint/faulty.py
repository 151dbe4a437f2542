"""A `Storage` that fails on command: errors, lost replies, writes that land later, a server that lies.

`plan` is asked before every operation and may also block, which is how tests pause a coordinator between two operations.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path

from checkdam.checkpoint.storage.base import Storage, StoredFile
from checkdam.checkpoint.storage.probing import probe_conditional_create
from checkdam.core.errors import AlreadyExistsError, StorageError, UnknownOutcomeError


class Fault(Enum):
    """What happens to one operation. For other operations than `create` all but `NONE` mean an error."""

    NONE = "it works"
    ERROR = "it fails for certain"
    LOST_BEFORE = "it never arrives, and nobody says so"
    LOST_AFTER = "it works, and the reply is lost"
    LATE = "the reply is lost, and it arrives later"
    RETRIED = "it works, the reply is lost, and the client's own retry finds the name taken"
    DUPLICATED = "it works, and a copy arrives later"


Plan = Callable[[str, str], Fault]
"""(operation, path) → what happens to it."""


def works(operation: str, path: str) -> Fault:
    return Fault.NONE


class FaultyStorage:
    """`inner`, seen through a bad network.

    Args:
        inner: The true storage, perhaps shared with others.
        plan: What happens to each operation.
        late: Where writes wait that arrive later; `land` lets one arrive.
        lies: `create` overwrites instead of refusing.
    """

    def __init__(
        self, inner: Storage, plan: Plan = works, late: list[tuple[str, bytes]] | None = None, lies: bool = False
    ) -> None:
        self.uri = inner.uri
        self.shared = inner.shared
        self.late = [] if late is None else late
        self.plan = plan
        self._inner = inner
        self._lies = lies

    def probe(self) -> None:
        probe_conditional_create(self)

    def create(self, path: str, data: bytes) -> None:
        fault = self.plan("create", path)
        where = f"{self.uri}/{path}"
        if fault is Fault.ERROR:
            raise StorageError("create", where, "planned error")
        if fault in (Fault.LATE, Fault.DUPLICATED):
            self.late.append((path, data))
        if fault not in (Fault.LATE, Fault.LOST_BEFORE):
            try:
                if self._lies:
                    self._inner.delete([path])
                self._inner.create(path, data)
            except AlreadyExistsError:
                if fault is not Fault.LOST_AFTER:
                    raise
        if fault in (Fault.LATE, Fault.LOST_BEFORE, Fault.LOST_AFTER):
            raise UnknownOutcomeError("create", where, "planned loss of the reply")
        if fault is Fault.RETRIED:
            raise AlreadyExistsError("create", where, "the client's retry found the name taken")

    def land(self, index: int) -> None:
        """Let a late write arrive; nobody hears how it went."""
        path, data = self.late.pop(index)
        try:
            self._inner.create(path, data)
        except AlreadyExistsError:
            pass

    def put_file(self, path: str, local: Path) -> None:
        self._may_fail("put_file", path)
        self._inner.put_file(path, local)

    def read(self, path: str) -> bytes:
        self._may_fail("read", path)
        return self._inner.read(path)

    def fetch(self, path: str, local: Path) -> None:
        self._may_fail("fetch", path)
        self._inner.fetch(path, local)

    def exists(self, path: str) -> bool:
        self._may_fail("exists", path)
        return self._inner.exists(path)

    def list(self, prefix: str) -> Iterator[StoredFile]:
        self._may_fail("list", prefix)
        return self._inner.list(prefix)

    def folders(self, prefix: str) -> builtins.list[str]:
        self._may_fail("folders", prefix)
        return self._inner.folders(prefix)

    def delete(self, paths: Iterable[str]) -> None:
        names = [*paths]
        self._may_fail("delete", names[0] if names else "")
        self._inner.delete(names)

    def _may_fail(self, operation: str, path: str) -> None:
        if self.plan(operation, path) is not Fault.NONE:
            raise StorageError(operation, f"{self.uri}/{path}", "planned error")
