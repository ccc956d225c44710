"""The same as `lethe parse`. `python mlruns_parser.py --help` says what it does."""

import sys

from lethe.cli.parse import main

if __name__ == "__main__":
    sys.exit(main())
