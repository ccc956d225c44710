"""The config of the base models, and the flags of a command line that mean it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from lethe.data import AUTO, ForgetRequest
from lethe.flag_words import Flags, text_of
from lethe.registry import Entry
from lethe.signature import Range, Shown

Seed = Annotated[int, Range(0, 2**63 - 1), "an integer from 0 to 2^63 - 1", Shown("N")]
Number = Annotated[int | None, Shown("N", "the dataset's own")]


@dataclass(frozen=True)
class BaseConfig:
    """The settings of the initial and the ideal model, and where their checkpoints are.

    arch_options, training, reading: settings of the architecture, of the recipe
    (`lethe.training.recipe.changed`) and of the images (`lethe.data.reading`), by the names of their flags,
    e.g. {"train_lr": 0.05}.

    Flags:
        dataset: name, folder:PATH (a class per folder), hf:NAME (of the hub, or a local copy), or
            path/to/file.py:function; a wrong name lists them all
        data: folder of the dataset's files, and of the cache of decoded images
        arch: name, or path/to/file.py:function
        num_classes: for a check: refused if the dataset has another number
        epochs: epochs of training
        seed: all randomness
        split_seed: the train / validation / test split
        device: auto, cpu, cuda, cuda:1, ...
        threads: of torch on the processor. Results differ in their last digits with another number
        normalize: how images are normalised: data, by the training images' mean and deviation; none, pixels
            in [0, 1]; MEAN,...:STD,..., a number a channel or one for all; auto, as the models' own files
            say, else data
        save_dir: checkpoints and caches
        mask: the initial model's checkpoint: loaded if it exists, else trained and saved there
    """

    arch_options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    request: ForgetRequest = field(default_factory=ForgetRequest)
    _: KW_ONLY
    dataset: str = "digits"
    data: Annotated[str | Path, Shown("FOLDER")] = "./data"
    arch: Annotated[
        str | None,
        Shown(
            default="the dataset's own; for folder:PATH mlp where images are grey and up to 32 x 32, else, "
            "as for hf:NAME, resnet18 on a GPU, cnn without"
        ),
    ] = None
    num_classes: Number = None
    epochs: Number = None
    seed: Seed = 1
    split_seed: Seed = 0
    device: str = "auto"
    threads: Annotated[
        int | None, Range(1), Shown("N", "OMP_NUM_THREADS, else by the work of a training step and the cores")
    ] = None
    normalize: Annotated[str, Shown("HOW")] = AUTO
    save_dir: Annotated[Path | None, Shown("FOLDER", "./results/<dataset>")] = None
    mask: Annotated[Path | None, Shown("FILE", "<save_dir>/<seed><arch>_ep<epochs>.safetensors")] = None

    def __post_init__(self) -> None:
        for name in ("arch_options", "training", "reading"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"{name}: expected a mapping of names to settings, got {value!r}. Give fields by name, "
                    'such as BaseConfig(dataset="MNIST")'
                )
        check_fields(self, FLAGS)


FLAGS: Entry[None] = Entry("data, model and places", BaseConfig, (), None)


def check_fields(config: object, flags: Entry[None]) -> None:
    """Check a frozen config's fields as their flags are; a text becomes the path that it names.

    Raises ValueError for a field of another type than its flag, or out of its range.
    """
    for name, flag in flags.hyperparameters.items():
        object.__setattr__(config, name, flag.setting({name: getattr(config, name)}))


def changed_flags(config: object, flags: Entry[None]) -> Flags:
    """Return the flags of a config that differ from their defaults."""
    changed: Flags = {}
    for name, flag in flags.hyperparameters.items():
        value = getattr(config, name)
        if value != flag.default:
            changed[name] = [text_of(value)]
    return changed


def base_flags_of(config: BaseConfig) -> Flags:
    """Return the command line's flags for a config of base models."""
    settings = {**config.arch_options, **config.training, **config.reading}
    of_settings = {name: [text_of(value)] for name, value in sorted(settings.items())}
    return changed_flags(config, FLAGS) | of_settings | config.request.flags()
