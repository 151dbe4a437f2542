"""Finding and asking the coordinator of a job that runs, on this machine or elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec
import typer

from checkdam.core.errors import CheckdamError

if TYPE_CHECKING:
    from checkdam.local.registry import RunningJob
    from checkdam.spec.checkpoint import CheckpointStorage

REQUEST_TIMEOUT_S: Final = 45.0
"""For one request; the longest that a coordinator lets one wait is 30 s."""

UNREACHABLE_PATIENCE_S: Final = 10.0
"""How long a coordinator may be gone, because it is being replaced."""

_RETRY_S: Final = 0.1


class RefusedError(CheckdamError):
    """The coordinator has answered with an error.

    Args:
        status: The HTTP status.
        message: What it said.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class UnreachableError(CheckdamError):
    """No coordinator answers."""


@dataclass(frozen=True)
class Place:
    """Where a coordinator is.

    Attributes:
        name: Of the job or the url, for messages.
        locate: Reads url and token anew: a coordinator that was replaced listens elsewhere. Raises OSError if it cannot.
        storage: How the job reaches its checkpoint storage, where that is known.
    """

    name: str
    locate: Callable[[], tuple[str, str]] = field(repr=False)
    storage: CheckpointStorage | None = None


class Coordinator:
    """Asks one coordinator. Made by `asking`."""

    def __init__(self, place: Place, session: aiohttp.ClientSession) -> None:
        self._place = place
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None, *, patience_s: float | None = None) -> Any:
        """The JSON answer to a request that may be repeated.

        Args:
            method: GET or POST.
            path: With its query.
            body: JSON.
            patience_s: How long to go on asking where nobody answers; `UNREACHABLE_PATIENCE_S` by default.

        Raises:
            RefusedError: It answered with an error.
            UnreachableError: Nobody answered.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + (UNREACHABLE_PATIENCE_S if patience_s is None else patience_s)
        while True:
            try:
                return await self._ask_once(method, path, body)
            except (OSError, aiohttp.ClientError, TimeoutError, msgspec.DecodeError, KeyError) as error:
                if loop.time() >= deadline_s:
                    raise UnreachableError(
                        f"no coordinator answers for {self._place.name} ({error or type(error).__name__}); does the job still run?"
                    ) from error
            await asyncio.sleep(_RETRY_S)

    async def until_ended(self, patience_s: float) -> bool:
        """Wait until the job has ended, which a coordinator in a pod stays to tell; returns whether it did in time."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + patience_s
        while loop.time() < deadline_s:
            try:
                job = await self.ask("GET", "/v1/job", patience_s=0)
            except CheckdamError:
                return True
            if job["state"] in ("FINISHED", "STOPPED", "FAILED"):
                return True
            await asyncio.sleep(_RETRY_S)
        return False

    async def _ask_once(self, method: str, path: str, body: Any) -> Any:
        url, token = self._place.locate()
        headers = {"Authorization": f"Bearer {token}"}
        async with self._session.request(method, url.rstrip("/") + path, json=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status < 400:
                return msgspec.json.decode(content)
        try:
            problem = msgspec.json.decode(content)["error"]
        except (msgspec.DecodeError, KeyError, TypeError):
            problem = answer.reason
        raise RefusedError(answer.status, f"{self._place.name}: {problem}")


@asynccontextmanager
async def asking(place: Place) -> AsyncIterator[Coordinator]:
    """A coordinator to ask, for the length of the block."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, connect=UNREACHABLE_PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Coordinator(place, session)


def find_place(target: str | None, url: str | None, token_file: Path | None, cwd: Path) -> Place:
    """The coordinator that the command line names: that of a job that runs here, or at a url.

    Args:
        target: A manifest, an entrypoint, or a job's id or name.
        url: Of any coordinator, instead of `target`.
        token_file: Holds the token of the one at `url`.
        cwd: What relative paths are relative to.

    Raises:
        typer.BadParameter: It names none, or two.
        CheckdamError: No such job runs here, or several do; names those that run.
    """
    if (target is None) == (url is None) or (url is None) != (token_file is None):
        raise typer.BadParameter("name either a TARGET that runs on this machine, or `--url` with `--token-file`")
    if url is not None and token_file is not None:
        path = cwd / token_file
        return Place(url, lambda: (url, _read_token(path)))
    return _place_here(target or "", cwd)


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CheckdamError(f"the token file {path} cannot be read: {error.strerror}") from error


def _place_here(target: str, cwd: Path) -> Place:
    from checkdam.local.registry import running_jobs

    running = running_jobs()
    storage: CheckpointStorage | None = None
    found = [job for job in running if target in (job.job_id, job.job_id.rpartition("/")[2])]
    if not found and (":" in target or Path(target).suffix or (cwd / target).is_file()):
        found, storage = _of_manifest(target, running, cwd)
    if len(found) == 1:
        [job] = found
        return Place(f"job {job.job_id}", lambda: _address(Path(job.run_folder)), storage)
    listed = "\n".join(f"  {job.job_id}, run folder {job.run_folder}" for job in found or running)
    if found:
        raise CheckdamError(
            f"several runs of `{target}` are on this machine; say which by `--url` and `--token-file` (`coordinator.json` and `token` in "
            f"its run folder):\n{listed}"
        )
    others = f"these do:\n{listed}" if running else "no job does"
    raise CheckdamError(f"no job `{target}` runs on this machine for this user; {others}")


def _of_manifest(
    target: str, running: list[RunningJob], cwd: Path
) -> tuple[list[RunningJob], CheckpointStorage | None]:
    """The runs of a manifest or an entrypoint; those over its own storage, if there are any: flags may have named another."""
    from checkdam.checkpoint.storage.locate import open_storage
    from checkdam.cli.target import Overrides, find_target

    named = find_target(target, Overrides(), cwd)
    storage = named.job.spec.checkpoint.storage
    same_job = [job for job in running if job.job_id == named.job.job_id]
    uri = open_storage(storage, named.job.job_id, base=named.base_folder).uri
    return [job for job in same_job if job.storage_uri == uri] or same_job, storage


def _address(run_folder: Path) -> tuple[str, str]:
    found = msgspec.json.decode((run_folder / "coordinator.json").read_bytes())
    return f"http://{found['http_host']}:{found['http_port']}", (run_folder / "token").read_text()


__all__ = ["Coordinator", "Place", "RefusedError", "UnreachableError", "asking", "find_place"]
