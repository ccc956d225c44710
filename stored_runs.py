"""The runs of a tracking store that a command line asks for: what mlruns_parser.py and compare.py share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command_line
from tracking.client_reader import ClientStore
from tracking.long_params import Read, local_artifact, with_whole_params
from tracking.readers import Store
from tracking.run import LONGEST_PARAM
from tracking.run_filter import parse_filter
from tracking.selection import Selection, since_time
from tracking.shown_uri import without_password
from tracking.spool import Spool
from tracking.store_uri import DATABASE, FOLDER, VARIABLE, Choice, chosen_store
from tracking.stored_run import BrokenRun, StoredRun

if TYPE_CHECKING:
    from reporter.seeds_summary import SeedRun

SWEEP_TAG, AUDIT_TAG = "sweep", "audit"  # of a run that stands for its children; of one on many models
NOT_OF_ONE_SEED = (SWEEP_TAG, AUDIT_TAG)

Complain = Callable[[str], None]
MetricsOf = Callable[[Mapping[str, float], Mapping[str, str]], dict[str, float]]


def add_store_flags(flags: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Which store, which of its runs."""
    which = flags.add_argument_group("which store, which runs")
    which.add_argument("--tracking_uri", metavar="URI", help="sqlite:///FILE, a file-store folder, postgresql://..., http(s)://..., ...")
    which.add_argument("--experiment", nargs="+", default=[], metavar="NAME", help="runs of these experiments (default: all)")
    which.add_argument("--since", metavar="DATE", help="runs that began then (2026-05-01, 2026-05-01T12:30Z) or later")
    which.add_argument("--filter", metavar="TEXT", help="runs that meet every comparison")
    return which


def choose_store(given: str | None) -> Choice:
    """The store to read. Raises ValueError if there is none."""
    choice = chosen_store(given)
    if choice is None:
        raise ValueError(
            f"expected a tracking store, got none: no --tracking_uri, no {VARIABLE}, no ./{DATABASE} and no ./{FOLDER} with meta.yaml "
            f"files. Run this where the runs were logged, or name the store, e.g. --tracking_uri sqlite:///path/to/{DATABASE}"
        )
    return choice


def selection_from(options: argparse.Namespace, tags: tuple[str, ...] = ()) -> Selection:
    """What the flags of `add_store_flags` ask for. tags: see Selection."""
    return Selection(
        experiments=tuple(options.experiment),
        since=None if options.since is None else since_time(options.since),
        clauses=() if options.filter is None else parse_filter(options.filter),
        tags=tags,
    )


def where_runs_are(options: argparse.Namespace) -> str:
    """What a person can do who got none of the runs that are asked for."""
    given = [f"--{name}" for name in ("experiment", "since", "filter") if getattr(options, name)]
    if given:
        return f"Check {' and '.join(given)}"
    return "Run mlflow_forget.py first, or name the store that its runs are in: --tracking_uri"


def long_params_from(artifact_root: str | None, store: Store) -> Read:
    """How the whole text of a long param is read. Raises ValueError for a folder that is none."""
    root = None if artifact_root is None else Path(artifact_root)
    if root is not None and not root.is_dir():
        raise ValueError(f"expected the folder of the artifacts as --artifact_root, got {root}. Check the path")
    here = local_artifact(root)
    return (lambda run, name: here(run, name) or store.artifact(run, name)) if isinstance(store, ClientStore) else here


def collect(store: Store, spool: Spool, read: Read, complain: Complain) -> int:
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


def seed_runs(runs: Iterable[StoredRun], metrics_of: MetricsOf) -> list[SeedRun]:
    """The runs of a method on a seed: no sweep's parent, which stands for its children, and no audit, which is of many seeds.

    The runs have to be read with the tags NOT_OF_ONE_SEED. metrics_of: what is kept of the numbers.
    """
    from reporter.seeds_summary import INITIAL, SeedRun, settings_of

    shared: dict[Any, Any] = {}  # most runs have their settings in common: one copy of each in memory
    return [
        SeedRun(
            experiment=run.experiment,
            method=run.params["unlearn"],
            seed=run.params.get("seed", "unknown"),
            settings=shared.setdefault(settings := settings_of(run.params), settings),
            status=run.status,
            start=run.start_time or 0,
            metrics=metrics_of(run.metrics, run.params),
            warned=bool(run.warning),
            initial=run.params.get(INITIAL, ""),
        )
        for run in runs
        if "unlearn" in run.params and run.tags.get(SWEEP_TAG) != "parent" and AUDIT_TAG not in run.tags
    ]


def counted(number: int, what: str) -> str:
    return f"{number} {what if number == 1 else what + 's'}"


def others(number: int) -> str:
    """What `seed_runs` left out, to end a line with."""
    return f"; {counted(number, 'other run')} left out (parents of sweeps, audits, no param unlearn)" if number else ""


def complain(program: str, message: str) -> None:
    """Print a message on one line of stderr, whatever line ends and passwords an error brings along."""
    print(f"{program}:", without_password(" ".join(message.split())), file=sys.stderr)
