"""The same as `lethe baseline`. `python main_baseline.py --help` says what it does."""

import sys

from lethe.cli.baseline import main

if __name__ == "__main__":
    sys.exit(main())
