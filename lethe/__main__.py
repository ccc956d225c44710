"""Lethe makes image classifiers forget, and measures what they still know.

    lethe forget     unlearn a class or images, measure, and track one MLflow run
    lethe baseline   train the initial model, on everything
    lethe ideal      train the ideal model, which never sees the forget set
    lethe grid       write the commands of a grid of settings into files
    lethe run        run a grid, or such a file, on several workers
    lethe parse      write all runs of a store into a table
    lethe compare    write a report that compares the runs of a store
    lethe tune       search a method's hyperparameters
    lethe audit      audit a method by many models, two models, or a finished run
    lethe seal       sign a finished run with a key of your own
    lethe list       print every method, add-on and metric

`lethe COMMAND --help` shows the flags of a command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from lethe import command_line

COMMANDS = ("forget", "baseline", "ideal", "grid", "run", "parse", "compare", "tune", "audit", "seal", "list")


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        from lethe.version import __version__

        print(f"lethe {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0 if words else command_line.MISTAKE
    if words[0] not in COMMANDS:
        from lethe.nearest_name import did_you_mean

        raise ValueError(did_you_mean("command", words[0], COMMANDS))
    sys.argv[0] = f"lethe {words[0]}"  # the name in the usage, and in messages that name a command
    return int(import_module(f"lethe.cli.{words[0]}").main(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
