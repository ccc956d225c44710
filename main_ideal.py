"""The same as `lethe ideal`. `python main_ideal.py --help` says what it does."""

import sys

from lethe.cli.ideal import main

if __name__ == "__main__":
    sys.exit(main())
