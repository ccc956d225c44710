"""The config of a run, and the flags of a command line that mean it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Literal

from lethe.evaluation import DEFAULT
from lethe.experiment.base_config import BaseConfig, base_flags_of, changed_flags, check_fields
from lethe.flag_words import Flags, text_of
from lethe.registry import Entry
from lethe.signature import Shown

NAMES = "names separated by commas"
AUGMENT_AUTO = ("auto",)  # augment as the base models' recipe does


@dataclass(frozen=True)
class PipelineConfig:
    """One run: a method with its settings, on base models.

    Flags:
        ideal: the model to compare with: auto loads it if it exists, and trains it for embedded data
        experiment: MLflow experiment
        checkpoint_epochs: epochs of the method after which the intermediate model is evaluated too
        metrics: what to measure: default, all (the costly ones too), or names; --list shows them
        unlearn_augment: how the images that the method trains on are augmented: auto, as the base models'
            recipe does; none; or some of crop, flip, cutout. What is measured or ranked is not augmented
        report: charts and an HTML page; without images of the forget set; or neither
    """

    unlearn: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: BaseConfig = field(default_factory=BaseConfig)
    _: KW_ONLY
    ideal: Literal["auto", "train", "skip"] = "auto"
    experiment: Annotated[str | None, Shown("NAME", "<dataset>-<arch>")] = None
    checkpoint_epochs: Annotated[
        tuple[int, ...], "integers separated by commas", Shown("N,N,...", "none")
    ] = ()
    metrics: Annotated[tuple[str, ...], NAMES, Shown("NAME,...")] = (DEFAULT,)
    unlearn_augment: Annotated[tuple[str, ...], NAMES, Shown("auto|none|KIND,...")] = AUGMENT_AUTO
    report: Literal["full", "no_images", "skip"] = "full"

    def __post_init__(self) -> None:
        check_fields(self, FLAGS)


FLAGS: Entry[None] = Entry("the run", PipelineConfig, (), None)


def flags_of(config: PipelineConfig) -> Flags:
    """Return the command line's flags for a config."""
    settings = {name: [text_of(value)] for name, value in config.settings.items()}
    of_base_models = base_flags_of(config.base)
    return {"unlearn": [config.unlearn]} | settings | of_base_models | changed_flags(config, FLAGS)
