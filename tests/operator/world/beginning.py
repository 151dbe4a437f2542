"""How a coordinator begins: it takes the journal over, or learns from it that there is nothing to do, and finds the checkpoint to start from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from world.books import Books
from world.process import Process
from world.scale import Scale
from world.storage import Entry, Journal, Saved
from world.worker import HEARTBEAT_S

if TYPE_CHECKING:
    from world.nodes import PodLife

TAKE_OVER_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Ending:
    """How it ended."""

    state: str
    message: str
    refusal: str = ""
    retryable: bool = False
    stopped_with: str = ""


class Beginning(Process):
    """One life of a coordinator's container, until attempts begin.

    Attributes:
        books: What it shows.
        state: As in the API, before the end.
        epoch: Slot of its fence; 0 before.
        attempt: The running attempt, or the one before.
        base: The last completed checkpoint.
        scale: How many workers it has, and is to have.
        ending: How it has ended, once it has.
    """

    def __init__(self, life: PodLife) -> None:
        super().__init__(life)
        manifest = life.manifest
        self.spec: dict[str, Any] = manifest["spec"]
        metadata = manifest["metadata"]
        self.job_id = self.spec.get("jobId") or f"{metadata['namespace']}/{metadata['name']}"
        self.uri = f"{self.spec['checkpoint']['storage']['uri'].rstrip('/')}/{self.job_id}"
        self.wish: dict[str, Any] = json.loads(life.env["CHECKDAM_START"])
        self.scale = Scale(self.wish["parallelism"], life.run_dir, self.world.loop)
        self.books = Books(self.world.loop)
        self.state = "STARTING"
        self.epoch = 0
        self.attempt = 0
        self.base: Saved | None = None
        self.ending: Ending | None = None
        self._last: Entry | None = None
        self._listening = False
        self._next_id = 0
        self._last_completed: dict[str, Any] | None = None
        self._restored_from = ""

    def _begun(self) -> None:
        """There is a checkpoint to start from."""
        raise NotImplementedError

    def _keep_watch(self) -> None:
        """Look now and then whether the journal is still ours."""
        raise NotImplementedError

    def _set_ending(self, ending: Ending) -> None:
        """End."""
        raise NotImplementedError

    @property
    def journal(self) -> Journal:
        """The job's journal."""
        return self.world.storage.journal(self.job_id)

    @property
    def rank(self) -> int:
        """Its place among all coordinators of the job."""
        return int(self.wish["startNumber"]) * 1000 + self.life.restarts

    @property
    def origin(self) -> str:
        """The wish to start over or from elsewhere; empty if there is none."""
        wish = self.wish
        if not wish["fresh"] and not wish["restoreFrom"]:
            return ""
        return f"{wish['request']}#{wish['restoreFrom'] or 'fresh'}"

    def start(self) -> None:
        recorded = self.life.run_dir.get("ending")
        if recorded is not None:
            self._tell_ending(recorded)
        elif not self.life.program.loads:
            self.later(1.0, lambda: self._end(Ending("FAILED", "the program does not load", "Program")))
        else:
            self.later(self.world.chance.between(0.5, 4.0), lambda: self._take_over(list(TAKE_OVER_PAUSES_S)))

    def _take_over(self, pauses_s: list[float]) -> None:
        if self.world.storage.down:
            if pauses_s:
                self.later(pauses_s.pop(0), lambda: self._take_over(pauses_s))
            else:
                self._end(Ending("FAILED", "the journal cannot be read", retryable=True))
            return
        tail = self.journal.tail
        wished = bool(self.origin) and (tail is None or tail.origin != self.origin)
        verdict = "go" if wished else self._verdict(tail)
        if verdict != "go":
            self._not_begun(verdict, tail)
            return
        self.later(self.world.chance.between(0.01, 0.3), lambda: self._fence(tail, wished, pauses_s))

    def _verdict(self, tail: Entry | None) -> str:
        since = self._since
        expected = "" if since else self.wish["expectedCheckpoint"]
        if expected and (tail is None or tail.saved is None or tail.saved.folder != expected):
            return "newer"
        if tail is None:
            return "go"
        if tail.decision == "finished":
            return "finished"
        resume = self.wish["resume"] and not (since and tail.kind == "stopped" and tail.epoch >= since)
        return "stopped" if tail.decision == "stopped" and not resume else "go"

    @property
    def _since(self) -> int:
        """The first epoch of coordinators that had the same wish; 0 if this is the first of them."""
        return max(int(self.wish["sinceEpoch"]), self.life.run_dir.get("epoch", 0))

    def _not_begun(self, verdict: str, tail: Entry | None) -> None:
        self.base = tail.saved if tail is not None else None
        self._last_completed = self._shown(self.base) if self.base is not None else None
        stopped_with = f"{self.uri}/{self.base.folder}" if verdict == "stopped" and self.base is not None else ""
        if verdict == "finished":
            self._end(Ending("FINISHED", "the job had finished before"))
        elif verdict == "newer":
            self._end(Ending("FAILED", "the job's last checkpoint is newer", "NewerCheckpoint"))
        elif self.wish["resume"]:
            self._end(Ending("STOPPED", "the job was stopped before", stopped_with=stopped_with))
        else:
            self._end(Ending("FAILED", "the job was stopped", "NotResumed", stopped_with=stopped_with))

    def _fence(self, tail: Entry | None, wished: bool, pauses_s: list[float]) -> None:
        if self.world.storage.down:
            self._take_over(pauses_s)
            return
        if tail is not None and tail.owner == self.life.uid_of_job and tail.rank > self.rank:
            self._end(Ending("FAILED", "a coordinator that was started later owns the journal", retryable=True))
            return
        repeats = tail if not (wished and self.wish["fresh"]) else None
        seq = tail.seq + 1 if tail is not None else 1
        fence = Entry(
            seq=seq,
            epoch=seq,
            kind="fence",
            saved=repeats.saved if repeats is not None else None,
            origin=repeats.origin if repeats is not None else "",
            decision=repeats.decision if repeats is not None else "",
            revision=self.life.revision,
            manifest=self.life.manifest_hash,
            writer=self.life.name,
            owner=self.life.uid_of_job,
            rank=self.rank,
        )
        if not self.world.storage.create(self.job_id, fence):
            self._take_over(pauses_s)
            return
        since, base = self._since, fence.saved
        self.epoch, self._last, self.base = seq, fence, base
        if base is not None and 0 < since <= int(base.attempt.partition(".")[0]):
            self.scale.takes_over(base.parallelism)
        self.life.run_dir["epoch"] = seq
        self._listening = True
        self.books.changed()
        self.later(self.world.chance.between(0.05, 0.5), lambda: self._establish(wished))
        self.later(HEARTBEAT_S, self._keep_watch)

    def _establish(self, wished: bool) -> None:
        fence = self._last
        assert fence is not None
        if wished and self.wish["restoreFrom"]:
            foreign = self.world.find_saved(self.wish["restoreFrom"])
            if foreign is None:
                self._end(Ending("FAILED", f"there is no checkpoint at {self.wish['restoreFrom']}"))
                return
            number = max(foreign.id, self.base.id if self.base is not None else -1) + 1
            self._restored_from = self.wish["restoreFrom"]
            begun = self._append("checkpoint", self._folder(number, "chk", foreign.position), self.origin)
        elif self.base is None:
            begun = self._append("checkpoint", self._folder(0, "chk", 0), self.origin)
        elif not self.life.program.fits:
            self._end(Ending("FAILED", "the checkpoint does not fit the graph", "Incompatible"))
            return
        else:
            begun = fence.decision != "stopped" or self._append("checkpoint", self.base, fence.origin)
        if not begun:
            return
        assert self.base is not None
        self._restored_from = self._restored_from or f"{self.uri}/{self.base.folder}"
        self._last_completed = self._shown(self.base)
        self._next_id = self.base.id + 1
        self.books.changed()
        self._begun()

    # The journal

    def _folder(self, number: int, kind: str, position: int) -> Saved:
        attempt = f"{self.epoch}.{self.attempt}"
        return Saved(number, f"{kind}-{number}-{attempt}-0", position, attempt, self.scale.current)

    def _append(self, kind: str, saved: Saved | None, origin: str | None = None) -> bool:
        """Write the next entry; ends if it is another's."""
        last = self._last
        assert last is not None
        entry = replace(
            last,
            seq=last.seq + 1,
            kind=kind,
            decision=kind,
            saved=saved,
            origin=last.origin if origin is None else origin,
        )
        if not self.world.storage.create(self.job_id, entry):
            self._depose()
            return False
        self._last, self.base = entry, saved
        return True

    def _depose(self) -> None:
        self._end(Ending("FAILED", "this coordinator no longer owns the journal", "Deposed"))

    # The end

    def _end(self, ending: Ending) -> None:
        if self.ending is not None:
            return
        if not ending.retryable:
            self.life.run_dir["ending"] = (ending, self.epoch, self._last_completed)
        self._set_ending(ending)

    def _tell_ending(self, recorded: tuple[Ending, int, dict[str, Any] | None]) -> None:
        ending, self.epoch, self._last_completed = recorded
        self._set_ending(ending)

    def _shown(self, saved: Saved, cause: str = "restored", triggered_ms: int = 0) -> dict[str, Any]:
        return {
            "id": saved.id,
            "status": "COMPLETED",
            "cause": cause,
            "attempt": saved.attempt,
            "triggeredMs": triggered_ms or self.world.loop.now_ms(),
            "folder": saved.folder,
            "durationMs": 100,
            "sizeBytes": 1000,
        }
