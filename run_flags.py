"""The flags of a run, and the configs that they mean."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import command_line
import shared_flags
from flag_words import Flags, text_of

if TYPE_CHECKING:
    from registry import Entry
    from run_config import PipelineConfig

OF_THE_JOB = (
    "unlearn",
    "list",
    "ideal",
    "config",
    "skip_finished",
    "experiment",
    "checkpoint_epochs",
    "metrics",
    "report",
    "unlearn_augment",
)


def options_of(
    argv: Sequence[str] | None, about: str | None = None
) -> tuple[argparse.Namespace, Entry[Any], Entry[Any]]:
    """The flags' values, with the method and the architecture that are named. ValueError for unknown names,
    flags and values.

    about: the text of --help.
    """
    method, architecture = shared_flags.method_named(argv), shared_flags.architecture_named(argv)
    options = command_line.parsed(flags(method, architecture, about), argv, method)
    if method is None:
        raise ValueError("--unlearn is missing. Name a method: " + ", ".join(shared_flags.method_names()))
    shared_flags.several_settings_from(options, method)
    shared_flags.settings_from(options, architecture)
    return options, method, architecture


def flags_given(argv: Sequence[str]) -> Flags:
    """The flags of a command line, in their order, with the words of each. ValueError for an unknown flag, or
    a value that is none.
    """
    method, architecture = shared_flags.method_named(argv), shared_flags.architecture_named(argv)
    parser = flags(method, architecture)
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # what is not given is not there
    given = vars(command_line.parsed(parser, argv, method))
    switches: Flags = {name: [] for name, value in given.items() if value is True}
    return {
        name: [text_of(one) for one in (value if isinstance(value, list) else [value])]
        for name, value in given.items()
    } | switches


@cache
def plain_flags() -> frozenset[str]:
    """The flags that are no hyperparameters of anything: none is no value of them."""
    from models import ARCHITECTURES
    from training.recipe import FLAGS

    architecture = ARCHITECTURES["mlp"]
    names = {
        flag.removeprefix("--")
        for action in flags(None, architecture)._actions
        for flag in action.option_strings
    }
    return frozenset(names - set(architecture.hyperparameters) - set(FLAGS.hyperparameters))


def flags(
    method: Entry[Any] | None, architecture: Entry[Any], about: str | None = None
) -> argparse.ArgumentParser:
    summary, _, details = (about or "").partition("\n")
    own = method.about if method else "methods: " + ", ".join(shared_flags.method_names())
    parser = command_line.OneLineParser(summary, f"{details.strip()}\n\n{own}")
    job = parser.add_argument_group("the job")
    job.add_argument("--unlearn", metavar="METHOD", help="name, or path/to/file.py:function")
    job.add_argument(
        "--list",
        action="store_true",
        help="print every method, add-on and metric in a line each, and do nothing else",
    )
    job.add_argument(
        "--ideal",
        default="auto",
        choices=("auto", "train", "skip"),
        help="the model to be judged by: auto loads it if it exists and trains it for embedded data (default: %(default)s)",
    )
    job.add_argument(
        "--config",
        metavar="FILE",
        help="YAML with the same flags, 'kappa: 0.1'; those given here count instead of the file's",
    )
    job.add_argument(
        "--skip_finished",
        action="store_true",
        help="do nothing where the experiment has a FINISHED run of the same settings and base models (the same config_hash)",
    )
    job.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: <dataset>-<arch>)")
    job.add_argument(
        "--checkpoint_epochs",
        type=shared_flags.epochs,
        default=(),
        metavar="N,N,...",
        help="epochs of the method after which the intermediate model is evaluated too, separated by commas (default: none)",
    )
    job.add_argument(
        "--metrics",
        type=shared_flags.words,
        default=("default",),
        metavar="NAME,...",
        help="what to measure: default, all (the costly ones too), or names separated by commas; --list shows them (default: default)",
    )
    job.add_argument(
        "--report",
        default="full",
        choices=("full", "no_images", "skip"),
        help="pictures and an HTML page; without images of the forget set; or neither (default: %(default)s)",
    )
    job.add_argument(
        "--unlearn_augment",
        type=shared_flags.words,
        default=("auto",),
        metavar="auto|none|KIND,...",
        help="what the images go through that the method trains on: auto, as the base models' recipe has it; none; or some of crop, flip, "
        "cutout. What is measured or ranked is not augmented (default: auto)",
    )
    shared_flags.add_shared_flags(parser, several_seeds=True)
    shared_flags.add_signature_flags(parser, architecture, "architecture")
    if method is not None:
        shared_flags.add_signature_flags(parser, method, "method", several=True)
    return parser


def configs_from(
    options: argparse.Namespace, method: Entry[Any], architecture: Entry[Any]
) -> list[PipelineConfig]:
    """One config per combination of the values given for --seed and for the method's flags."""
    from run_config import PipelineConfig

    values = shared_flags.several_settings_from(options, method)
    return [
        PipelineConfig(
            unlearn=options.unlearn,
            settings=dict(zip(values, combination, strict=True)),
            base=shared_flags.base_config(options, architecture, seed),
            ideal=options.ideal,
            experiment=options.experiment,
            checkpoint_epochs=options.checkpoint_epochs,
            metrics=options.metrics,
            report=options.report,
            unlearn_augment=options.unlearn_augment,
        )
        for seed in options.seed
        for combination in itertools.product(*values.values())
    ]
