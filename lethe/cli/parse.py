"""Every run of an MLflow tracking store as one row of a table.

    python mlruns_parser.py [--tracking_uri URI] [--output mlruns_parsed.csv]
    python mlruns_parser.py --filter "metrics.avg_gap < 1" --since 2026-05-01 --output runs.parquet
    python mlruns_parser.py --all
    python mlruns_parser.py --history
    python mlruns_parser.py --summary

Which store: --tracking_uri, else the environment's MLFLOW_TRACKING_URI, else ./mlflow.db, else an old
file-store folder ./mlruns.

Columns, in this order: the run (run_id, run_name, experiment, status, warning, start_time, duration_s,
parent_run_id); the request and the model (dataset, request, ..., arch, seed); the method and its settings;
scores, attacks, losses; gaps to the ideal model; other metrics; seconds. A param that is None is an empty
cell. What is left out is counted: base models, training recipe, files, histories, end_time, and metrics such
as single attacks, unless --metrics named them. A store without runs of Lethe keeps all params and metrics.
--all writes every param and metric as it was logged, sorted by name after run_id, run_name, experiment,
status, start_time, end_time and duration_s.

Names that clash get `param.` or `metric.` in front. `warning` holds the warnings of a run, or is empty.
Nothing is rounded: floats round trip, NaN is `nan`, infinities are `inf` and `-inf`, a missing value is an
empty cell (JSON lines: "NaN", "Infinity", "-Infinity", and no entry; Parquet: NaN, infinity and null).
Deleted runs are left out. Rows are sorted by start time.

--filter takes MLflow's search language: metrics.NAME and the times start_time, end_time with = != < <= > >=
NUMBER; params.NAME, tags.NAME, status, run_id and run_name with = != LIKE ILIKE 'TEXT', IN and NOT IN ('A',
'B'); params and tags with IS NULL, IS NOT NULL; AND between them. A name with other signs than letters,
digits and _./:- needs `backticks`.

--history writes a row for every value of every metric instead: run_id, metric, step, time, value.

--summary groups the runs of mlflow_forget.py that differ in the seed alone: mean, standard deviation, 95 %
t-interval of the mean and number of seeds, ranked by avg_gap, as CSV, Markdown and LaTeX (booktabs) side by
side. Seeds that are missing or failed are named.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lethe import command_line
from lethe.cli import stored_runs
from lethe.cli.stored_runs import (
    NOT_OF_ONE_SEED,
    Runs,
    add_store_flags,
    counted,
    others,
    seed_runs,
    selected_runs,
    where_runs_are,
)
from lethe.commands import as_started, named
from lethe.report.table_files import WRITERS, Write, batches, write_spreadsheet_csv
from lethe.tracking.readers import Store
from lethe.tracking.run_columns import default_layout
from lethe.tracking.run_table import everything, rows_of
from lethe.tracking.spool import Spool
from lethe.tracking.stored_run import BrokenRun

SYSTEM = "system/"
TABLE, HISTORY, SUMMARY = "mlruns_parsed.csv", "mlruns_history.csv", "mlruns_summary.csv"  # default names
ENDINGS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
complain = functools.partial(stored_runs.complain, "parse")
POINTS = {"run_id": "text", "metric": "text", "step": "integer", "time": "time", "value": "number"}
RUNS_AT_ONCE = 200  # per request for histories; the reader bounds the memory


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Parse a store into a file and return the exit status: 0, or 2 with one line on stderr for a mistake."""
    try:
        parse(parser().parse_args(argv))
    except (ValueError, OSError) as error:
        complain(str(error))
        return command_line.MISTAKE
    return 0


def parse(options: argparse.Namespace) -> None:
    """Write the output. Raises ValueError or OSError for a user's mistake, and writes nothing then."""
    name = options.output or (SUMMARY if options.summary else HISTORY if options.history else TABLE)
    output = checked_output(name)
    write = chosen_writer(output, options)
    if options.summary:
        check_beside(output)
    tags = NOT_OF_ONE_SEED if options.summary else ()
    with selected_runs(options, output.parent, complain, tags, options.artifact_root) as selected:
        if not options.system_metrics:
            leave_out_system_metrics(selected.spool)
        if options.summary:
            written = write_summary(selected, output, write, options)
        elif options.history:
            written = write_history(selected, output, write, name)
        else:
            written = write_table(selected, output, write, name, options.all)
    print(written)


def write_table(selected: Runs, output: Path, write: Write, name: str, every: bool) -> str:
    """Write a row per run; return a message. every: all params and metrics, as they were logged."""
    spool = selected.spool
    whole = everything(spool.params, spool.metrics)
    layout = whole if every else default_layout(spool.params, spool.metrics, spool.asked, spool.varied)
    rows = command_line.progress_bar(rows_of(spool, layout), "writing", len(spool))
    write(output, layout.columns, rows)
    left_out = len(whole.columns) - len(layout.columns)
    if left_out > 1:  # end_time is in start_time and duration_s
        print(f"left out: {left_out} columns (base models, recipe, files, single attacks); --all keeps them")
    warned = f"; {spool.warned} with a warning: see the column warning" if spool.warned else ""
    return f"{counted(len(spool), 'run')} -> {name}{skipped_runs(selected.skipped)}{warned}"


def write_history(selected: Runs, output: Path, write: Write, name: str) -> str:
    """Write a row per value of a metric; return a message."""
    points = Points(selected.store, selected.spool)
    write(output, POINTS, points)
    return f"{counted(points.number, 'value')} -> {name}{skipped_runs(selected.skipped + points.skipped)}"


def skipped_runs(number: int) -> str:
    return f" ({number} skipped)" if number else ""


def checked_output(name: str) -> Path:
    """Return the path to write. Raises ValueError, before anything is read, for an unusable path."""
    output = Path(name).resolve()  # replaces the target of a link, not the link
    if not output.parent.is_dir():
        raise ValueError(f"expected an existing folder for --output, got {name}. Make {output.parent} first.")
    if output.exists() and not output.is_file():
        raise ValueError(f"expected a file as --output, got {name}, which is none. Name a file, e.g. {TABLE}")
    if output.is_file() and is_database(output):
        raise ValueError(f"expected a table's file as --output, got the database {name}. Name another file.")
    return output


def beside(output: Path) -> tuple[Path, Path]:
    """Return the Markdown and the LaTeX file of a summary."""
    return output.with_suffix(".md"), output.with_suffix(".tex")


def check_beside(output: Path) -> None:
    """Raise ValueError if the summary would overwrite a file that has no CSV beside it, so is no summary."""
    for path in beside(output):
        checked_output(str(path))
        if path.exists() and not output.exists():
            raise ValueError(
                f"--summary would overwrite {path.name} beside {output.name}. Choose another --output"
            )


def is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def parser() -> argparse.ArgumentParser:
    summary, _, details = as_started(__doc__ or "").partition("\n")
    flags = command_line.OneLineParser(summary, details)
    add_store_flags(flags)
    what = flags.add_argument_group("what is written")
    instead = what.add_mutually_exclusive_group()
    instead.add_argument(
        "--history", action="store_true", help="every value of every metric instead of a row per run"
    )
    instead.add_argument(
        "--summary", action="store_true", help="methods over seeds, ranked, instead of a row per run"
    )
    instead.add_argument(
        "--all", action="store_true", help="every param and metric, as logged, instead of those that matter"
    )
    what.add_argument(
        "--output",
        metavar="FILE",
        help=f"default: {TABLE}, with --history {HISTORY}, with --summary {SUMMARY}",
    )
    what.add_argument(
        "--format", choices=WRITERS, help="default: by the ending of --output (.csv, .parquet, .jsonl)"
    )
    what.add_argument(
        "--spreadsheet_safe", action="store_true", help="CSV whose texts no spreadsheet takes for formulas"
    )
    what.add_argument("--system_metrics", action="store_true", help="keep the metrics named system/*")
    what.add_argument(
        "--artifact_root",
        metavar="FOLDER",
        help="where the experiments' artifact folders are now: long params are read there whole",
    )
    return flags


def chosen_writer(output: Path, options: argparse.Namespace) -> Write:
    """Return the writer of the output's format. Raises ValueError for flags that exclude each other."""
    if options.format is None and output.suffix.lower() not in ("", *ENDINGS):
        raise ValueError(
            f"expected --output to end in {', '.join(ENDINGS)}, got {output.name}. Rename it, or name its "
            "--format"
        )
    name = options.format or ENDINGS.get(output.suffix.lower(), "csv")
    if options.summary and (name != "csv" or output.suffix.lower() not in ("", ".csv")):
        raise ValueError(
            f"--summary: expected the name of a CSV file as --output, got {output.name}. Markdown and LaTeX "
            "are written beside it"
        )
    if options.spreadsheet_safe and name != "csv":
        raise ValueError(f"--spreadsheet_safe is for CSV, which spreadsheets open, got {name}. Leave it out")
    return write_spreadsheet_csv if options.spreadsheet_safe else WRITERS[name]


def leave_out_system_metrics(spool: Spool) -> None:
    names = {name for name in spool.metrics if name.startswith(SYSTEM)}
    if names:
        print(f"left out: metrics named {SYSTEM}* ({len(names)}); --system_metrics keeps them")
        spool.metrics -= names


def write_summary(selected: Runs, output: Path, write: Write, options: argparse.Namespace) -> str:
    """Write the three files of a summary; return a message. Raises ValueError if there are no runs."""
    from lethe.report.seeds_summary import heading_of, tasks_of
    from lethe.report.seeds_tables import latex_of, markdown_of, shown_metrics, summary_of, table_of
    from lethe.report.text_table import text_table
    from lethe.training.storage import write_bytes

    spool = selected.spool
    stored = command_line.progress_bar(spool, "grouping", len(spool))
    runs = seed_runs(stored, lambda metrics, _: shown_metrics(metrics))
    if not runs:
        raise ValueError(
            f"--summary: expected runs of {named('forget')}, got none among {len(spool)} runs. "
            f"{where_runs_are(options)}"
        )
    tasks = tasks_of(runs)
    markdown, latex = beside(output)
    summary = summary_of(tasks)
    write(output, dict.fromkeys(summary, "text"), summary.values.tolist())
    write_bytes(markdown, markdown_of(tasks).encode())
    write_bytes(latex, latex_of(tasks).encode())
    for task in tasks:
        table = table_of(task)
        print(f"\n{heading_of(task, tasks)}\n{text_table(list(table), table.values.tolist())}")
    print()
    left_out = len(spool) - len(runs)
    files = f"{output.name}, {markdown.name}, {latex.name}"
    return f"{counted(len(runs), 'run')} -> {files}{others(left_out)}{skipped_runs(selected.skipped)}"


class Points:
    """The rows of the history. Skips runs whose history can't be read, and names them on stderr."""

    def __init__(self, store: Store, spool: Spool) -> None:
        self.store, self.spool = store, spool
        self.number = self.skipped = 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        stored = command_line.progress_bar(self.spool, "histories", len(self.spool))
        for runs in batches(stored, RUNS_AT_ONCE):
            for point in self.store.points(runs):
                if isinstance(point, BrokenRun):
                    complain(f"skipped {point.where}: {point.reason}")
                    self.skipped += 1
                elif point.metric in self.spool.metrics:
                    self.number += 1
                    yield point
