"""What one run of mlflow_forget.py costs where its base models are there and Python's libraries are loaded.

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

import command_line


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
    command = f"benchmarks/warm_run.py {' '.join(sys.argv[1:] if argv is None else argv)}"
    write_json(options.json, {"command": command, "seconds": found})
    return 0


def options_of(argv: Sequence[str] | None) -> Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip("\n"))
    parser.add_argument(
        "--unlearn",
        default="SSD",
        metavar="NAME",
        help="the method, with its defaults (default: %(default)s)",
    )
    parser.add_argument(
        "--dataset", default="digits", metavar="NAME", help="one that is there (default: %(default)s)"
    )
    parser.add_argument(
        "--data", default="./data", metavar="FOLDER", help="where its files are (default: %(default)s)"
    )
    parser.add_argument("--report", default="full", help="full, no_images or skip (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="counted runs (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    options = command_line.parsed(parser, argv)
    if options.repeats < 1:
        raise ValueError(f"--repeats: expected an integer >= 1, got {options.repeats}. Give at least 1")
    return options


def measured(options: Namespace) -> dict[str, list[float]]:
    """Wall and processor seconds of each counted run."""
    seconds: dict[str, list[float]] = {"wall": [], "processor": []}
    words = [
        "--unlearn",
        options.unlearn,
        "--dataset",
        options.dataset,
        "--data",
        str(Path(options.data).absolute()),
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{Path(folder) / 'mlflow.db'}"}
        with patch.dict(os.environ, store):
            for number in range(options.repeats + 1):
                busy, wall = time.process_time(), time.perf_counter()
                run([*words, "--report", options.report])
                if number:
                    seconds["wall"].append(time.perf_counter() - wall)
                    seconds["processor"].append(time.process_time() - busy)
    return seconds


def run(words: Sequence[str]) -> None:
    """One run without what it prints. ValueError with what it says where it fails."""
    import mlflow_forget

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        failed = mlflow_forget.main(words)
    if failed:
        raise ValueError(said.getvalue().strip().removeprefix("error: "))


if __name__ == "__main__":
    sys.exit(main())
