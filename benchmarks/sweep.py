"""Count runs a minute of a grid of small runs: by warm workers, and by `xargs -P2` of processes.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --baseline_runs 200 --repeats 1      # every line by xargs too

The grid is digits, random_mask and SSD, half of the --runs each. Both ways begin with the base models there
and no tracking store, each in a folder of its own, and are timed from the first command to the last: the
start of the workers is counted. A run in a process of its own takes as long as the next, so that xargs may be
given fewer lines (--baseline_runs). Both are done --repeats times, in turn; the table has the medians, and
least and most. CPU seconds, of all processes together, say what was computed where the machine did other work
as well.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

ROOT = Path(__file__).resolve().parent.parent
QUEUE, XARGS = "run --workers", "xargs -P"
COLUMNS = ["way", "runs", "runs a minute", "least", "most", "times xargs", "CPU s a run", "times xargs"]
COLUMNS += ["measured"]

Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write the same numbers with --json."""
    parser = BenchmarkParser(__doc__)
    parser.add_number("runs", 200, "of the queue", least=2)
    parser.add_number("baseline_runs", 40, "of xargs", least=2)
    parser.add_number("workers", 2, "processes at once, of both")
    parser.add_number("repeats", 3, "of both")
    parser.add_number("epochs", 30, "of the base models")
    options = parser.options(argv)

    from benchmarks.machine import describe, write_json
    from lethe.report.text_table import text_table

    rows = measured(options)
    print("digits, random_mask and SSD, one tracked run each")
    print(text_table(COLUMNS, [shown(row, rows[-1]) for row in rows]))
    print(f"{describe()}, load {os.getloadavg()[0]:.1f}")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def measured(options: Any) -> list[Row]:
    """A row for each of both ways."""
    ways: dict[str, tuple[int, Callable[[Path], None]]] = {
        f"{QUEUE} {options.workers}": (options.runs, lambda folder: by_queue(folder, options.workers)),
        f"{XARGS}{options.workers}": (
            options.baseline_runs,
            lambda folder: by_xargs(folder, options.workers),
        ),
    }
    timed: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as made:
        bases = Path(made)
        prepare(bases, options.runs, options.epochs)
        sh("sh -e base_params.txt", bases)
        for repeat in range(options.repeats):
            for way, (runs, do) in command_line.progress_bar(
                ways.items(), f"repeat {repeat + 1}/{options.repeats}"
            ):
                timed[way].append(timed_in_a_copy(bases, runs, do))
    return [row_of(way, ways[way][0], values) for way, values in timed.items()]


def prepare(folder: Path, runs: int, epochs: int) -> None:
    """The lines of the grid."""
    half, rest = runs // 2, runs - runs // 2
    amounts = ", ".join(str(number + 1) for number in range(half))
    alphas = ", ".join(str(5 + number / 10) for number in range(rest))
    methods = f"methods:\n  random_mask: {{kappa: [{amounts}]}}\n  SSD: {{selection_alpha: [{alphas}]}}\n"
    (folder / "grid.yml").write_text(f"epochs: {epochs}\n{methods}")
    sh(
        f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'array_param_file.py'))} --grid grid.yml",
        folder,
    )
    for name in ("params.txt", "base_params.txt"):
        lines = (
            (folder / name)
            .read_text()
            .replace("python -u ", f"{shlex.quote(sys.executable)} -u {shlex.quote(str(ROOT))}/")
        )
        (folder / name).write_text(lines)


def timed_in_a_copy(bases: Path, runs: int, do: Callable[[Path], None]) -> tuple[float, float]:
    """Return seconds and CPU seconds of `runs` lines, half of each method, beside copied base models."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(bases / "results", folder / "results")
        lines = (bases / "params.txt").read_text().splitlines()
        (folder / "params.txt").write_text(
            "".join(f"{line}\n" for line in [*lines[: runs // 2], *lines[-(runs - runs // 2) :]])
        )
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        do(folder)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        check_finished(folder, runs)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def by_queue(folder: Path, workers: int) -> None:
    sh(
        f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'array_param_file.py'))} run --workers "
        f"{workers}",
        folder,
    )


def by_xargs(folder: Path, workers: int) -> None:
    sh(rf"tr '\n' '\0' < params.txt | xargs -0 -n1 -P{workers} sh -c", folder)


def sh(command: str, folder: Path) -> None:
    """Run it in the folder, with one thread a process. RuntimeError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
        "OMP_NUM_THREADS": "1"
    }
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")


def check_finished(folder: Path, runs: int) -> None:
    """RuntimeError unless every line made one FINISHED run: what was not done is not fast."""
    from lethe.tracking.readers.sqlite import sqlite_store
    from lethe.tracking.stored_run import StoredRun

    found = [
        run
        for run in sqlite_store(f"sqlite:///{folder / 'mlflow.db'}").runs()[1]
        if isinstance(run, StoredRun)
    ]
    finished = sum(run.status == "FINISHED" for run in found)
    if (len(found), finished) != (runs, runs):
        raise RuntimeError(f"expected {runs} finished runs, got {finished} of {len(found)}")


def row_of(way: str, runs: int, values: Sequence[tuple[float, float]]) -> Row:
    rates = [60 * runs / seconds for seconds, _ in values]
    cpu = median(worked / runs for _, worked in values)
    return {
        "way": way,
        "runs": runs,
        "runs_a_minute": median(rates),
        "least": min(rates),
        "most": max(rates),
        "cpu_seconds": cpu,
        "n": len(values),
    }


def shown(row: Row, beside: Row) -> list[str]:
    faster, lighter = (
        row["runs_a_minute"] / beside["runs_a_minute"],
        row["cpu_seconds"] / beside["cpu_seconds"],
    )
    rates = [f"{row[name]:.1f}" for name in ("runs_a_minute", "least", "most")]
    return [
        row["way"],
        str(row["runs"]),
        *rates,
        f"{faster:.1f}",
        f"{row['cpu_seconds']:.2f}",
        f"{lighter:.2f}",
        str(row["n"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
