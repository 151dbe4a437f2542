"""`python -m checkdam.worker CONFIG.json`: one worker."""

import sys

from checkdam.worker.supervisor import main

sys.exit(main(sys.argv[1]))
