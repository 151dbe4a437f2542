"""The operator's log: one JSON object a line, or text for people.

Messages are constant and their values are fields, so that a log can be searched: `_log.info("pod created", extra=fields(pod=name, cause="node lost"))`. While a job is
looked at, `about_job` puts its namespace, name and uid on every line, those of libraries included. Objects of the cluster are not logged as a whole, since their
environment may hold what nobody should read.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["json", "text"]

_ABOUT: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039 - it is never changed in place

_QUIET: Final = {
    "kopf": logging.WARNING,
    # Says at each start that signals are not its business, which is how it is meant to be.
    "kopf._core.reactor.running": logging.ERROR,
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
}


def fields(**values: Any) -> dict[str, Any]:
    """What `extra=` of a logging call takes, so that values become fields of the line."""
    return {"fields": values}


@contextmanager
def about_job(namespace: str, name: str, uid: str = "") -> Iterator[None]:
    """All that is logged inside, in this task and those that it starts, is about this job."""
    about = {"namespace": namespace, "name": name} | ({"uid": uid} if uid else {})
    token = _ABOUT.set(about)
    try:
        yield
    finally:
        _ABOUT.reset(token)


def configure_logs(format: LogFormat, level: str, stream: TextIO = sys.stderr) -> None:
    """Send everything that is logged in this process to a stream.

    Args:
        format: `json` or `text`.
        level: The lowest level that is shown.
        stream: Where to.
    """
    handler = logging.StreamHandler(stream)
    handler.addFilter(_add_fields)
    handler.setFormatter(_Json() if format == "json" else _Text())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for logger, lowest in _QUIET.items():
        logging.getLogger(logger).setLevel(max(lowest, root.level))


def _add_fields(record: logging.LogRecord) -> bool:
    """Put the fields on the line in the context of the caller: formatters may run elsewhere."""
    record.checkdam_fields = {**_ABOUT.get(), **getattr(record, "fields", {})}
    return True


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Json(JsonFormatter):
    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return log_data

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["time"] = _time(record)
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["message"] = record.getMessage()
        for name, value in getattr(record, "checkdam_fields", {}).items():
            log_data[name] = value
        if message_dict.get("exc_info"):
            log_data["traceback"] = message_dict["exc_info"]


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        values = " ".join(f"{name}={value}" for name, value in getattr(record, "checkdam_fields", {}).items())
        first, newline, rest = super().format(record).partition("\n")
        return f"{_time(record)} {first}{'  ' if values else ''}{values}{newline}{rest}"
