"""The main job: initial model -> unlearn -> evaluate -> one MLflow run.

    python -u mlflow_forget.py --unlearn MIMU --topk 50 --kappa 0.1

or with the same flags in a file, `unlearn: MIMU`, `kappa: 0.1` (--config FILE).

--list shows every method, --unlearn NAME --help a method's own flags. Several values for --seed or for a
method's flag make one parent run with a child for each combination.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe import command_line
from lethe.cli.list import main as list_registries
from lethe.commands import started
from lethe.experiment import run_flags
from lethe.experiment.flag_sources import described_first
from lethe.tracking.store_template import make_ahead

if TYPE_CHECKING:
    import argparse

    from lethe.experiment.pipeline import PipelineConfig, Result
    from lethe.registry import Entry
    from lethe.training import Progress
    from lethe.training.process_group import ProcessGroup


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, run their configs, and print the results; with --list, print the registries."""
    if command_line.words_on(argv, ["list"]):
        return list_registries([])
    options, method, architecture = described_first(lambda: options_of(argv))
    make_ahead()
    configs = run_flags.configs_from(options, method, architecture)

    from lethe.sweeps.sweep import run_all

    with together(configs, method) as (here, group):
        if options.skip_finished:
            run_unless_finished(here, group)
            return 0
        results = run_all(here, progress=progress_of(group), group=group)
        if group.first:
            print_results(results)
    return 0


@contextmanager
def together(
    configs: Sequence[PipelineConfig], method: Entry[Any]
) -> Iterator[tuple[Sequence[PipelineConfig], ProcessGroup]]:
    """Join the processes that torchrun has started; yield the configs, on this one's device, and the group.

    Raises ValueError for several processes and a method that computes in one.
    """
    from lethe.experiment.pipeline import check_processes
    from lethe.system.device import device_named
    from lethe.training.process_group import joined, own_device, processes_started

    check_processes(method, processes_started())
    device = own_device(configs[0].base.device)
    here = [replace(config, base=replace(config.base, device=device)) for config in configs]
    with joined(device_named(device)) as group:
        yield here, group


def progress_of(group: ProcessGroup) -> Progress:
    """Return the progress bar in the first process, and none in the others."""
    from lethe.training import silent

    return command_line.progress_bar if group.first else silent


def run_unless_finished(configs: Sequence[PipelineConfig], group: ProcessGroup) -> None:
    """Run the config unless its run is finished. Raises ValueError for several configs."""
    from lethe.experiment.base_models import BaseModels
    from lethe.experiment.pipeline import Pipeline
    from lethe.sweeps.run_once import run_once
    from lethe.tracking.store_uri import shown_uri

    if len(configs) > 1:
        raise ValueError(f"--skip_finished: expected one run, got {len(configs)}. Give one value per flag")
    progress = progress_of(group)
    base = BaseModels(configs[0].base, progress=progress, group=group)
    (experiment, config_hash), result = run_once(Pipeline(configs[0], progress=progress, base=base))
    if not group.first:
        return
    if result is None:
        print(f"finished before, in {shown_uri()}: experiment {experiment}, config_hash {config_hash}")
    else:
        print_results([result])


def print_results(results: Sequence[Result]) -> None:
    """Print the forget requests, the metrics, the durations, and where the runs are."""
    from lethe.tracking.experiment_page import WHERE
    from lethe.tracking.store_uri import shown_uri, ui_command

    print("to forget: " + "; ".join(dict.fromkeys(result.forgotten for result in results)))
    print(report(results[0]) if len(results) == 1 else summary(results))
    whole = time.perf_counter() - command_line.STARTED
    before = whole - sum(result.stages["total"] for result in results)
    print(f"seconds in all: {whole:.2f}, of which {before:.2f} to load libraries and data, and to check")
    runs = "runs" if len(results) > 1 else "run"
    print(f"{runs} in {shown_uri()}: {', '.join(result.run_id for result in results)}")
    print(f"look at them:  {ui_command()} ({WHERE})      as a table:  {started('parse')}")


def options_of(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Entry[Any], Entry[Any]]:
    """Parse as `run_flags.options_of`, with the flags in the file of --config before those given.

    Raises ValueError, naming the file's line, for a wrong flag in it.
    """
    file = command_line.first_pass(argv, {"config": None})["config"]
    if file is None:
        return run_flags.options_of(argv, __doc__)
    from lethe.sweeps.config_file import read_config

    config = read_config(Path(file), argv)
    try:
        return run_flags.options_of([*config.words, *config.given], __doc__)
    except ValueError as error:
        raise config.located(error) from error


def report(result: Result) -> str:
    """Return tables of the metrics of all models and of the seconds of each stage, and remarks."""
    from lethe.evaluation import is_undecided, names_in
    from lethe.report.metric_cell import metric_cell
    from lethe.report.text_table import number, text_table

    undefined = result.undefined
    sides = {"initial": result.initial, "unlearned": result.metrics, "ideal": result.ideal}
    names = shown_of([result], names_in("headline"))
    known = [name for name in names if name in result.metrics or is_undecided(name, undefined)]
    rows = [
        [name, *(metric_cell(name, values, undefined, model, 3) for model, values in sides.items())]
        for name in known
    ]
    metrics = text_table(["metric", *sides], rows)
    seconds = [[stage, number(value)] for stage, value in result.stages.items()]
    stages = text_table(["stage", "seconds"], seconds)
    last = [*remarks([result]), f"metrics: {result.json_path}"]
    return "\n".join(["", metrics, *intermediate_table([result]), "", stages, "", *last])


def remarks(results: Sequence[Result]) -> list[str]:
    """Return a line for each reason that metrics are missing, and the notes, each once for all runs."""
    from lethe.evaluation import Missing
    from lethe.evaluation.impl import by_reason

    pairs = list(dict.fromkeys(pair for result in results for pair in result.undefined.items()))
    names = by_reason((name, why) for name, why in pairs if not why.undecided)
    lines = [f"not measured: {', '.join(own)}: {why}" for why, own in names.items()]
    undecided = dict.fromkeys(name for name, why in pairs if why.undecided)
    if undecided:
        lines.append(
            "undecided (the attack's answer depends on which images it is trained on; the tags "
            "undefined.NAME have the range): " + ", ".join(undecided)
        )
    printed = {why.command for why in names}
    for note in dict.fromkeys(note for result in results for note in result.notes):
        if not (isinstance(note, Missing) and note.command in printed):
            lines.append(str(note))
    return lines


def shown_of(results: Sequence[Result], by_default: Sequence[str]) -> list[str]:
    """Return the metrics of a table: the default ones, and those that --metrics names."""
    names = list(by_default)
    for result in results:
        if result.chosen != ("default",):
            names += [*result.metrics, *result.undefined]
    return list(dict.fromkeys(names))


def columns_of(results: Sequence[Result]) -> list[str]:
    """Return the metrics of a table with a column each: as `shown_of`, but the default ones for "all"."""
    from lethe.evaluation import ALL, names_in

    summary = names_in("summary")
    asked_for_all = any(ALL in map(str.casefold, result.chosen) for result in results)
    return summary if asked_for_all else shown_of(results, summary)


def summary(results: Sequence[Result]) -> str:
    """Return a table with a line per run of a sweep, and remarks."""
    from lethe.report.metric_cell import metric_cell
    from lethe.report.text_table import number, text_table

    columns = {
        name: [metric_cell(name, result.metrics, result.undefined) for result in results]
        for name in columns_of(results)
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    seconds = [number(result.stages["unlearn"]) for result in results]
    rows = list(zip([result.name for result in results], *columns.values(), seconds, strict=True))
    table = text_table(["run", *columns, "unlearn s"], rows)
    return "\n".join(["", table, *intermediate_table(results), *over_seeds(results), "", *remarks(results)])


def over_seeds(results: Sequence[Result]) -> list[str]:
    """Return a table for each setting with several seeds; [] without any."""
    from lethe.evaluation import names_in
    from lethe.report.seeds_text import seeds_table
    from lethe.sweeps.sweep import by_setting

    tables = []
    shown = shown_of(results, names_in("summary"))
    for setting, runs in by_setting(results).items():
        if len(runs) == 1:
            continue
        metrics = {seed: run.metrics for seed, run in runs.items()}
        ideals = {seed: run.ideal for seed, run in runs.items()}
        measured = {name for values in metrics.values() for name in values}
        names = [name for name in shown if name in measured]
        seeds = ", ".join(map(str, sorted(runs)))
        heading = f"{setting}: mean ± standard deviation and 95 % t-interval over seeds {seeds}"
        tables += ["", heading, seeds_table(names, metrics, ideals)]
    return tables


def intermediate_table(results: Sequence[Result]) -> list[str]:
    """Return a table with a line per run and intermediate model; [] without any."""
    from lethe.report.text_table import number, text_table

    measured = {name for result in results for values in result.checkpoints.values() for name in values}
    names = [name for name in columns_of(results) if name in measured]
    rows = []
    for result in results:
        run = f"{result.name}, " if len(results) > 1 else ""
        for epoch, values in sorted(result.checkpoints.items()):
            rows.append([f"{run}epoch {epoch}", *(number(values.get(name)) for name in names)])
    if not rows:
        return []
    return ["", text_table(["intermediate model", *names], rows)]
