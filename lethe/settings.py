"""The types of a method's or an add-on's settings, for those who write one: `unlearn_epochs: Epochs = 5`.

A type says the range, which is checked at every call, how a search draws from it, and the help of the flag.
A range of your own is `Annotated[float, Range(0, 1, "(]"), Search("log", 1e-3, 1), Help("what it does")]`:
`[` and `]` include the end, `(` and `)` leave it out. The default RESOLVED is for a setting whose value
`register_method(..., resolve=...)` works out.
"""

from lethe.signature import Help, Range, Search
from lethe.unlearn.settings import (
    RESOLVED,
    Amount,
    BatchSize,
    BetweenZeroAndOne,
    Count,
    CountFromZero,
    Epochs,
    LearningRate,
    MaskLayer,
    Momentum,
    Positive,
    Seed,
    Share,
    Temperature,
    Weight,
    WeightDecay,
)

__all__ = [
    "RESOLVED",
    "Amount",
    "BatchSize",
    "BetweenZeroAndOne",
    "Count",
    "CountFromZero",
    "Epochs",
    "Help",
    "LearningRate",
    "MaskLayer",
    "Momentum",
    "Positive",
    "Range",
    "Search",
    "Seed",
    "Share",
    "Temperature",
    "Weight",
    "WeightDecay",
]
