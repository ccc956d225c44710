"""Every method, add-on and metric, in a line each."""

from __future__ import annotations

from collections.abc import Sequence

from lethe import command_line
from lethe.commands import started
from lethe.experiment.flag_sources import description, imported


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the registries."""
    command_line.parsed(command_line.OneLineParser(__doc__ or ""), argv)
    methods, metrics = (description() or imported()).listing()
    one = f"one method with its flags:  {started('forget')} --unlearn NAME --help"
    print(f"{methods}\n\n{one}      all of them: docs/methods.md\n\n{metrics}")
    return 0
