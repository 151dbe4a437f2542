"""Whether the kernel has killed processes of this container because it had used up its memory.

Who is killed cannot say why, and nobody else is told: SIGKILL has many causes. But the kernel counts, for each control group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_GROUP: Final = Path("/sys/fs/cgroup")
_COUNTS: Final = ("memory.events", "memory/memory.oom_control")
"""Of the second generation of control groups and of the first, as a container sees its own."""


def memory_kills(group: Path = _GROUP) -> int:
    """How many there were; 0 where nobody counts, as outside of containers.

    Args:
        group: Where the control group is.
    """
    for name in _COUNTS:
        try:
            rows = (group / name).read_text().splitlines()
        except OSError:
            continue
        return sum(int(row.split()[1]) for row in rows if row.startswith("oom_kill "))
    return 0
