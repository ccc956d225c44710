"""The same as `lethe tune`. `python tune.py --help` says what it does."""

import sys

from lethe.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
