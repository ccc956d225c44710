"""The same as `lethe seal`. `python seal.py --help` says what it does."""

import sys

from lethe.cli.seal import main

if __name__ == "__main__":
    sys.exit(main())
