"""Every run of an MLflow tracking store as one row of a CSV file.

    python mlruns_parser.py [--tracking_uri URI] [--output mlruns_parsed.csv] [--system_metrics]

Which store: --tracking_uri, else the environment's MLFLOW_TRACKING_URI, else ./mlflow.db, else an old file-store folder ./mlruns.
Columns: run_id, run_name, experiment, status, start_time, end_time, duration_s, then params, metrics, parent_run_id and warning
sorted by name; names that clash get `param.` or `metric.` in front. `warning` says what makes the numbers of a run doubtful, and is
empty where nothing does. Nothing is dropped and nothing rounded: floats round trip, NaN is `nan`, infinities are `inf` and `-inf`, a
missing value is an empty cell. Deleted runs are left out. Rows are sorted by start time.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from command_line import OneLineParser
from tracking.file_reader import is_file_store
from tracking.readers import read_runs
from tracking.stored_run import BrokenRun, StoredRun, iso_utc

FIXED = ("run_id", "run_name", "experiment", "status", "start_time", "end_time", "duration_s")
PARENT, WARNING = "parent_run_id", "warning"
DATABASE, FOLDER, VARIABLE = "mlflow.db", "mlruns", "MLFLOW_TRACKING_URI"
SYSTEM = "system/"

Names = dict[str, str]  # a param's or a metric's name -> its column


def main(argv: list[str] | None = None) -> int:
    """Parse a store into a CSV file and return the exit status: 0, or 2 with one line on stderr for a mistake."""
    try:
        options = parser().parse_args(argv)
        uri, reason = choose_store(options.tracking_uri)
        output = checked_output(options.output)
        print(f"store: {without_password(uri)} ({reason})")
        runs, skipped = collect(uri)
        if not options.system_metrics:
            runs = without_system_metrics(runs)
        write_table(runs, output)
    except (ValueError, OSError) as error:
        complain(str(error))
        return 2
    print(counted(runs, skipped, options.output))
    return 0


def counted(runs: list[StoredRun], skipped: int, output: str) -> str:
    """How many runs are in the file, how many could not be read, and how many of those in it have a warning."""
    warned = sum(bool(run.warning) for run in runs)
    return (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} -> {output}"
        + (f" ({skipped} skipped)" if skipped else "")
        + (f"; {warned} with a warning: see the column {WARNING}" if warned else "")
    )


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n")
    flags = OneLineParser(summary, details)
    flags.add_argument("--tracking_uri", metavar="URI", help="sqlite:///FILE, a file-store folder, http(s)://..., ...")
    flags.add_argument("--output", default="mlruns_parsed.csv", metavar="FILE", help="default: %(default)s")
    flags.add_argument("--system_metrics", action="store_true", help="keep the metrics named system/*")
    return flags


def choose_store(given: str | None) -> tuple[str, str]:
    """The URI of the store to read and why that one. Raises ValueError if there is none."""
    if given is not None:
        if not given:
            raise ValueError("expected a store as --tracking_uri, got nothing. Write e.g. --tracking_uri sqlite:///mlflow.db")
        return given, "--tracking_uri"
    if variable := os.environ.get(VARIABLE):
        return variable, f"the environment's {VARIABLE}"
    old_store = is_file_store(Path(FOLDER))
    if Path(DATABASE).exists():
        also = f"; the old file store beside it is read with --tracking_uri ./{FOLDER}" if old_store else ""
        return f"sqlite:///{DATABASE}", f"no {VARIABLE} is set and ./{DATABASE} exists{also}"
    if old_store:
        return f"./{FOLDER}", f"an old file store; no {VARIABLE} is set and there is no ./{DATABASE}"
    raise ValueError(
        f"expected a tracking store, got none: no --tracking_uri, no {VARIABLE}, no ./{DATABASE} and no ./{FOLDER} with meta.yaml files. "
        f"Run this where the runs were logged, or name the store, e.g. --tracking_uri sqlite:///path/to/{DATABASE}"
    )


def checked_output(name: str) -> Path:
    """The path to write. Raises ValueError, before anything is read, if it can't or must not be written."""
    output = Path(name).resolve()  # a link stays a link: what it points to is replaced
    if not output.parent.is_dir():
        raise ValueError(f"expected an existing folder for --output, got {name}. Make {output.parent} first.")
    if output.exists() and not output.is_file():
        raise ValueError(f"expected a file as --output, got {name}, which is none. Name a file, e.g. mlruns_parsed.csv")
    if output.is_file() and is_database(output):
        raise ValueError(f"expected a CSV file as --output, got the database {name}. Name another file.")
    return output


def is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def collect(uri: str) -> tuple[list[StoredRun], int]:
    """All runs, oldest first, and the number of those skipped; each of these is named on stderr."""
    runs: list[StoredRun] = []
    skipped = 0
    for run in read_runs(uri, notice=complain):
        if isinstance(run, BrokenRun):
            complain(f"skipped {run.where}: {run.reason}")
            skipped += 1
        else:
            runs.append(run)
    runs.sort(key=lambda run: (run.start_time or 0, run.run_id))
    return runs, skipped


def complain(message: str) -> None:
    """Print a message on one line of stderr, whatever line ends and passwords an error brings along."""
    print("mlruns_parser.py:", without_password(" ".join(message.split())), file=sys.stderr)


def without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def without_system_metrics(runs: list[StoredRun]) -> list[StoredRun]:
    names = {name for run in runs for name in run.metrics if name.startswith(SYSTEM)}
    if not names:
        return runs
    print(f"left out: metrics named {SYSTEM}* ({len(names)}); --system_metrics keeps them")
    for run in runs:
        for name in names & run.metrics.keys():
            del run.metrics[name]
    return runs


def column_names(params: set[str], metrics: set[str]) -> tuple[Names, Names]:
    """The column of every param and of every metric: its own name, or one with a prefix where two would meet."""
    fixed = {*FIXED, PARENT, WARNING}
    clashing = (params & metrics) | (params & fixed) | (metrics & fixed)
    taken = fixed | params | metrics
    return named(params, clashing, "param.", taken), named(metrics, clashing, "metric.", taken)


def named(names: set[str], clashing: set[str], prefix: str, taken: set[str]) -> Names:
    columns: Names = {}
    for name in sorted(names):
        column = name
        while name in clashing and column in taken:  # again if `param.x` is itself a logged name
            column = prefix + column
        taken.add(column)
        columns[name] = column
    return columns


def cells(run: StoredRun, params: Names, metrics: Names) -> dict[str, str]:
    start, end = run.start_time, run.end_time
    fixed = {
        "run_id": run.run_id,
        "run_name": run.run_name,
        "experiment": run.experiment,
        "status": run.status,
        "start_time": iso_utc(start),
        "end_time": iso_utc(end),
        "duration_s": "" if start is None or end is None else repr((end - start) / 1000),
        PARENT: run.parent_run_id,
        WARNING: run.warning,
    }
    logged = {params[name]: value for name, value in run.params.items()}
    measured = {metrics[name]: repr(value) for name, value in run.metrics.items()}
    return fixed | logged | measured


def write_table(runs: list[StoredRun], output: Path) -> None:
    """Write one row per run, under a temporary name that is renamed when complete. Raises OSError if that fails."""
    params, metrics = column_names({name for run in runs for name in run.params}, {name for run in runs for name in run.metrics})
    columns = [*FIXED, *sorted({PARENT, WARNING, *params.values(), *metrics.values()})]
    replace_with_csv(output, columns, (cells(run, params, metrics) for run in runs))


def replace_with_csv(output: Path, columns: list[str], rows: Iterable[dict[str, str]]) -> None:
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            # The csv module's own line end, CRLF (RFC 4180): with "\n" it would leave a lone "\r" in a value unquoted.
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
