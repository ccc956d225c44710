"""Search a method's hyperparameters, and compare the best with the default ones on other seeds.

    python -u tune.py --unlearn SSD --trials 20
    python -u tune.py --unlearn SSD --budget 10x        10 times the seconds of training the ideal models
    python -u mlflow_forget.py --config best_SSD_class0.yml

The search sees the forget, retain and validation images of the tuning seeds: no test image, and none of the
seeds of --seed, on which the best and the default settings are run at the end. Every trial is a child of one
MLflow run. A flag of the method that is given is fixed; the others are searched in the ranges of --ranges, or
of their own. A search that was killed goes on when its command is run again. Several processes that run the
same command in the same folder share the trials.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lethe import command_line
from lethe.experiment import shared_flags
from lethe.experiment.flag_sources import described_first
from lethe.flag_words import command

if TYPE_CHECKING:
    from lethe.experiment.run_config import PipelineConfig
    from lethe.registry import Entry
    from lethe.tuning.tune import TuneConfig, Tuned

REPORTED_SEEDS = [1, 2, 3]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Search, then run the default and the best settings on the reported seeds."""
    options, method, architecture = described_first(lambda: _options(argv))
    config = _config(options, method, architecture)

    from lethe.tuning.tune import tune

    tuned = tune(config, progress=command_line.progress_bar)
    if tuned.others:
        print(f"{tuned.others} trials are being run by other processes. Run the command again when they end")
        return 0
    for warning in tuned.warnings:
        print(f"warning: {warning}")
    if not tuned.best:
        return command_line.FAILED
    _print_best(config, tuned)
    _compare(config.run, tuned, options.seed)
    return 0


def _options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Entry[Any], Entry[Any]]:
    method, architecture = shared_flags.method_named(argv), shared_flags.architecture_named(argv)
    options = command_line.parsed(_parser(method, architecture), argv, method)
    if method is None:
        raise ValueError("--unlearn METHOD is missing. Name the method whose hyperparameters to search")
    return options, method, architecture


def _parser(method: Entry[Any] | None, architecture: Entry[Any]) -> command_line.OneLineParser:
    summary, _, details = (__doc__ or "").partition("\n")
    about = method.about if method else shared_flags.methods_listed()
    parser = command_line.OneLineParser(summary, f"{details.strip()}\n\n{about}")
    group = parser.add_argument_group("the search")
    group.add_argument("--unlearn", metavar="METHOD", help="name, or path/to/file.py:function")
    group.add_argument(
        "--trials", type=int, default=20, metavar="N", help="settings to try (default: %(default)s)"
    )
    budget = "end after so many times the seconds that training the ideal models took (default: no limit)"
    group.add_argument("--budget", type=_times, metavar="Nx", help=budget)
    ranges = "YAML with the ranges of flags: 'unlearn_lr: {low: 0.001, high: 0.1, scale: log}'"
    group.add_argument("--ranges", metavar="FILE", help=ranges)
    seeds = "seeds of the base models that the search sees (default: 101 102)"
    group.add_argument("--tuning_seeds", type=int, nargs="+", default=[101, 102], metavar="N", help=seeds)
    objective = "metrics to bring near their good values; several give a Pareto front (default: avg_gap)"
    group.add_argument(
        "--objective", type=shared_flags.words, default=("avg_gap",), metavar="NAME,...", help=objective
    )
    group.add_argument(
        "--search_seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)"
    )
    group.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: <dataset>-<arch>)")
    shared_flags.add_shared_flags(parser, several_seeds=True)
    parser.set_defaults(seed=REPORTED_SEEDS)
    shared_flags.add_signature_flags(parser, architecture, "architecture")
    if method is not None:
        shared_flags.add_signature_flags(parser, method, "method")
    return parser


def _times(text: str) -> float:
    number = text.removesuffix("x")
    try:
        return float(number)
    except ValueError:
        message = f"expected a number with an x, got {text!r}. Give e.g. 10x"
        raise argparse.ArgumentTypeError(message) from None


def _config(options: argparse.Namespace, method: Entry[Any], architecture: Entry[Any]) -> TuneConfig:
    from lethe.experiment.run_config import PipelineConfig
    from lethe.flag_error import FlagError
    from lethe.tuning.tune import TuneConfig

    both = sorted(set(options.seed) & set(options.tuning_seeds))
    if both:
        raise FlagError(
            "tuning_seeds",
            f"expected seeds that are not reported, got {both[0]}, which --seed has too. Choose others",
        )
    base = shared_flags.base_config(options, architecture, options.tuning_seeds[0])
    settings = shared_flags.settings_from(options, method)
    return TuneConfig(
        run=PipelineConfig(options.unlearn, settings, base, experiment=options.experiment),
        trials=options.trials,
        budget=options.budget,
        ranges=shared_flags.path_or_none(options.ranges),
        tuning_seeds=tuple(options.tuning_seeds),
        objectives=options.objective,
        search_seed=options.search_seed,
    )


def _print_best(config: TuneConfig, tuned: Tuned) -> None:
    from lethe.report.text_table import number, text_table

    names = [*tuned.best[0].losses, *(one.name for one in tuned.ranges)]
    rows = [
        [str(one.number), *(number(value, 4) for value in one.losses.values())]
        + [_shown(one.settings.get(flag.name)) for flag in tuned.ranges]
        for one in tuned.best
    ]
    print()
    print(text_table(["best trial", *names], rows))
    for name, share in tuned.importances.items():
        print(f"importance of {name}: {share:.2f}")
    use = command("forget", {"config": [str(tuned.best_file)]})
    print(f"\nthe best settings: {tuned.best_file}      use them:  {use}")


def _shown(value: object) -> str:
    return "default" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _compare(run: PipelineConfig, tuned: Tuned, seeds: Sequence[int]) -> None:
    """Run the default and the best settings on the reported seeds, and print both."""
    from lethe.report.text_table import text_table
    from lethe.sweeps.sweep import run_all
    from lethe.tuning.tune import reported

    kinds = {"default": run.settings, "best": tuned.settings}
    if kinds["default"] == kinds["best"]:
        del kinds["best"]
    configs = [
        replace(run, settings=settings, base=replace(run.base, seed=seed), ideal="train")
        for settings in kinds.values()
        for seed in seeds
    ]
    results = run_all(configs, progress=command_line.progress_bar)
    found = {
        kind: [result.metrics for result in results[place * len(seeds) : (place + 1) * len(seeds)]]
        for place, kind in enumerate(kinds)
    }
    names = ["avg_gap", "avg_gap_without_mia", "forget_score", "retain_score", "test_score", "mia"]
    print(f"\nseeds {' '.join(map(str, seeds))}, test images: mean [least, most]")
    print(text_table(["settings", *names], reported(found, names)))
