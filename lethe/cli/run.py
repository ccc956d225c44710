"""Run a grid, or the lines of params.txt, on several workers: `array_param_file.py run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lethe import command_line


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the queue and print its summary."""
    from lethe.sweeps.run import run

    return run(sys.argv[1:] if argv is None else list(argv))
