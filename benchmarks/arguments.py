"""The command line of a benchmark: its docstring as help, --json, and numbers with a least value."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe import command_line
from lethe.experiment import shared_flags

if TYPE_CHECKING:
    from lethe.registry import Entry


class BenchmarkParser(command_line.OneLineParser):
    """A parser whose help is the benchmark's docstring, with --json."""

    def __init__(self, docstring: str | None) -> None:
        summary, _, details = (docstring or "").partition("\n")
        super().__init__(summary, details.strip("\n"))
        self._least: dict[str, float] = {}
        self.add_argument("--json", metavar="FILE", help="write the numbers there too")

    def add_number(self, flag: str, default: float, help: str, *, least: float = 1) -> None:
        """Add a flag of a number >= `least`, an integer if its default is one."""
        self._least[flag] = least
        text = f"{help} (default: %(default)s)"
        self.add_argument(f"--{flag}", type=type(default), default=default, metavar="N", help=text)

    def add_place(self, *flags: str) -> None:
        """Add --data, --device or both."""
        if "data" in flags:
            text = "where the datasets' files are (default: %(default)s)"
            self.add_argument("--data", default="./data", metavar="FOLDER", help=text)
        if "device" in flags:
            text = "auto, cpu, cuda, cuda:1, ... (default: %(default)s)"
            self.add_argument("--device", default="auto", help=text)

    def add_experiment(
        self, argv: Sequence[str] | None, dataset: str = "digits", *, several_seeds: bool = False
    ) -> Entry[Any]:
        """Add the flags of an experiment and of its architecture. Return the architecture."""
        shared_flags.add_shared_flags(self, several_seeds=several_seeds)
        self.set_defaults(dataset=dataset)
        chosen = command_line.first_pass(argv, {"arch": None, "dataset": dataset})
        architecture = shared_flags.architecture_of(**chosen)
        shared_flags.add_signature_flags(self, architecture, "architecture")
        return architecture

    def options(self, argv: Sequence[str] | None) -> Namespace:
        """Return the flags' values. Raise ValueError for a number below its least value."""
        options = command_line.parsed(self, argv)
        for flag, least in self._least.items():
            if not getattr(options, flag) >= least:  # NaN too
                raise ValueError(
                    f"--{flag}: expected at least {least}, got {getattr(options, flag)}. Correct the number"
                )
        if options.json is not None:
            from lethe.training import check_writable

            check_writable(Path(options.json).absolute().parent, "Choose another --json")
        return options
