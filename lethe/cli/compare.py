"""A report over runs: forgetting against its cost, curves over kappa, ranks, time against avg_gap.

    python -u compare.py                          # the store of this folder -> comparison.html
    python -u compare.py --csv all_runs.csv --output report.html
    python -u compare.py --tables paper/tables --figures paper/figures

Which store, and which of its runs: as for mlruns_parser.py. --csv reads a file of that parser instead,
written with --all; for methods and architectures unknown to Lethe it can't distinguish settings from metrics,
and prints a warning.

The report is one HTML file that needs no network and no script. --figures writes its pictures as PDF with the
fonts embedded; --tables writes LaTeX (booktabs, graphicx): for each request a table of UA, RA, TA and MIA
with their distance from the ideal model in brackets, avg_gap and run time; where MIMU was run, the loss and
the score on forget and on retain images beside SFT, a random mask and the initial model; and preview.tex, a
document with all of them. Runs of mlflow_forget.py that differ in the seed alone are one line.
"""

from __future__ import annotations

import argparse
import functools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe import command_line
from lethe.cli import stored_runs
from lethe.commands import as_started, named, started
from lethe.tracking.shown_uri import without_password

if TYPE_CHECKING:
    from lethe.report.seeds_summary import SeedRun, Task

REPORT = "comparison.html"
HTML = (".html", ".htm")
WAY_OUT = "Free the place, or choose another with --output, --tables or --figures"
complain = functools.partial(stored_runs.complain, "compare")


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and return the exit status: 0, or 2 with one line on stderr for a mistake."""
    try:
        compare(parser().parse_args(argv))
    except (ValueError, OSError) as error:
        complain(str(error))
        return command_line.MISTAKE
    return 0


def parser() -> argparse.ArgumentParser:
    summary, _, details = as_started(__doc__ or "").partition("\n")
    flags = command_line.OneLineParser(summary, details)
    stored_runs.add_store_flags(flags)
    what = flags.add_argument_group("what is read and written")
    what.add_argument(
        "--csv", metavar="FILE", help=f"runs from a CSV of {named('parse')} --all instead of a store"
    )
    what.add_argument("--output", metavar="FILE", default=REPORT, help="the report (default: %(default)s)")
    what.add_argument("--tables", metavar="FOLDER", help="LaTeX tables too, there")
    what.add_argument("--figures", metavar="FOLDER", help="the pictures as PDF too, there")
    return flags


def compare(options: argparse.Namespace) -> None:
    """Write the report. Raises ValueError or OSError for a user's mistake, and writes nothing then."""
    output = checked_output(options.output)
    for flag in ("tables", "figures"):
        check_folder(flag, getattr(options, flag))

    from lethe.report.seeds_summary import tasks_of
    from lethe.training.storage import check_writable, write_bytes

    for folder in {output.parent, *(Path(name) for name in (options.tables, options.figures) if name)}:
        check_writable(folder, WAY_OUT)
    runs, origin = runs_from(options, output.parent)
    tasks = tasks_of(runs)
    if not any(ranked.group.done for task in tasks for ranked in task.ranking):
        raise ValueError(
            f"expected finished runs of {named('forget')}, got none{of_those(runs)}. "
            f"{stored_runs.where_runs_are(options)}"
        )
    files, lacking = contents(tasks, options, output, origin)
    for path, content in files.items():
        write_bytes(path, content, WAY_OUT)
    for message in lacking:
        print(message)
    which = f"{stored_runs.counted(len(runs), 'run')}, {stored_runs.counted(len(tasks), 'comparison')}"
    folders = " and ".join(filter(None, (options.tables, options.figures)))
    others = f" and {stored_runs.counted(len(files) - 1, 'file')} in {folders}"
    print(f"{which} -> {options.output}{others if len(files) > 1 else ''}")


def runs_from(options: argparse.Namespace, folder: Path) -> tuple[list[SeedRun], str]:
    """Return the runs, and a sentence about their origin."""
    if options.csv is not None:
        return runs_of_file(options)
    with stored_runs.selected_runs(options, folder, complain, stored_runs.NOT_OF_ONE_SEED) as selected:
        from lethe.report.comparison import compared_metrics

        spool, shown = selected.spool, without_password(selected.uri)
        runs = stored_runs.seed_runs(
            command_line.progress_bar(spool, "grouping", len(spool)), compared_metrics
        )
        left_out = len(spool) - len(runs)
    asked = [
        f"--{name} {value}"
        for name in ("experiment", "since", "filter")
        if (value := flag_text(getattr(options, name)))
    ]
    which = f"{stored_runs.counted(len(runs), 'run')} of {', '.join(filter(None, (shown, ' '.join(asked))))}"
    return runs, f"{which}{stored_runs.others(left_out)}."


def flag_text(value: str | list[str] | None) -> str:
    return " ".join(value) if isinstance(value, list) else value or ""


def runs_of_file(options: argparse.Namespace) -> tuple[list[SeedRun], str]:
    given = [
        f"--{name}"
        for name in ("tracking_uri", "reader", "experiment", "since", "filter")
        if getattr(options, name)
    ]
    if given:
        raise ValueError(
            f"--csv: expected a file alone, got {', '.join(given)} too. Give these to {named('parse')}, "
            "which makes the file"
        )

    from lethe.models import ARCHITECTURES
    from lethe.report.comparison import compared_metrics
    from lethe.unlearn import METHODS

    found = stored_runs.runs_of_csv(Path(options.csv))
    runs = stored_runs.seed_runs(found, compared_metrics)
    architectures = {dict(run.settings).get("arch", "") for run in runs} - {"", *ARCHITECTURES.names}
    unknown = sorted({run.method for run in runs} - set(METHODS.names)) + [
        f"the architecture {name}" for name in sorted(architectures)
    ]
    if unknown:
        mixed = "settings can't be distinguished from metrics in a CSV: runs that differ in them are one line"
        complain(f"{', '.join(unknown)}: {mixed}. Read the store instead")
    return (
        runs,
        f"{stored_runs.counted(len(runs), 'run')} of "
        f"{options.csv}{stored_runs.others(len(found) - len(runs))}.",
    )


def of_those(runs: Sequence[SeedRun]) -> str:
    return f": {stored_runs.counted(len(runs), 'run')}, none FINISHED" if runs else ""


def contents(
    tasks: Sequence[Task], options: argparse.Namespace, output: Path, origin: str
) -> tuple[dict[Path, bytes], list[str]]:
    """Return the content of every file, before any is written, and messages about missing parts."""
    from lethe.report.comparison import about, slugs_of
    from lethe.report.comparison_page import comparison_page, figures_of

    shown = command_line.progress_bar(tasks, "drawing", len(tasks))
    drawn = {place: figures_of(task) for place, task in enumerate(shown)}
    files = {output: comparison_page(tasks, drawn, origin=origin, command=command_of(options)).encode()}
    lacking: list[str] = []
    if options.tables:
        from lethe.report.paper_tables import paper_tables

        tables, lacking = paper_tables(tasks)
        files |= {Path(options.tables) / name: text.encode() for name, text in tables.items()}
    if options.figures:
        from lethe.report.figure_files import pdf_of

        for slug, task, figures in zip(slugs_of(tasks), tasks, drawn.values(), strict=True):
            for one in figures:
                file = Path(options.figures) / f"{slug}_{one.name}.pdf"
                files[file] = pdf_of(one.figure, f"{one.title}\n{about(task)}")
    return files, lacking


def command_of(options: argparse.Namespace) -> str:
    """Return the command of the report, without passwords."""
    flags = [
        shlex.join([f"--{name}", *(value if isinstance(value, list) else [without_password(value)])])
        for name, value in vars(options).items()
        if value and not (name == "output" and value == REPORT)
    ]
    return " ".join([started("compare"), *flags])


def checked_output(name: str) -> Path:
    """Return the report's path. Raises ValueError, before anything is read, for an unusable path."""
    if not name:
        raise ValueError(
            f"--output: expected a name that ends in .html, got none. Write e.g. --output {REPORT}"
        )
    output = Path(name)
    if output.suffix.lower() not in HTML:
        raise ValueError(
            f"--output: expected a name that ends in .html, got {name}. Write e.g. --output "
            f"{output.stem}.html"
        )
    if output.exists() and not output.is_file():
        raise ValueError(f"--output: expected a file, got {name}, which is none. Name a file, e.g. {REPORT}")
    if not output.parent.is_dir():
        raise ValueError(f"--output: expected an existing folder, got {name}. Make {output.parent} first")
    return output


def check_folder(flag: str, name: str | None) -> None:
    if name == "":
        raise ValueError(f"--{flag}: expected a folder, got none. Write e.g. --{flag} paper/{flag}")
    if name is not None and Path(name).exists() and not Path(name).is_dir():
        raise ValueError(
            f"--{flag}: expected a folder, got {name}, which is none. Name a folder; it is made where it is "
            "not there"
        )
