"""Time a run of mlflow_forget.py whose base models exist and whose libraries are imported.

    python benchmarks/warm_run.py
    python benchmarks/warm_run.py --unlearn MIMU --report skip

The first run, which trains the base models and makes the store, is not counted. Medians of `--repeats` in one
process, in a folder and a store of their own. Processor seconds are those of all threads.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one line, and write the same numbers with --json."""
    options = options_of(argv)

    from benchmarks.machine import describe, write_json

    found = measured(options)
    middle = {clock: median(values) for clock, values in found.items()}
    what = f"{options.unlearn} on {options.dataset}, --report {options.report}, medians of {options.repeats}"
    print(
        f"{what}: {middle['processor']:.2f} s of processor time, {middle['wall']:.2f} s", describe(), sep="\n"
    )
    write_json(options.json, __file__, argv, seconds=found)
    return 0


def options_of(argv: Sequence[str] | None) -> Namespace:
    parser = BenchmarkParser(__doc__)
    for flag, default, help in (
        ("unlearn", "SSD", "the method, with its defaults"),
        ("dataset", "digits", "a dataset whose files are there"),
        ("report", "full", "full, no_images or skip"),
    ):
        parser.add_argument(f"--{flag}", default=default, help=f"{help} (default: %(default)s)")
    parser.add_place("data")
    parser.add_number("repeats", 5, "counted runs")
    return parser.options(argv)


def measured(options: Namespace) -> dict[str, list[float]]:
    """Wall and processor seconds of each counted run."""
    seconds: dict[str, list[float]] = {"wall": [], "processor": []}
    words = ["--unlearn", options.unlearn, "--dataset", options.dataset, "--report", options.report]
    words += ["--data", str(Path(options.data).absolute())]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{Path(folder) / 'mlflow.db'}"}
        with patch.dict(os.environ, store):
            for number in range(options.repeats + 1):
                busy, wall = time.process_time(), time.perf_counter()
                run(words)
                if number:
                    seconds["wall"].append(time.perf_counter() - wall)
                    seconds["processor"].append(time.process_time() - busy)
    return seconds


def run(words: Sequence[str]) -> None:
    """Run mlflow_forget.py silently. Raise ValueError with its message if it fails."""
    import mlflow_forget

    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        failed = mlflow_forget.main(words)
    if failed:
        raise ValueError(errors.getvalue().strip().removeprefix("error: "))


if __name__ == "__main__":
    sys.exit(main())
