"""The flags that scripts share, and flags from signatures, with the values that they mean."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_line import OneLineParser, first_pass, words_on
from flag_error import FlagError, errors_of
from flag_words import text_of

if TYPE_CHECKING:
    from base_config import BaseConfig
    from registry import Entry
    from vision_data import ForgetRequest

# A flag's other name, unless an architecture or a method has a flag of that name.
SHORT = {"image_channels": "channels"}


def benchmark_parser(description: str | None, argv: Sequence[str] | None) -> tuple[OneLineParser, Entry[Any]]:
    """The flags of an experiment and of its architecture, under a module's docstring, for a benchmark to add
    its own; the architecture.
    """
    architecture = architecture_named(argv)
    summary, _, details = (description or "").partition("\n")
    parser = OneLineParser(summary, details.strip("\n"))
    add_shared_flags(parser)
    add_signature_flags(parser, architecture, "architecture")
    return parser, architecture


def add_shared_flags(parser: argparse.ArgumentParser, *, several_seeds: bool = False) -> None:
    """Data, model, forget request, places: what every script has."""
    data = parser.add_argument_group("data and model")
    data.add_argument(
        "--dataset",
        default="digits",
        help="name, folder:PATH (a class per folder), hf:NAME (of the hub, or a local copy), or path/to/file.py:function; a wrong name "
        "lists them all (default: %(default)s)",
    )
    data.add_argument(
        "--data",
        default="./data",
        metavar="FOLDER",
        help="where the dataset's files are, and where what is decoded of them is kept (default: %(default)s)",
    )
    data.add_argument(
        "--arch",
        help="name, or path/to/file.py:function (default: the dataset's own; for folder:PATH mlp where images are grey and up to 32 x 32, "
        "else, as for hf:NAME, resnet18 on a GPU, cnn without)",
    )
    data.add_argument(
        "--num_classes", type=int, metavar="N", help="refused if the dataset has another number"
    )
    data.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of training (default: the dataset's own)"
    )
    seeds: dict[str, Any] = {"nargs": "+", "default": [1]} if several_seeds else {"default": 1}
    data.add_argument("--seed", type=seed_number, metavar="N", help="all randomness (default: 1)", **seeds)
    data.add_argument(
        "--split_seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="the train / validation / test split (default: %(default)s)",
    )
    data.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")

    data.add_argument(
        "--normalize",
        default="auto",
        metavar="HOW",
        help="how images are normalised: data, by the training images' mean and deviation; none, pixels in [0, 1]; MEAN,...:STD,..., a "
        "number a channel or one for all; auto, as the models' own files say, else data (default: "
        "%(default)s)",
    )

    from training.recipe import FLAGS
    from vision_data.reading import FLAGS as READING

    add_signature_flags(parser, READING, "images")
    add_signature_flags(parser, FLAGS, "training", default="as --arch and --dataset have it")

    request = parser.add_argument_group("what to forget")
    request.add_argument(
        "--class_to_replace",
        type=class_word,
        nargs="+",
        metavar="C",
        help="these classes, by their names or numbers; -1 is any class (default: 0)",
    )
    request.add_argument(
        "--num_indexes_to_replace", type=int, metavar="N", help="N images of them instead of all"
    )
    request.add_argument(
        "--forget_indexes", metavar="FILE", help="exactly the images with these indexes, one a line"
    )

    places = parser.add_argument_group("places")
    places.add_argument(
        "--save_dir", metavar="FOLDER", help="checkpoints and caches (default: ./results/<dataset>)"
    )
    places.add_argument(
        "--mask",
        "--checkpoint",
        metavar="FILE",
        help="the initial model's checkpoint: loaded if it exists, else trained and saved there "
        "(default: <save_dir>/<seed><arch>_ep<epochs>.safetensors)",
    )


def class_word(text: str) -> int | str:
    """A class's name or number, which only its dataset can tell apart; -1 is any class."""
    return -1 if text == "-1" else text


def seed_number(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def epochs(text: str) -> tuple[int, ...]:
    """Epochs separated by commas."""
    if not re.fullmatch(r"[+-]?\d{1,18}(,[+-]?\d{1,18})*", text):
        raise argparse.ArgumentTypeError(
            f"expected integers separated by commas, got {text!r}. Write e.g. 1,3,5"
        )
    return tuple(map(int, text.split(",")))


def words(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_signature_flags(
    parser: argparse.ArgumentParser,
    entry: Entry[Any],
    kind: str,
    *,
    several: bool = False,
    default: str | None = None,
) -> None:
    """The hyperparameters of a registered function as flags; with `several`, more than one value of each
    makes a sweep.

    default: what is shown for None.
    """
    group = parser.add_argument_group(f"{kind} {entry.name}")
    for parameter in entry.hyperparameters.values():
        usual = default if default is not None and parameter.default is None else text_of(parameter.default)
        own = "" if parameter.required else f"; default: {usual}"
        expects = parameter.expects.removesuffix(" or none") if default is not None else parameter.expects
        try:
            _free(parser, parameter.name)
            group.add_argument(
                f"--{parameter.name}",
                *(f"--{short}" for name, short in SHORT.items() if name == parameter.name),
                nargs="+" if several else None,
                metavar="VALUE",
                help=f"{parameter.help} ({expects}{own})".replace("%", "%%"),
            )
        except argparse.ArgumentError as error:
            raise ValueError(
                f"{kind} {entry.name}: --{parameter.name} is a flag of the job already. Rename the parameter"
            ) from error


def _free(parser: argparse.ArgumentParser, name: str) -> None:
    """Take a name from the flag that has it as its short one: --channels is cnn's own where that is the
    architecture.
    """
    flag = f"--{name}"
    if name in SHORT.values() and flag in parser._option_string_actions:
        parser._option_string_actions.pop(flag).option_strings.remove(flag)  # type: ignore[attr-defined]


def settings_from(options: argparse.Namespace, entry: Entry[Any]) -> dict[str, Any]:
    """The values given on the command line for an entry's hyperparameters, parsed and checked."""
    given = {name: getattr(options, name) for name in entry.hyperparameters}
    return {name: entry.hyperparameters[name].parse(text) for name, text in given.items() if text is not None}


def several_settings_from(options: argparse.Namespace, entry: Entry[Any]) -> dict[str, list[Any]]:
    """As `settings_from`, a list of values for each."""
    given = {name: getattr(options, name) for name in entry.hyperparameters}
    return {
        name: [entry.hyperparameters[name].parse(text) for text in texts]
        for name, texts in given.items()
        if texts is not None
    }


def request_from(options: argparse.Namespace) -> ForgetRequest:
    """The forget request that the flags spell. ValueError where they contradict each other."""
    from vision_data import ForgetRequest, read_indexes

    if options.forget_indexes is None:
        return ForgetRequest(tuple(options.class_to_replace or (0,)), options.num_indexes_to_replace)
    if options.class_to_replace is not None or options.num_indexes_to_replace is not None:
        message = (
            "--forget_indexes names every image itself. Leave out --class_to_replace and "
            "--num_indexes_to_replace"
        )
        raise FlagError("forget_indexes", message, named=False)
    with errors_of("forget_indexes"):
        indexes = read_indexes(options.forget_indexes)
    return ForgetRequest((), None, indexes, options.forget_indexes)


def path_or_none(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def architecture_of(arch: str | None, dataset: str) -> Entry[Any]:
    """The architecture of that name, or the dataset's own. ValueError for an unknown name."""
    from models import ARCHITECTURES
    from vision_data import DATASETS

    with errors_of("dataset"):
        default = DATASETS[dataset].facts.arch
    with errors_of("arch"):
        return ARCHITECTURES[arch or default]


def architecture_named(argv: Sequence[str] | None) -> Entry[Any]:
    """The architecture that the command line names, so that its flags can be added."""
    return architecture_of(**first_pass(argv, {"arch": None, "dataset": "digits"}))


def method_named(argv: Sequence[str] | None) -> Entry[Any] | None:
    """Return the method that the command line names, with the flags of the add-ons that it names."""
    from unlearn import METHODS

    name = first_pass(argv, {"unlearn": None})["unlearn"]
    if name is None:
        return None
    with errors_of("unlearn"):
        method = METHODS[name]
    return method.choosing(words_on(argv, method.choosers))


def method_names() -> list[str]:
    from unlearn import METHODS

    return METHODS.names


def base_config(options: argparse.Namespace, architecture: Entry[Any], seed: int) -> BaseConfig:
    """The shared flags as the config of the base models."""
    from base_config import BaseConfig
    from training.recipe import FLAGS
    from vision_data.reading import FLAGS as READING

    return BaseConfig(
        dataset=options.dataset,
        data=options.data,
        arch=options.arch,
        arch_options=settings_from(options, architecture),
        num_classes=options.num_classes,
        epochs=options.epochs,
        seed=seed,
        split_seed=options.split_seed,
        device=options.device,
        normalize=options.normalize,
        request=request_from(options),
        save_dir=path_or_none(options.save_dir),
        mask=path_or_none(options.mask),
        training=settings_from(options, FLAGS),
        reading=settings_from(options, READING),
    )
