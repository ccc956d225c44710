"""The config of a run, and the flags of a command line that mean it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from base_config import BaseConfig, base_flags_of
from evaluation import DEFAULT
from flag_words import Flags, text_of

AUGMENT_AUTO = ("auto",)  # augment as the base models' recipe does


@dataclass(frozen=True)
class PipelineConfig:
    """One experiment: a method with its own settings, on base models, under an experiment's name.

    metrics: "default", "all" (the costly ones too), names; see evaluation.chosen. report: pictures and an
    HTML page; the page without images of the forget set; neither. unlearn_augment: what the images go through
    that the method trains on: ("auto",), as the base models' recipe has it; ("none",); or some of crop, flip,
    cutout.
    """

    unlearn: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: BaseConfig = field(default_factory=BaseConfig)
    ideal: Literal["auto", "train", "skip"] = "auto"
    experiment: str | None = None
    checkpoint_epochs: tuple[int, ...] = ()
    metrics: tuple[str, ...] = (DEFAULT,)
    report: Literal["full", "no_images", "skip"] = "full"
    unlearn_augment: tuple[str, ...] = AUGMENT_AUTO


def flags_of(config: PipelineConfig) -> Flags:
    """The command line's flags for this config: the method, its settings, and what else differs from the
    defaults.
    """
    settings = {name: [text_of(value)] for name, value in config.settings.items()}
    flags = {"unlearn": [config.unlearn]} | settings | base_flags_of(config.base)
    defaults = PipelineConfig(config.unlearn)
    for name in ("ideal", "experiment", "checkpoint_epochs", "metrics", "unlearn_augment", "report"):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            flags[name] = [text_of(value)]
    return flags
