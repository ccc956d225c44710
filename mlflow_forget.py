"""The same as `lethe forget`. `python mlflow_forget.py --help` says what it does."""

import sys

from lethe.cli.forget import main

if __name__ == "__main__":
    sys.exit(main())
