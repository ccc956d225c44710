"""Read runs from a tracking store or its CSV, as flags of mlruns_parser.py and compare.py select them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lethe import command_line
from lethe.commands import named, started
from lethe.system.foreign_files import LIST, open_foreign
from lethe.tracking.long_params import Read, local_artifact, with_whole_params
from lethe.tracking.readers import READERS, Store, open_store
from lethe.tracking.readers.mlflow_client import ClientStore
from lethe.tracking.run import LONGEST_PARAM
from lethe.tracking.run_filter import parse_filter
from lethe.tracking.selection import Selection, since_time
from lethe.tracking.shown_uri import without_password
from lethe.tracking.spool import Spool
from lethe.tracking.store_uri import DATABASE, FOLDER, VARIABLE, Choice, chosen_store
from lethe.tracking.stored_run import BrokenRun, StoredRun

if TYPE_CHECKING:
    from lethe.report.seeds_summary import SeedRun

SWEEP_TAG, AUDIT_TAG = "sweep", "audit"  # of the parent of a sweep; of an audit of many models
NOT_OF_ONE_SEED = (SWEEP_TAG, AUDIT_TAG)
CSV_COLUMNS = ("run_id", "experiment", "status", "start_time", "unlearn", "seed", "parent_run_id")
WHOLE = "end_time"  # a column of --all alone
OF_AUDITS = "sha256.columns.csv"  # a param of every run on many models

Complain = Callable[[str], None]
MetricsOf = Callable[[Mapping[str, float], Mapping[str, str]], dict[str, float]]


def add_store_flags(flags: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags that name a store and select its runs."""
    which = flags.add_argument_group("which store, which runs")
    which.add_argument(
        "--tracking_uri",
        metavar="URI",
        help="sqlite:///FILE, a file-store folder, postgresql://..., http(s)://..., ...",
    )
    which.add_argument(
        "--reader",
        metavar="NAME",
        help=f"how it is read: {', '.join(READERS.names)} or path/to/file.py:function (default: by the URI)",
    )
    which.add_argument(
        "--experiment", nargs="+", default=[], metavar="NAME", help="runs of these experiments (default: all)"
    )
    which.add_argument(
        "--since", metavar="DATE", help="runs that began then (2026-05-01, 2026-05-01T12:30Z) or later"
    )
    which.add_argument("--filter", metavar="TEXT", help="runs that meet every comparison")
    return which


def choose_store(given: str | None) -> Choice:
    """Return the store to read. Raises ValueError if there is none."""
    choice = chosen_store(given)
    if choice is None:
        raise ValueError(
            f"expected a tracking store, got none: no --tracking_uri, no {VARIABLE}, no ./{DATABASE} and no "
            f"./{FOLDER} with meta.yaml files. Run this where the runs were logged, or name the store, e.g. "
            f"--tracking_uri sqlite:///path/to/{DATABASE}"
        )
    return choice


class Runs(NamedTuple):
    """The selected runs of an open store. uri: of the store. skipped: the number of unreadable runs."""

    store: Store
    uri: str
    spool: Spool
    skipped: int


@contextmanager
def selected_runs(
    options: argparse.Namespace,
    folder: Path,
    complain: Complain,
    tags: tuple[str, ...] = (),
    artifact_root: str | None = None,
) -> Iterator[Runs]:
    """Read the runs that the flags of `add_store_flags` select into a temporary file in a folder.

    Prints the store's name. tags: see Selection. Raises ValueError or OSError for a wrong flag or store.
    """
    uri, reason = choose_store(options.tracking_uri)
    selection = selection_from(options, tags)
    print(f"store: {without_password(uri)} ({reason})")
    with open_store(uri, selection, complain, options.reader) as store, closing(Spool(folder)) as spool:
        skipped = collect(store, spool, long_params_from(artifact_root, store), complain)
        yield Runs(store, uri, spool, skipped)


def selection_from(options: argparse.Namespace, tags: tuple[str, ...] = ()) -> Selection:
    """Return the selection of the flags of `add_store_flags`. tags: see Selection."""
    return Selection(
        experiments=tuple(options.experiment),
        since=None if options.since is None else since_time(options.since),
        clauses=() if options.filter is None else parse_filter(options.filter),
        tags=tags,
    )


def where_runs_are(options: argparse.Namespace) -> str:
    """Return advice for a selection without runs."""
    given = [f"--{name}" for name in ("experiment", "since", "filter") if getattr(options, name)]
    if given:
        return f"Check {' and '.join(given)}"
    return f"Run {named('forget')} first, or name the store that its runs are in: --tracking_uri"


def long_params_from(artifact_root: str | None, store: Store) -> Read:
    """Return the reader of long params. Raises ValueError if artifact_root is not a folder."""
    root = None if artifact_root is None else Path(artifact_root)
    if root is not None and not root.is_dir():
        raise ValueError(
            f"expected the folder of the artifacts as --artifact_root, got {root}. Check the path"
        )
    local = local_artifact(root)
    if not isinstance(store, ClientStore):
        return local
    return lambda run, name: local(run, name) or store.artifact(run, name)


def collect(store: Store, spool: Spool, read: Read, complain: Complain) -> int:
    """Add all runs to the spool. Name unreadable runs on stderr, and return their number."""
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
            f"{cut} {'param has' if cut == 1 else 'params have'} {LONGEST_PARAM} characters, where MLflow "
            "cuts, and no artifact params/<name>.txt with all of it. If they were cut, name the folder of "
            "the artifacts with --artifact_root"
        )
    return skipped


def seed_runs(runs: Iterable[StoredRun], metrics_of: MetricsOf) -> list[SeedRun]:
    """Return the runs of a method on one seed, without parents of sweeps and audits.

    Read the runs with the tags NOT_OF_ONE_SEED. metrics_of: selects the metrics to keep.
    """
    from lethe.report.seeds_summary import FORGOTTEN, INITIAL, SeedRun, settings_of

    shared: dict[Any, Any] = {}  # most runs share their settings: keep one copy in memory
    found = []
    for run in runs:
        if "unlearn" not in run.params or run.tags.get(SWEEP_TAG) == "parent" or AUDIT_TAG in run.tags:
            continue
        settings = settings_of(run.params)
        seed_run = SeedRun(
            experiment=run.experiment,
            method=run.params["unlearn"],
            seed=run.params.get("seed", "unknown"),
            settings=shared.setdefault(settings, settings),
            status=run.status,
            start=run.start_time or 0,
            metrics=metrics_of(run.metrics, run.params),
            warned=bool(run.warning),
            initial=run.params.get(INITIAL, ""),
            forgotten=run.params.get(FORGOTTEN, ""),
        )
        found.append(seed_run)
    return found


def runs_of_csv(path: Path) -> list[StoredRun]:
    """Read runs with the tags NOT_OF_ONE_SEED from a CSV file of mlruns_parser.py --all.

    A CSV does not say which columns are params: those named like settings of registered methods and
    architectures, and of the run. Raises ValueError for any other file.
    """
    import pandas as pd

    try:
        with open_foreign(path, most=LIST) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if WHOLE not in table and "run_id" in table:
            raise ValueError("it was written without --all, so it lacks columns that tell runs apart")
        missing = [name for name in CSV_COLUMNS if name not in table]
        if missing:
            raise ValueError(f"it has no columns {', '.join(missing)}")
        parents = set(table["parent_run_id"])
        return [_run_of_row(row, parents) for row in table.to_dict("records")]
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"--csv: expected a CSV file of {named('parse')}, got {path}: {error}. Make it: "
            f"{started('parse')} --all"
        ) from error


def _run_of_row(row: Mapping[str, str], parents: Collection[str]) -> StoredRun:
    from lethe.report.comparison import compared_names, known_params

    tags = {SWEEP_TAG: "parent"} if row["run_id"] in parents else {}
    if row.get(OF_AUDITS):
        tags[AUDIT_TAG] = "of many models"
    metrics = _cells(row, compared_names(), "metric.").items()
    start = row["start_time"]
    return StoredRun(
        run_id=row["run_id"],
        run_name="",
        experiment=row["experiment"],
        status=row["status"],
        start_time=int(datetime.fromisoformat(start).timestamp() * 1000) if start else None,
        end_time=None,
        parent_run_id=row["parent_run_id"],
        warning=row.get("warning", ""),
        params=_cells(row, known_params(row["unlearn"], row.get("arch", "")), "param."),
        metrics={name: float(text) for name, text in metrics},
        tags=tags,
    )


def _cells(row: Mapping[str, str], names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return a row's values of these params or metrics. Names that clash have a prefix in the CSV."""
    columns = {name: prefix + name if prefix + name in row else name for name in names}
    return {name: row[column] for name, column in columns.items() if row.get(column)}


def counted(number: int, what: str) -> str:
    return f"{number} {what if number == 1 else what + 's'}"


def others(number: int) -> str:
    """Return the end of a line about runs that `seed_runs` left out."""
    if not number:
        return ""
    return (
        f"; {counted(number, 'other run')} left out (parents of sweeps, audits, searches, no param unlearn)"
    )


def complain(name: str, message: str) -> None:
    """Print a message of a command on one line of stderr, without passwords."""
    line = f"{named(name)}: {' '.join(message.split())}"
    print(without_password(line), file=sys.stderr)
