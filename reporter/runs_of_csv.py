"""The runs in a CSV file of mlruns_parser.py, as far as a comparison needs them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from evaluation import METRICS
from foreign_files import LIST, open_foreign
from models import ARCHITECTURES
from reporter.comparison import BASE_MODELS, KAPPA_COUNT, compared_metrics, without_base
from reporter.seeds_summary import INITIAL, OF_TASK, SeedRun, own_names, settings_of
from unlearn import METHODS

FIXED = ("run_id", "experiment", "status", "start_time", "unlearn", "seed", "parent_run_id")
OF_AUDITS = "sha256.columns.csv"  # a param of every run on many models, which is of many seeds
OTHER_PARAMS = {"unlearn", "unlearn_file", "unlearn_code", KAPPA_COUNT}  # of every method


def runs_of_csv(path: Path) -> tuple[list[SeedRun], int, list[str]]:
    """The runs of a method on a seed; how many other rows there are; methods and architectures whose settings it can't tell.

    A CSV says of no column whether it holds a setting or a metric: settings are what a registered method, an architecture or the job is
    known to have. Runs of a method or an architecture of somebody's own that differ in its settings are therefore one line. Raises
    ValueError for a file that is no such table, FileNotFoundError for none.
    """
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"--csv: expected a file of mlruns_parser.py, got {path}, which is none. Make it: python mlruns_parser.py")
    try:
        with open_foreign(path, most=LIST) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"--csv: expected a CSV file of mlruns_parser.py, got {path.name}: {error}. Make it anew") from None
    missing = [name for name in FIXED if name not in table]
    if missing:
        raise ValueError(
            f"--csv: expected a CSV of mlruns_parser.py that has runs of mlflow_forget.py, got {path.name} without the columns "
            f"{', '.join(missing)}. Make it: python mlruns_parser.py"
        )
    rows = table.to_dict("records")
    parents = {row["parent_run_id"] for row in rows}
    runs = [
        run_of({k: v for k, v in row.items() if v}, path)
        for row in rows
        if row["unlearn"] and not row.get(OF_AUDITS) and row["run_id"] not in parents
    ]
    architectures = {dict(run.settings).get("arch", "") for run in runs} - {"", *ARCHITECTURES.names}
    unknown = sorted({run.method for run in runs} - set(METHODS.names)) + [f"the architecture {name}" for name in sorted(architectures)]
    return runs, len(rows) - len(runs), unknown


def run_of(row: Mapping[str, str], path: Path) -> SeedRun:
    params = {name: row[column] for name in settings_known(row["unlearn"], row.get("arch", "")) if (column := column_of(name, row))}
    numbers = {name: number_of(row[column], name, path) for name in metric_names() if (column := column_of(name, row, "metric."))}
    return SeedRun(
        experiment=row["experiment"],
        method=row["unlearn"],
        seed=row.get("seed", "unknown"),
        settings=settings_of(params),
        status=row["status"],
        start=milliseconds(row.get("start_time", ""), path),
        metrics=compared_metrics(numbers, params),
        warned="warning" in row,
        initial=row.get(column_of(INITIAL, row), ""),
    )


def column_of(name: str, row: Mapping[str, str], prefix: str = "param.") -> str:
    """The row's column of that param or metric: its name, or that with the prefix which the parser gives to names that clash."""
    return next((column for column in (f"{prefix}{name}", name) if column in row), "")


@functools.cache
def settings_known(method: str, arch: str) -> frozenset[str]:
    of_arch = set(ARCHITECTURES[arch].hyperparameters) if arch in ARCHITECTURES.names else set()
    return frozenset(OF_TASK | OTHER_PARAMS | own_names(method) | of_arch)


@functools.cache
def metric_names() -> frozenset[str]:
    return frozenset([*METRICS.names, *(f"{base}{name}" for base in BASE_MODELS for name in METRICS.names if without_base(name) == name)])


def number_of(text: str, name: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--csv: expected numbers in column {name} of {path.name}, got {text!r}. Make the file anew") from None


def milliseconds(text: str, path: Path) -> int:
    """Since 1970, of a time as the parser writes it; 0 for none."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000) if text else 0
    except ValueError:
        raise ValueError(f"--csv: expected times like 2026-05-01T12:30:00.000Z in {path.name}, got {text!r}. Make the file anew") from None
