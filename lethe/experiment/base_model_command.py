"""The command of main_baseline.py and main_ideal.py: train initial or ideal models."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lethe.command_line import OneLineParser, parsed, progress_bar
from lethe.commands import as_started
from lethe.experiment.flag_sources import described_first
from lethe.experiment.shared_flags import (
    add_shared_flags,
    add_signature_flags,
    architecture_named,
    base_config,
    check_shared_settings,
)

if TYPE_CHECKING:
    from lethe.experiment.base_config import BaseConfig
    from lethe.experiment.base_models import BaseModels, Trained
    from lethe.experiment.model_sets import Kind
    from lethe.registry import Entry


Which = Literal["initial", "ideal"]


DEFAULT_LOG = 8.0  # GB


@dataclass(frozen=True)
class Training:
    """The initial or the ideal model of a config; or, with `sets`, as many models of each kind instead.

    log: the most GB of a log of the initial model's training; None for no log.
    """

    which: Which
    base: BaseConfig
    sets: Mapping[Kind, int]
    log: float | None = None


def train_base_model(argv: Sequence[str] | None, about: str, which: Which) -> int:
    """Load or train the model, or the set of models that a flag asks for, and print where it is.

    about: the text of --help.
    """
    options, architecture, kinds = described_first(lambda: _options_of(argv, about, which))
    sets = {kind: count for flag, kind in kinds.items() if (count := getattr(options, flag)) is not None}
    log = getattr(options, "training_log", None)
    if log is not None and sets:
        raise ValueError("--training_log: expected one model, got --models too. Leave one of the two out")
    train(Training(which, base_config(options, architecture, options.seed), sets, log))
    return 0


def _options_of(
    argv: Sequence[str] | None, about: str, which: Which
) -> tuple[argparse.Namespace, Entry[Any], dict[str, Kind]]:
    """Return the flags' values, the architecture, and the kind of models of each flag that asks for a set."""
    architecture = architecture_named(argv)
    summary, _, details = as_started(about).partition("\n")
    parser = OneLineParser(summary, details.strip())
    add_shared_flags(parser)
    add_signature_flags(parser, architecture, "architecture")
    kinds = _add_set_flags(parser, which)
    if which == "initial":
        _add_log_flag(parser)
    options = parsed(parser, argv)
    check_shared_settings(options, architecture)
    return options, architecture, kinds


def train(training: Training) -> None:
    """Load or train the models, and print where they are. Raises ValueError for what can't be trained."""
    from lethe.experiment.base_models import BaseModels
    from lethe.system.device import device_named
    from lethe.training import silent
    from lethe.training.process_group import joined, own_device

    device = own_device(training.base.device)
    config = replace(training.base, device=device)
    if training.sets:
        with _divergence_as_error():
            _make_sets(BaseModels(config, progress=progress_bar), training.sets)
        return
    with _divergence_as_error(), joined(device_named(device)) as group:
        base = BaseModels(config, progress=progress_bar if group.first else silent, group=group)
        trained = _trained(base, training)
        if group.first:
            print(_report(base, trained, training.which))


def _trained(base: BaseModels, training: Training) -> Trained:
    if training.which == "ideal":
        return base.ideal()
    return base.initial() if training.log is None else base.initial_with_log(training.log)


@contextlib.contextmanager
def _divergence_as_error() -> Iterator[None]:
    """Raise divergence as ValueError: here the flags of the training are the command's own."""
    try:
        yield
    except FloatingPointError as error:
        raise ValueError(str(error)) from error


def _report(base: BaseModels, trained: Trained, which: Which) -> str:
    """Return where a model is, and its scores."""
    from lethe.experiment.base_models import score_of

    verb = "loaded" if trained.loaded else f"trained in {trained.seconds:.1f} s"
    left_out = base.division.gone if which == "ideal" else ()
    of_which = " of the retained classes" if left_out else ""
    scores = {
        name: score_of(trained.model, images.without_classes(*left_out), base.device)
        for name, images in (("validation", base.splits.validation), ("test", base.splits.test))
    }
    how_good = ", ".join(f"{name} score{of_which} {score:.2f} %" for name, score in scores.items())
    forgotten = f" without {base.forgotten}" if which == "ideal" else ""
    return f"{which} model{forgotten} {verb}: {trained.path}\n{how_good}"


def _add_log_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--training_log",
        type=_gigabytes,
        nargs="?",
        const=DEFAULT_LOG,
        metavar="GB",
        help="log each step's images and change of the weights, for amnesiac_updates: at most so many GB "
        f"(default: {DEFAULT_LOG:g})",
    )


def _gigabytes(text: str) -> float:
    """Return a number of GB. Raises ArgumentTypeError for none above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of GB above 0, got {text!r}. Give e.g. 8")
    return value


def _add_set_flags(parser: argparse.ArgumentParser, which: Which) -> dict[str, Kind]:
    """Add the flags of sets of models. Return the kind of set that each flag makes."""
    group = parser.add_argument_group("many models at once", "killed, it goes on where it stopped")
    if which == "initial":
        group.add_argument(
            "--models", type=int, metavar="N", help="the initial models of N seeds, from --seed on"
        )
        return {"models": "initial models"}
    group.add_argument("--oracles", type=int, metavar="N", help="the ideal models of N seeds, from --seed on")
    group.add_argument(
        "--shadows",
        type=int,
        metavar="N",
        help="N models of random halves of the training set, for U-LiRA and datamodels",
    )
    return {"oracles": "oracles", "shadows": "shadows"}


def _make_sets(base: BaseModels, wanted: Mapping[Kind, int]) -> None:
    from lethe.experiment.model_sets import specs_of, train_set

    for kind, count in wanted.items():
        specs_of(base, kind, count)  # raises before anything is trained
    for kind, count in wanted.items():
        made = train_set(base, kind, count)
        trained = count - made.loaded
        each = "none to train"
        if trained:
            each = f"{trained} trained in {made.seconds:.1f} s, {made.seconds / trained:.2f} s each"
        first, last = made.specs[0].path, made.specs[-1].path.name
        print(f"{count} {kind}: {made.loaded} were there, {each}: {first} to {last}")
