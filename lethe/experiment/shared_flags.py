"""The flags that scripts share, and flags from signatures, with the values that they mean."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.command_line import MORE, OneLineParser, first_pass, words_on
from lethe.experiment.flag_sources import flag_sources
from lethe.experiment.forget_flags import CHOICE, add_forget_flags, request_from
from lethe.flag_error import FlagError, errors_of
from lethe.flag_words import text_of

if TYPE_CHECKING:
    from lethe.experiment.base_config import BaseConfig
    from lethe.registry import Entry
    from lethe.signature import Hyperparameter

FIRST = (
    "unlearn",
    "class_to_replace",
    "num_indexes_to_replace",
    "forget_indexes",
    *CHOICE,
    "dataset",
    "data",
    "arch",
    "mask",
    "epochs",
    "seed",
    "device",
    "metrics",
    "experiment",
    "config",
    "skip_finished",
    "list",
    "help",
)
SHORT = {"image_channels": "channels", "mask": "checkpoint"}  # other names of flags
GIVEN_UP = ("channels",)  # the other names that an architecture or a method may take for a flag of its own


def add_shared_flags(parser: OneLineParser, *, several_seeds: bool = False) -> None:
    """Add the flags of the base models and of the forget request."""
    add_base_flags(parser, several_seeds=several_seeds)
    add_forget_flags(parser)


def add_base_flags(parser: OneLineParser, *, several_seeds: bool = False) -> None:
    """Add the flags of the base models."""
    sources = flag_sources()
    parser.first = FIRST
    add_config_flags(parser, sources.base, several=("seed",) if several_seeds else ())
    add_signature_flags(parser, sources.reading, f"{MORE}: images")
    add_signature_flags(
        parser, sources.recipe, f"{MORE}: training", default="as --arch and --dataset have it"
    )


def path_or_none(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def words(text: str) -> tuple[str, ...]:
    """Split names at commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_config_flags(
    parser: argparse.ArgumentParser, entry: Entry[Any], several: Sequence[str] = ()
) -> argparse._ArgumentGroup:
    """Add the fields of a config as flags, under the entry's name, and return their group.

    several: the flags that take several values.
    """
    group = parser.add_argument_group(f"{MORE}: {entry.name}")
    for name, parameter in entry.hyperparameters.items():
        default = [parameter.default] if name in several else parameter.default
        nargs = "+" if name in several else None
        _add_flag(parser, group, parameter, nargs=nargs, default=default, type=flag_type(parameter))
    return group


def flag_type(parameter: Hyperparameter) -> Callable[[str], Any]:
    """Return a parameter's parser as argparse's `type`: argparse puts the flag before its message."""

    value = parameter.without_none()

    def parse(text: str) -> Any:
        try:
            return value.parse(text)
        except FlagError as error:
            raise argparse.ArgumentTypeError(str(error.args[1])) from error

    return parse


def add_signature_flags(
    parser: argparse.ArgumentParser,
    entry: Entry[Any],
    kind: str,
    *,
    several: bool = False,
    default: str | None = None,
) -> None:
    """Add the hyperparameters of a registered function as flags; parse their texts by `settings_from`.

    several: each flag takes several values, which make a sweep. default: the words for a default of None.
    """
    group = parser.add_argument_group(f"{kind} {entry.name}")
    for parameter in entry.hyperparameters.values():
        try:
            _add_flag(parser, group, parameter, default, nargs="+" if several else None)
        except argparse.ArgumentError as error:
            owners = [each.name for each in entry.chosen if parameter.name in each.hyperparameters]
            owner = owners[0] if owners else f"{kind} {entry.name}"
            raise ValueError(
                f"{owner}: --{parameter.name} is already a flag of the command. Rename the parameter"
            ) from error


def _add_flag(
    parser: argparse.ArgumentParser,
    group: argparse._ArgumentGroup,
    parameter: Hyperparameter,
    default_words: str | None = None,
    **options: Any,
) -> None:
    _free(parser, parameter.name)
    names = [parameter.name, *(short for name, short in SHORT.items() if name == parameter.name)]
    help_words = _help_of(parameter, default_words).replace("%", "%%")
    flags = [f"--{name}" for name in names]
    group.add_argument(*flags, metavar=parameter.shown.value, help=help_words, **options)


def _help_of(parameter: Hyperparameter, default_words: str | None) -> str:
    """Return the help of a flag: its text, the accepted values unless all texts are, and the default."""
    default_words = parameter.shown.default if default_words is None else default_words
    expects = (parameter if default_words is None else parameter.without_none()).expects
    details = [] if expects in ("text", "a path", "text or a path") else [expects]
    if not parameter.required:
        empty = parameter.default is None or parameter.default == ()
        shown = default_words if empty and default_words is not None else text_of(parameter.default)
        details.append(f"default: {shown}")
    return f"{parameter.help} ({'; '.join(details)})"


def _free(parser: argparse.ArgumentParser, name: str) -> None:
    """Take a name from the flag that has it as its other name: cnn has --channels of its own."""
    flag = f"--{name}"
    if name in GIVEN_UP and flag in parser._option_string_actions:
        parser._option_string_actions.pop(flag).option_strings.remove(flag)  # type: ignore[attr-defined]


def settings_from(options: argparse.Namespace, entry: Entry[Any]) -> dict[str, Any]:
    """Return the values given on the command line for an entry's hyperparameters, parsed and checked."""
    given = {name: getattr(options, name) for name in entry.hyperparameters}
    return {name: entry.hyperparameters[name].parse(text) for name, text in given.items() if text is not None}


def several_settings_from(options: argparse.Namespace, entry: Entry[Any]) -> dict[str, list[Any]]:
    """As `settings_from`, with a list of values for each."""
    found = {}
    for name in entry.hyperparameters:
        texts = getattr(options, name)
        if texts is not None:
            found[name] = [entry.parse(name, text) for text in texts]
    return found


def architecture_of(arch: str | None, dataset: str) -> Entry[Any]:
    """Return the architecture of that name, or the dataset's own. Raises ValueError for an unknown name."""
    sources = flag_sources()
    with errors_of("dataset"):
        default = sources.datasets[dataset].facts.arch
    with errors_of("arch"):
        return sources.architectures[arch or default]


def architecture_named(argv: Sequence[str] | None) -> Entry[Any]:
    """Return the architecture that a command line names."""
    return architecture_of(**first_pass(argv, {"arch": None, "dataset": "digits"}))


def method_named(argv: Sequence[str] | None) -> Entry[Any] | None:
    """Return the method that the command line names, with the flags of the add-ons that it names."""
    name = first_pass(argv, {"unlearn": None})["unlearn"]
    if name is None:
        return None
    with errors_of("unlearn"):
        method = flag_sources().methods[name]
    return method.choosing(words_on(argv, method.choosers))


def method_names() -> list[str]:
    return flag_sources().methods.names


def methods_listed() -> str:
    """Return the methods' names in lines for the end of a help text."""
    return textwrap.fill(", ".join(method_names()), 100, initial_indent="methods: ", subsequent_indent="    ")


def check_shared_settings(options: argparse.Namespace, architecture: Entry[Any]) -> None:
    """Raise ValueError for a wrong value of a flag of the architecture, of the recipe or of the reading."""
    sources = flag_sources()
    for entry in (architecture, sources.recipe, sources.reading):
        settings_from(options, entry)


def check_metric_names(words: Sequence[str]) -> None:
    """Raise ValueError for a name of no metric; `lethe.evaluation.chosen` checks the rest."""
    metrics = flag_sources().metrics
    for word in words:
        if word.casefold() in ("all", "default"):
            continue
        try:
            _ = metrics[word]
        except (ValueError, FileNotFoundError) as error:
            raise FlagError("metrics", error) from error


def base_config(
    options: argparse.Namespace, architecture: Entry[Any], seed: int, *, requested: bool = True
) -> BaseConfig:
    """Return the config of the base models that the shared flags mean, with that seed.

    requested: False for a command without the flags of the forget request.
    """
    from lethe.data import ForgetRequest, reading
    from lethe.experiment.base_config import FLAGS, BaseConfig
    from lethe.training import recipe

    fields = {name: getattr(options, name) for name in FLAGS.hyperparameters} | {"seed": seed}
    return BaseConfig(
        arch_options=settings_from(options, architecture),
        training=settings_from(options, recipe.FLAGS),
        reading=settings_from(options, reading.FLAGS),
        request=request_from(options) if requested else ForgetRequest(),
        **fields,
    )
