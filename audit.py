"""The same as `lethe audit`. `python audit.py --help` says what it does."""

import sys

from lethe.cli.audit import main

if __name__ == "__main__":
    sys.exit(main())
