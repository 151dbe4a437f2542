"""`checkdam-operator`: run the operator. All settings come from the environment; see docs/reference/operator-settings.md."""

from __future__ import annotations

import asyncio
import sys

from checkdam.core.errors import CheckdamError
from checkdam_operator.app import run_operator, until_signal
from checkdam_operator.logs import configure_logs
from checkdam_operator.settings import Settings


def main() -> None:
    """Run until SIGTERM; exits with 0 then, with 2 if the settings are wrong, with 1 if it cannot run."""
    try:
        settings = Settings.from_environment()
    except CheckdamError as error:
        sys.exit(_say(error, 2))
    configure_logs(settings.log_format, settings.log_level)
    try:
        asyncio.run(until_signal(lambda stop: run_operator(settings, stop, _say_listening)))
    except CheckdamError as error:
        sys.exit(_say(error, 1))


def _say(error: CheckdamError, code: int) -> int:
    sys.stderr.write(f"checkdam-operator: {error}\n")
    return code


def _say_listening(host: str, port: int) -> None:
    import logging

    logging.getLogger(__name__).info("serving health and metrics at %s:%d", host, port)


if __name__ == "__main__":
    main()
