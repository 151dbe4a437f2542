"""`python -m checkdam.pod coordinator` and `python -m checkdam.pod worker`: process 1 of a pod's container."""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # Before anything is imported: process 1 has no default for SIGTERM, and would be killed only at the end of the grace period.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from checkdam.pod.main import main

    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
