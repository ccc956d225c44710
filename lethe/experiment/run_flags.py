"""The flags of a run, and the configs that they mean."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from lethe import command_line
from lethe.commands import as_started
from lethe.experiment import shared_flags
from lethe.experiment.flag_sources import flag_sources
from lethe.flag_words import Flags, text_of

if TYPE_CHECKING:
    from lethe.experiment.run_config import PipelineConfig
    from lethe.registry import Entry

OF_THE_COMMAND = ("unlearn", "list", "config", "skip_finished")  # flags beside those of the config


def options_of(
    argv: Sequence[str] | None, about: str | None = None
) -> tuple[argparse.Namespace, Entry[Any], Entry[Any]]:
    """Return the flags' values, the named method and the named architecture.

    about: the text of --help. Raises ValueError for unknown names, flags and values.
    """
    method, architecture = shared_flags.method_named(argv), shared_flags.architecture_named(argv)
    options = command_line.parsed(flags(method, architecture, about), argv, method)
    if method is None:
        raise ValueError("--unlearn is missing. Name a method: " + ", ".join(shared_flags.method_names()))
    shared_flags.several_settings_from(options, method)
    shared_flags.check_shared_settings(options, architecture)
    shared_flags.check_metric_names(options.metrics)
    return options, method, architecture


def flags_given(argv: Sequence[str]) -> Flags:
    """Return the flags of a command line, in their order, with the words of each.

    Raises ValueError for an unknown flag, and for a value of another type.
    """
    method, architecture = shared_flags.method_named(argv), shared_flags.architecture_named(argv)
    parser = flags(method, architecture)
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # leaves out the flags that are not given
    given = vars(command_line.parsed(parser, argv, method))
    found: Flags = {}
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        found[name] = [] if value is True else [text_of(one) for one in values]
    return found


@cache
def plain_flags() -> frozenset[str]:
    """Return the flags that are no hyperparameters: `none` is no value of them."""
    from lethe.models import ARCHITECTURES
    from lethe.training.recipe import FLAGS

    architecture = ARCHITECTURES["mlp"]
    hyperparameters = {*architecture.hyperparameters, *FLAGS.hyperparameters}
    return frozenset(_names(flags(None, architecture)._actions) - hyperparameters)


def flags_of_the_run() -> frozenset[str]:
    """Return the flags of a run that the base models do not depend on; those of the method aside."""
    from lethe.experiment.run_config import FLAGS

    return frozenset({*OF_THE_COMMAND, *FLAGS.hyperparameters})


def _names(actions: Iterable[argparse.Action]) -> set[str]:
    return {flag.removeprefix("--") for action in actions for flag in action.option_strings}


def flags(
    method: Entry[Any] | None, architecture: Entry[Any], about: str | None = None
) -> argparse.ArgumentParser:
    summary, _, details = as_started(about or "").partition("\n")
    own = method.about if method else shared_flags.methods_listed()
    parser = command_line.OneLineParser(summary, f"{details.strip()}\n\n{own}")
    group = shared_flags.add_config_flags(parser, flag_sources().run)
    group.add_argument("--unlearn", metavar="METHOD", help="name, or path/to/file.py:function")
    group.add_argument(
        "--list",
        action="store_true",
        help="print every method, add-on and metric in a line each, and do nothing else",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="YAML with the same flags, 'kappa: 0.1'; flags on the command line override the file's",
    )
    group.add_argument(
        "--skip_finished",
        action="store_true",
        help="do nothing if the experiment has a FINISHED run of the same config_hash: the same settings and "
        "base models",
    )
    shared_flags.add_shared_flags(parser, several_seeds=True)
    shared_flags.add_signature_flags(parser, architecture, "architecture")
    if method is not None:
        shared_flags.add_signature_flags(parser, method, "method", several=True)
    return parser


def configs_from(
    options: argparse.Namespace, method: Entry[Any], architecture: Entry[Any]
) -> list[PipelineConfig]:
    """Return one config per combination of the values of --seed and of the method's flags."""
    from lethe.experiment.run_config import FLAGS, PipelineConfig

    values = shared_flags.several_settings_from(options, method)
    fields = {name: getattr(options, name) for name in FLAGS.hyperparameters}
    return [
        PipelineConfig(
            unlearn=options.unlearn,
            settings=dict(zip(values, combination, strict=True)),
            base=shared_flags.base_config(options, architecture, seed),
            **fields,
        )
        for seed in options.seed
        for combination in itertools.product(*values.values())
    ]
