"""`python -m checkdam`: the same as the program `checkdam`."""

import sys

from checkdam.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
