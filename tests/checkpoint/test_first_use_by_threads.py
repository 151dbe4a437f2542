"""What is stored is read by several threads at once, also when each of them is the first to do so."""

from __future__ import annotations

import subprocess
import sys

import pytest

READ = """
import sys, threading
sys.setswitchinterval(1e-7)
from checkdam.checkpoint.entries import decode_entry
from checkdam.checkpoint.manifest import decode_manifest
from checkdam.core.errors import CheckpointError

entry = b'{"version":1,"seq":9,"epoch":1,"attempt":0,"nonce":"n","kind":"fence"}'
manifest = b'{"version":1,"id":1,"subtasks":[{"stage":"a","files":[{"name":"a"}]}],"operators":[{"id":"x"}]}'
start = threading.Barrier(16)

def read(turn):
    start.wait()
    for what in (0, 1) if turn else (1, 0):
        try:
            decode_manifest(manifest, "here") if what else decode_entry(entry, 9, "here")
        except CheckpointError:
            pass

threads = [threading.Thread(target=read, args=(number % 2,)) for number in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("turn", range(5))
def test_several_threads_may_be_the_first_to_read(turn: int) -> None:
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
