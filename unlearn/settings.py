"""The types of hyperparameters: ranges, search distributions and the help that methods share."""

from __future__ import annotations

from typing import Annotated, Any

from lethe.signature import Help, Range, Search
from lethe.training.recipe import BatchSize, LearningRate, WeightDecay
from lethe.unlearn.amount import Amount

__all__ = ["Amount", "BatchSize", "LearningRate", "WeightDecay"]

# The default of a setting that the method's `resolve` derives from the model, the data or other settings.
RESOLVED: Any = None

Count = Annotated[int, Range(1), Search("log", 1, 1000)]
CountFromZero = Annotated[int, Range(0), Search("linear", 0, 10)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Epochs = Annotated[int, Range(1), Search("log", 1, 30)]
Momentum = Annotated[float, Range(0, 1, "[)"), Search("linear", 0, 0.99), Help("momentum of SGD")]
Temperature = Annotated[float, Range(0, ends="(]"), Search("log", 0.1, 10)]

Positive = Annotated[float, Range(0, ends="(]"), Search("log", 1e-3, 1e3)]
Weight = Annotated[float, Range(0), Search("log", 1e-3, 1e3)]
Share = Annotated[float, Range(0, 1, "(]"), Search("linear", 0.05, 1)]
BetweenZeroAndOne = Annotated[float, Range(0, 1, "()"), Search("linear", 0.01, 0.99)]

Kappa = Annotated[Amount, Help("weights to switch off"), Search("log", 1e-3, 0.5)]
KappaOrAuto = Annotated[
    int | float | str,
    "a count (an integer >= 1), a fraction in (0, 1), a percentage such as 50%, or auto",
    Help("weights to switch off; auto chooses by training and validation images"),
    Search("log", 1e-3, 0.5),
]
MaskLayer = Annotated[
    str,
    Help("the masked layer, by name or by index over the linear layers; none is the architecture's choice"),
]
MaskLayerOrAuto = Annotated[
    str,
    Help(
        "the masked layer, by name or by index over the linear layers; none is the architecture's choice, "
        "auto chooses by training and validation images"
    ),
]

BETA = 0.95  # the default of beta
Beta = Annotated[
    BetweenZeroAndOne, Help("weight of the retain gradient, between 0 and 1"), Search("linear", 0.5, 0.99)
]
