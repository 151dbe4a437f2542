"""Process 1 of a coordinator's pod, as a process of this machine."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_PROGRAM: Final = """
import gc, os, signal
from pathlib import Path
import psutil
from checkdam.pod.keeper import Keeper

imported = [[number] for number in range(300_000)]

def own_bytes():
    return psutil.Process().memory_full_info().uss

def work():
    before = own_bytes()
    gc.collect()
    print(own_bytes() - before, flush=True)
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()

Keeper(work, lambda: "", Path(os.devnull)).run()
"""
_LARGE_BYTES: Final = 8 << 20
"""Half of what the program has imported."""


def test_a_child_that_looks_for_garbage_does_not_copy_what_it_shares_with_process_1() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert int(done.stdout) < _LARGE_BYTES
