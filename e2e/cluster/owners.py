"""Names of what tests make on a cluster for a while. They say which process has made it, so that others can take it away once that was killed."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from typing import Final

import psutil

CUT: Final = "CUT"
"""Chains of packet filters."""
NAMESPACE: Final = "e2e"
SMALL_DISK: Final = "small-disk"
"""Sources of mounts."""


def prefix(kind: str) -> str:
    """What the names of things of this kind begin with, if this process makes them; a `-` and hexadecimal digits follow."""
    return f"{kind}-{os.getpid()}"


def new_name(kind: str) -> str:
    """A name for a thing of this kind that this process makes."""
    return f"{prefix(kind)}-{secrets.token_hex(5)}"


def orphans(kind: str, names: Iterable[str]) -> list[str]:
    """Those of the names that are of this kind, and whose process is gone."""
    matches = (re.fullmatch(rf"{kind}-(\d+)-[0-9a-f]+", name) for name in names)
    return [match[0] for match in matches if match and not psutil.pid_exists(int(match[1]))]
