"""The same as `lethe grid`. `python array_param_file.py --help` says what it does."""

import sys

from lethe.cli.grid import main

if __name__ == "__main__":
    sys.exit(main())
