"""Running programs of this computer to the end, and saying which one failed and why."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


class CommandError(Exception):
    """A program failed; the message is its command line and what it printed."""


def run(*command: str, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What the program prints to its standard output.

    Args:
        environment: In place of ours.

    Raises:
        CommandError: It failed, or there is no such program.
    """
    try:
        done = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        raise CommandError(f"there is no program `{command[0]}`") from None
    if done.returncode:
        raise CommandError(f"`{_shown(command)}` failed: {(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


def _shown(command: Sequence[str]) -> str:
    shown = " ".join(command)
    return shown if len(shown) <= 300 else f"{shown[:300]} …"
