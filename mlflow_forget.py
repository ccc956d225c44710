"""The main job: initial model -> unlearn -> evaluate -> one MLflow run.

    python -u mlflow_forget.py --unlearn MIMU --topk 50 --kappa 0.1

or with the same flags in a file, `unlearn: MIMU`, `kappa: 0.1` (--config FILE).

--list shows every method, --unlearn NAME --help a method's own flags. Several values for --seed or for a
method's flag make one parent run with a child for each combination.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command_line
import run_flags

if TYPE_CHECKING:
    import argparse

    from pipeline import PipelineConfig, Result
    from registry import Entry

MAKE_IT = "Make it: "  # before the command that makes what is missing


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build the configs, run them, print what came out and where it is. With --list, print the
    registries instead.
    """
    if command_line.words_on(argv, ["list"]):
        print(methods(), metrics(), sep="\n\n")
        return 0
    options, method, architecture = options_of(argv)
    configs = run_flags.configs_from(options, method, architecture)

    from sweep import run_all

    if options.skip_finished:
        return run_unless_finished(configs)
    tell(run_all(configs, progress=command_line.progress_bar))
    return 0


def run_unless_finished(configs: Sequence[PipelineConfig]) -> int:
    """The one run of --skip_finished. ValueError for several, of which some might be finished and others not."""
    from grids.run_once import run_once
    from pipeline import Pipeline
    from tracking.store_uri import shown_uri

    if len(configs) > 1:
        raise ValueError(
            f"--skip_finished: expected one run, got {len(configs)}. Give one value for each flag"
        )
    job, result = run_once(Pipeline(configs[0], progress=command_line.progress_bar))
    if result is None:
        print(f"finished before, in {shown_uri()}: experiment {job[0]}, config_hash {job[1]}")
    else:
        tell([result])
    return 0


def tell(results: Sequence[Result]) -> None:
    """What was forgotten, what came out, how long it took, and where it is."""
    from tracking.store_uri import shown_uri, ui_command

    print("to forget: " + "; ".join(dict.fromkeys(result.forgotten for result in results)))
    print(report(results[0]) if len(results) == 1 else summary(results))
    whole, in_runs = (
        time.perf_counter() - command_line.STARTED,
        sum(result.stages["total"] for result in results),
    )
    print(
        f"seconds in all: {whole:.2f}, of which {whole - in_runs:.2f} to load Python's libraries and the "
        "data, and to check"
    )
    print(
        f"run{'s' if len(results) > 1 else ''} in {shown_uri()}: "
        f"{', '.join(result.run_id for result in results)}"
    )
    print(f"look at them:  {ui_command()}      as a table:  python mlruns_parser.py")


def methods() -> str:
    """Every method and add-on in a line each."""
    from reporter.methods_page import listing
    from unlearn import METHODS
    from unlearn.add_ons import ADD_ONS

    return listing(METHODS, ADD_ONS)


def metrics() -> str:
    """Every metric in a line."""
    from evaluation import METRICS
    from reporter.metrics_page import listing

    return listing(METRICS)


def options_of(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Entry[Any], Entry[Any]]:
    """As `run_flags.options_of`, with more flags from the file that --config names: ValueError with the line
    for what is wrong in it.
    """
    file = command_line.first_pass(argv, {"config": None})["config"]
    if file is None:
        return run_flags.options_of(argv, __doc__)
    from grids.config_file import read_config

    config = read_config(Path(file), argv)
    try:
        return run_flags.options_of([*config.words, *config.given], __doc__)
    except ValueError as error:
        raise config.told(error) from error


def report(result: Result) -> str:
    """The numbers before, after and of the ideal, the seconds of each stage, and where everything is."""
    from evaluation import is_undecided, names_in
    from reporter.text_table import number, text_table

    names = shown_of([result], names_in("headline"))
    known = [name for name in names if name in result.metrics or is_undecided(name, result.undefined)]
    rows = [
        [name, *(cell(result, name, model, 3) for model in ("initial", "unlearned", "ideal"))]
        for name in known
    ]
    metrics = text_table(["metric", "initial", "unlearned", "ideal"], rows)
    stages = text_table(
        ["stage", "seconds"], [[stage, number(seconds)] for stage, seconds in result.stages.items()]
    )
    return "\n".join(
        [
            "",
            metrics,
            *checkpoints([result]),
            "",
            stages,
            "",
            *remarks([result]),
            f"metrics: {result.json_path}",
        ]
    )


def cell(result: Result, metric: str, model: str = "unlearned", digits: int = 2) -> str:
    """A metric of one of the run's models as a table shows it: a number, "undecided", or nothing."""
    from evaluation.impl import reasons_of
    from reporter.metric_cell import metric_cell

    values = {"initial": result.initial, "unlearned": result.metrics, "ideal": result.ideal}[model]
    return metric_cell(metric, values, reasons_of(model, result.undefined), digits)


def remarks(results: Sequence[Result]) -> list[str]:
    """What was not measured and why, in a line for each reason, and the notes; each once, whatever number of
    runs it holds for.
    """
    from evaluation import is_undecided

    names: dict[str, dict[str, None]] = {}
    undecided: dict[str, None] = {}
    for result in results:
        for name, why in result.undefined.items():
            group = undecided if is_undecided(name, result.undefined) else names.setdefault(why, {})
            group[name] = None
    missing = [f"not measured: {', '.join(own)}: {why}" for why, own in names.items()]
    if undecided:
        missing.append(
            "undecided (the attack's answer depends on which images it is trained on; the tags "
            "undefined.NAME have the range): " + ", ".join(undecided)
        )
    commands = [why.partition(MAKE_IT)[2] for why in names if MAKE_IT in why]
    said = tuple(MAKE_IT + command for command in commands)
    return [
        *missing,
        *(
            note
            for note in dict.fromkeys(note for result in results for note in result.notes)
            if not note.endswith(said)
        ),
    ]


def shown_of(results: Sequence[Result], by_default: Sequence[str]) -> list[str]:
    """The metrics of a table: these, and every one more that was asked for beyond the default."""
    asked = [
        name
        for result in results
        for name in (*result.metrics, *result.undefined)
        if result.chosen != ("default",)
    ]
    return list(dict.fromkeys([*by_default, *asked]))


def columns_of(results: Sequence[Result]) -> list[str]:
    """As shown_of, for a table with a column each: not all that there are where all were asked for."""
    from evaluation import ALL, names_in

    summary = names_in("summary")
    asked_for_all = any(ALL in map(str.casefold, result.chosen) for result in results)
    return summary if asked_for_all else shown_of(results, summary)


def summary(results: Sequence[Result]) -> str:
    """One line per run of a sweep."""
    from reporter.text_table import number, text_table

    names = [name for name in columns_of(results) if any(cell(result, name) for result in results)]
    rows = [
        [result.name, *(cell(result, name) for name in names), number(result.stages["unlearn"])]
        for result in results
    ]
    table = text_table(["run", *names, "unlearn s"], rows)
    return "\n".join(["", table, *checkpoints(results), *over_seeds(results), "", *remarks(results)])


def over_seeds(results: Sequence[Result]) -> list[str]:
    """A table for each setting that was run with several seeds; [] without any."""
    from evaluation import names_in
    from reporter.seeds_text import seeds_table
    from sweep import by_setting

    tables = []
    for name, runs in by_setting(results).items():
        if len(runs) > 1:
            metrics = {seed: run.metrics for seed, run in runs.items()}
            ideals = {seed: run.ideal for seed, run in runs.items()}
            names = [
                n
                for n in shown_of(results, names_in("summary"))
                if any(n in values for values in metrics.values())
            ]
            seeds = ", ".join(map(str, sorted(runs)))
            tables += [
                "",
                f"{name}: mean ± standard deviation and 95 % t-interval over seeds {seeds}",
                seeds_table(names, metrics, ideals),
            ]
    return tables


def checkpoints(results: Sequence[Result]) -> list[str]:
    """A table with one line per run and intermediate model; [] without any."""
    from reporter.text_table import number, text_table

    found = [
        (result, epoch, values) for result in results for epoch, values in sorted(result.checkpoints.items())
    ]
    if not found:
        return []
    names = [name for name in columns_of(results) if any(name in values for _, _, values in found)]
    whose = [f"{result.name}, " if len(results) > 1 else "" for result, _, _ in found]
    rows = [
        [f"{who}epoch {n}", *(number(values.get(name)) for name in names)]
        for who, (_, n, values) in zip(whose, found, strict=True)
    ]
    return ["", text_table(["intermediate model", *names], rows)]


if __name__ == "__main__":
    sys.exit(main())
