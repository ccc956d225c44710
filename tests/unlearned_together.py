"""What every method that shares its batches makes of a small model, in a group of processes or in one.

The model computes in double precision. In single precision Adam turns the float noise of a gradient that is
zero (of a bias before batch norm) into steps of the learning rate.
"""

import torch
from torch import nn

from lethe.data import Splits
from lethe.training import Recipe, fit
from lethe.training.process_group import ALONE
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn
from tests import short_log
from tests.bars import CLASS_1, SEVEN_IMAGES, classifier, images_of

UNEVEN = 8  # images: neither 7 nor 30 nor 90 images are whole batches of them


class InDouble(nn.Module):
    """The classifier of `tests.bars`, of a seed, in double precision."""

    def __init__(self, seed=0):
        super().__init__()
        self.inner = classifier()
        recipe = Recipe(2 + seed, "adamw", lr=2e-2, batch_size=20)
        fit(self.inner, images_of(30, seed=0), recipe, generator=torch.Generator().manual_seed(seed))
        self.inner.double()

    def forward(self, x):
        return self.inner(x.double())


def data_of(request, group, **world):
    splits = Splits(images_of(30, 0), images_of(5, 1), images_of(5, 2), "bars", tuple("abcd"), 0)
    oracles = Oracles(lambda seeds: (InDouble(seed) for seed in seeds), judges=(1,))
    return ForgetData.of(splits, request, group=group, oracles=oracles, updates=short_log.updates, **world)


def settings_of(entry):
    """Two epochs or seven steps, in small batches, and few of whatever else is counted."""
    found = {}
    for name in entry.hyperparameters:
        if name.endswith(("batch_size", "batch")):
            found[name] = UNEVEN
        elif name.endswith(("epochs", "_copies", "_count")):
            found[name] = 2
        elif name.endswith(("steps", "noise_images")):
            found[name] = 7
    return found


def weights_of_all(group=ALONE):
    """The weights and losses of each method, by name, and of a few cases more."""
    model, done = InDouble(), {}
    whole, few = data_of(CLASS_1, group), data_of(SEVEN_IMAGES, group)
    for entry in METHODS:
        if entry.own and entry.facts.parallel:
            data = whole if entry.facts.whole_class else few
            done[entry.name] = unlearn(entry.name, model, data, **settings_of(entry))
    moved = data_of(CLASS_1, group, augment=("flip", "cutout"))
    done["augmented, asks its teacher each time"] = unlearn("SCRUB", model, moved, unlearn_epochs=1)
    done["images alone"] = unlearn("NegGrad", model, few, unlearn_epochs=1, batch_size=1)
    done["rewound"] = unlearn("SCRUB", model, few, unlearn_epochs=2, rewind=True)
    return {name: {**found.model.state_dict(), **_losses(found.history)} for name, found in done.items()}


def _losses(history):
    return {
        f"{name} {step}": torch.tensor(value, dtype=torch.float64)
        for step, values in enumerate(history)
        for name, value in values.items()
    }
