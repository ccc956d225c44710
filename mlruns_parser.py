"""Every run of an MLflow tracking store as one row of a table.

    python mlruns_parser.py [--tracking_uri URI] [--output mlruns_parsed.csv]
    python mlruns_parser.py --filter "metrics.avg_gap < 1 AND params.unlearn = 'MIMU'" --since 2026-05-01 --output runs.parquet
    python mlruns_parser.py --history
    python mlruns_parser.py --summary

Which store: --tracking_uri, else the environment's MLFLOW_TRACKING_URI, else ./mlflow.db, else an old file-store folder ./mlruns.
Columns: run_id, run_name, experiment, status, start_time, end_time, duration_s, then params, metrics, parent_run_id and warning
sorted by name; names that clash get `param.` or `metric.` in front. `warning` says what makes the numbers of a run doubtful, and is
empty where nothing does. Nothing is dropped and nothing rounded: floats round trip, NaN is `nan`, infinities are `inf` and `-inf`, a
missing value is an empty cell (JSON lines: "NaN", "Infinity", "-Infinity", and no entry; Parquet: NaN, infinity and null). Deleted runs
are left out. Rows are sorted by start time.

--filter takes MLflow's search language: metrics.NAME and the times start_time, end_time with = != < <= > >= NUMBER; params.NAME,
tags.NAME, status, run_id and run_name with = != LIKE ILIKE 'TEXT', IN and NOT IN ('A', 'B'); params and tags with IS NULL, IS NOT NULL; AND
between them. A name with other signs than letters, digits and _./:- stands in `backticks`.

--history writes a row for every value that a metric had instead: run_id, metric, step, time, value.

--summary groups the runs of mlflow_forget.py that differ in the seed alone: mean, standard deviation, 95 % t-interval of the mean and
number of seeds, ranked by avg_gap, as CSV, Markdown and LaTeX (booktabs) side by side. Seeds that are missing or failed are named.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command_line
from reporter.table_files import WRITERS, Write, batches, write_spreadsheet_csv
from tracking.client_reader import ClientStore
from tracking.file_reader import is_file_store
from tracking.long_params import Read, local_artifact, with_whole_params
from tracking.readers import Store, open_store
from tracking.run import LONGEST_PARAM
from tracking.run_filter import parse_filter
from tracking.run_table import column_names, columns_of, rows_of
from tracking.selection import Selection, since_time
from tracking.spool import Spool
from tracking.stored_run import BrokenRun, StoredRun

if TYPE_CHECKING:
    from reporter.seeds_summary import SeedRun

DATABASE, FOLDER, VARIABLE = "mlflow.db", "mlruns", "MLFLOW_TRACKING_URI"
SYSTEM = "system/"
TABLE, HISTORY, SUMMARY = "mlruns_parsed.csv", "mlruns_history.csv", "mlruns_summary.csv"  # what is written where nothing is said
ENDINGS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SWEEP_TAG = "sweep"  # of a run that stands for its children
POINTS = {"run_id": "text", "metric": "text", "step": "integer", "time": "time", "value": "number"}
RUNS_AT_ONCE = 200  # whose histories are in memory together


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
    """What the flags ask for. Raises ValueError or OSError, with nothing written, for a person's mistake."""
    uri, reason = choose_store(options.tracking_uri)
    name = options.output or (SUMMARY if options.summary else HISTORY if options.history else TABLE)
    output = checked_output(name)
    write = chosen_writer(output, options)
    selection = selection_from(options)
    print(f"store: {without_password(uri)} ({reason})")
    with open_store(uri, selection, notice=complain) as store, closing(Spool(output.parent)) as spool:
        skipped = collect(store, spool, long_params_from(options, store))
        if not options.system_metrics:
            leave_out_system_metrics(spool)
        if options.summary:
            written = write_summary(spool, output, write)
        elif options.history:
            points = Points(store, spool)
            write(output, POINTS, points)
            written, skipped = counted(points.number, "value", name), skipped + points.skipped
        else:
            params, metrics = column_names(spool.params, spool.metrics)
            rows = command_line.progress_bar(rows_of(spool, params, metrics), "writing", len(spool))
            write(output, columns_of(params, metrics), rows)
            written = counted(len(spool), "run", name)
        warned = spool.warned
    print(
        written
        + (f" ({skipped} skipped)" if skipped else "")
        + (f"; {warned} with a warning: see the column warning" if warned and not (options.summary or options.history) else "")
    )


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
        raise ValueError(f"expected a table's file as --output, got the database {name}. Name another file.")
    return output


def is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n")
    flags = command_line.OneLineParser(summary, details)
    which = flags.add_argument_group("which store, which runs")
    which.add_argument("--tracking_uri", metavar="URI", help="sqlite:///FILE, a file-store folder, postgresql://..., http(s)://..., ...")
    which.add_argument("--experiment", nargs="+", default=[], metavar="NAME", help="runs of these experiments (default: all)")
    which.add_argument("--since", metavar="DATE", help="runs that began then (2026-05-01, 2026-05-01T12:30Z) or later")
    which.add_argument("--filter", metavar="TEXT", help="runs that meet every comparison")
    what = flags.add_argument_group("what is written")
    instead = what.add_mutually_exclusive_group()
    instead.add_argument("--history", action="store_true", help="every value of every metric instead of a row per run")
    instead.add_argument("--summary", action="store_true", help="methods over seeds, ranked, instead of a row per run")
    what.add_argument("--output", metavar="FILE", help=f"default: {TABLE}, with --history {HISTORY}, with --summary {SUMMARY}")
    what.add_argument("--format", choices=WRITERS, help="default: by the ending of --output (.csv, .parquet, .jsonl)")
    what.add_argument("--spreadsheet_safe", action="store_true", help="CSV whose texts no spreadsheet takes for formulas")
    what.add_argument("--system_metrics", action="store_true", help="keep the metrics named system/*")
    what.add_argument(
        "--artifact_root", metavar="FOLDER", help="where the experiments' artifact folders are now: long params are read there whole"
    )
    return flags


def selection_from(options: argparse.Namespace) -> Selection:
    return Selection(
        experiments=tuple(options.experiment),
        since=None if options.since is None else since_time(options.since),
        clauses=() if options.filter is None else parse_filter(options.filter),
        tags=(SWEEP_TAG,) if options.summary else (),
    )


def chosen_writer(output: Path, options: argparse.Namespace) -> Write:
    """What writes the output's format. Raises ValueError where the flags do not name one that can be."""
    if options.format is None and output.suffix.lower() not in ("", *ENDINGS):
        raise ValueError(f"expected --output to end in {', '.join(ENDINGS)}, got {output.name}. Rename it, or name its --format")
    name = options.format or ENDINGS.get(output.suffix.lower(), "csv")
    if options.summary and name != "csv":
        raise ValueError(
            f"--summary: expected the name of a CSV file as --output, got {output.name}. Markdown and LaTeX are written beside it"
        )
    if options.spreadsheet_safe and name != "csv":
        raise ValueError(f"--spreadsheet_safe is for CSV, which spreadsheets open, got {name}. Leave it out")
    return write_spreadsheet_csv if options.spreadsheet_safe else WRITERS[name]


def long_params_from(options: argparse.Namespace, store: Store) -> Read:
    """How the whole text of a long param is read. Raises ValueError for a folder that is none."""
    root = None if options.artifact_root is None else Path(options.artifact_root)
    if root is not None and not root.is_dir():
        raise ValueError(f"expected the folder of the artifacts as --artifact_root, got {root}. Check the path")
    here = local_artifact(root)
    return (lambda run, name: here(run, name) or store.artifact(run, name)) if isinstance(store, ClientStore) else here


def collect(store: Store, spool: Spool, read: Read) -> int:
    """Put all runs into the spool; the number of those skipped, each of which is named on stderr."""
    skipped, cut = 0, 0
    total, runs = store.runs()
    for run in command_line.progress_bar(runs, "reading", total):
        if isinstance(run, BrokenRun):
            complain(f"skipped {run.where}: {run.reason}")
            skipped += 1
        else:
            whole, missing = with_whole_params(run, read)
            spool.add(whole)
            cut += len(missing)
    if cut:
        print(
            f"{cut} {'param has' if cut == 1 else 'params have'} {LONGEST_PARAM} characters, where MLflow cuts, and no artifact "
            "params/<name>.txt that goes on. If they were cut, --artifact_root names where the artifacts are now"
        )
    return skipped


def leave_out_system_metrics(spool: Spool) -> None:
    names = {name for name in spool.metrics if name.startswith(SYSTEM)}
    if names:
        print(f"left out: metrics named {SYSTEM}* ({len(names)}); --system_metrics keeps them")
        spool.metrics -= names


def write_summary(spool: Spool, output: Path, write: Write) -> str:
    """The summary's three files, and what was written. Raises ValueError where there is nothing to summarise."""
    from reporter.seeds_summary import heading_of, tasks_of
    from reporter.seeds_tables import latex_of, markdown_of, summary_columns, summary_rows, table_of
    from reporter.text_table import text_table
    from training.storage import write_bytes

    runs = seed_runs(command_line.progress_bar(spool, "grouping", len(spool)))
    if not runs:
        raise ValueError(f"--summary: expected runs of mlflow_forget.py, got none among {len(spool)} runs. Check --filter and --experiment")
    tasks = tasks_of(runs)
    markdown, latex = (output.with_suffix(ending) for ending in (".md", ".tex"))
    for path in (markdown, latex):
        checked_output(str(path))
    write(output, summary_columns(tasks)[0], summary_rows(tasks))
    write_bytes(markdown, markdown_of(tasks).encode())
    write_bytes(latex, latex_of(tasks).encode())
    for task in tasks:
        print(f"\n{heading_of(task, tasks)}\n{text_table(*table_of(task))}")
    print()
    left_out = len(spool) - len(runs)
    also = f"; {left_out} other {'run' if left_out == 1 else 'runs'} left out (parents of sweeps, no param unlearn)" if left_out else ""
    return f"{counted(len(runs), 'run', output.name)}, {markdown.name}, {latex.name}{also}"


def seed_runs(runs: Iterable[StoredRun]) -> list[SeedRun]:
    """The runs of a method on a seed: not a sweep's parent, which stands for its children."""
    from reporter.seeds_summary import SeedRun, settings_of
    from reporter.seeds_tables import shown_metrics

    shared: dict[Any, Any] = {}  # most runs have their settings in common: one copy of each in memory
    return [
        SeedRun(
            experiment=run.experiment,
            method=run.params["unlearn"],
            seed=run.params.get("seed", "unknown"),
            settings=shared.setdefault(settings := settings_of(run.params), settings),
            status=run.status,
            start=run.start_time or 0,
            metrics=shown_metrics(run.metrics),
            warned=bool(run.warning),
        )
        for run in runs
        if "unlearn" in run.params and run.tags.get(SWEEP_TAG) != "parent"
    ]


class Points:
    """The rows of the history: those of a run whose history can't be read are left out, and it is named on stderr."""

    def __init__(self, store: Store, spool: Spool) -> None:
        self.store, self.spool = store, spool
        self.number = self.skipped = 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for runs in batches(command_line.progress_bar(self.spool, "histories", len(self.spool)), RUNS_AT_ONCE):
            for point in self.store.points(runs):
                if isinstance(point, BrokenRun):
                    complain(f"skipped {point.where}: {point.reason}")
                    self.skipped += 1
                elif point.metric in self.spool.metrics:
                    self.number += 1
                    yield point


def counted(number: int, what: str, output: str) -> str:
    return f"{number} {what if number == 1 else what + 's'} -> {output}"


def complain(message: str) -> None:
    """Print a message on one line of stderr, whatever line ends and passwords an error brings along."""
    print("mlruns_parser.py:", without_password(" ".join(message.split())), file=sys.stderr)


def without_password(text: str) -> str:
    return re.sub(r"(://|\")[^/\s\"]*@", r"\1***@", text)  # in quotes: the part of a password that a driver takes for the host


if __name__ == "__main__":
    sys.exit(main())
