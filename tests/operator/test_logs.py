"""Log lines: constant messages, values as fields, and on every line about a job the job."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from checkdam_operator.logs import about_job, configure_logs, fields

_log = logging.getLogger("checkdam_operator.tests")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = {name: logging.getLogger(name).level for name in ("kopf", "kopf._core.reactor.running", "asyncio")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_the_message_and_its_fields() -> None:
    stream = io.StringIO()
    configure_logs("json", "INFO", stream)
    _log.info("pod created", extra=fields(pod="flights-w0", name="not the logger's"))
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "checkdam_operator.tests",
        "message": "pod created",
        "pod": "flights-w0",
        "name": "not the logger's",
    }


def test_lines_about_a_job_name_it_also_those_of_libraries() -> None:
    stream = io.StringIO()
    configure_logs("json", "INFO", stream)
    with about_job("ns", "flights", "u1"):
        logging.getLogger("some.library").warning("slow")
    _log.info("elsewhere")
    inside, outside = lines(stream)
    assert (inside["namespace"], inside["name"], inside["uid"]) == ("ns", "flights", "u1")
    assert "namespace" not in outside


async def test_two_jobs_at_once_do_not_mix_their_lines() -> None:
    stream = io.StringIO()
    configure_logs("json", "INFO", stream)

    async def look(name: str) -> None:
        with about_job("ns", name):
            await asyncio.sleep(0)
            _log.info("looked at", extra=fields(expected=name))

    await asyncio.gather(*(look(f"job{number}") for number in range(5)))
    assert all(line["name"] == line["expected"] for line in lines(stream))


def test_an_error_has_its_traceback_in_the_same_line() -> None:
    stream = io.StringIO()
    configure_logs("json", "INFO", stream)
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError:
        _log.exception("failed")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert "ZeroDivisionError: no" in line["traceback"]


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    configure_logs("text", "WARNING", stream)
    with about_job("ns", "flights"):
        _log.info("not shown")
        _log.warning("pod replaced", extra=fields(cause="node lost"))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("WARNING pod replaced  namespace=ns name=flights cause=node lost")


def test_kopf_s_own_chatter_is_not_shown() -> None:
    stream = io.StringIO()
    configure_logs("json", "INFO", stream)
    logging.getLogger("kopf.objects").info("Handler succeeded.")
    logging.getLogger("kopf._core.reactor.running").warning("OS signals are ignored")
    logging.getLogger("kopf._cogs.clients.api").error("Request attempt #1 failed")
    assert [line["message"] for line in lines(stream)] == ["Request attempt #1 failed"]
