"""The config of the base models, and the flags of a command line that mean it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flag_words import Flags, text_of
from vision_data import AUTO, ForgetRequest


@dataclass(frozen=True)
class BaseConfig:
    """What the initial and the ideal model depend on, and where their checkpoints are.

    training: settings of the recipe by the names of their flags (see training.recipe.changed), e.g.
    {"train_lr": 0.05}.
    reading: settings of how images in folders are read (see vision_data.reading), e.g. {"image_channels": 1}.
    normalize: of images, as the flag has it: auto, data, none or MEAN,...:STD,....
    """

    dataset: str = "digits"
    data: str | Path = "./data"
    arch: str | None = None
    arch_options: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    epochs: int | None = None
    seed: int = 1
    split_seed: int = 0
    device: str = "auto"
    normalize: str = AUTO
    request: ForgetRequest = field(default_factory=ForgetRequest)
    save_dir: Path | None = None
    mask: Path | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)


def base_flags_of(config: BaseConfig) -> Flags:
    """The command line's flags for what differs from the defaults in `config`."""
    flags: Flags = {}
    defaults = BaseConfig()
    for name in (
        "dataset",
        "data",
        "arch",
        "num_classes",
        "epochs",
        "seed",
        "split_seed",
        "device",
        "normalize",
        "save_dir",
        "mask",
    ):
        value = getattr(config, name)
        if value is not None and value != getattr(defaults, name):
            flags[name] = [text_of(value)]
    for name, value in sorted(
        (dict(config.arch_options) | dict(config.training) | dict(config.reading)).items()
    ):
        flags[name] = [text_of(value)]
    return flags | config.request.flags()
