"""The same as `lethe compare`. `python compare.py --help` says what it does."""

import sys

from lethe.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
