"""Outputs of models that a seed draws, as Outputs and ModelOutputs."""

import torch
from torch import nn

from lethe.evaluation import ModelOutputs, Outputs

SVC_FAMILY = ["mia_correctness", "mia_confidence", "mia_entropy", "mia_m_entropy", "mia_prob"]


def drawn(n, *, classes=3, sharpness=1.0, labels=None, seed=0):
    """n random outputs whose true class has its logit raised by `sharpness`."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=generator) if labels is None else torch.tensor(labels)
    logits = torch.randn(n, classes, generator=generator)
    return Outputs(logits + sharpness * nn.functional.one_hot(y, classes), y)


def model_outputs(*, forget=None, retain=None, test=None, forget_classes=(), seed=1):
    return ModelOutputs(
        forget=forget or drawn(40, sharpness=2.0, seed=1),
        retain=retain or drawn(300, sharpness=4.0, seed=2),
        test=test or drawn(120, sharpness=2.0, seed=3),
        validation=None,
        forget_classes=forget_classes,
        seed=seed,
    )


def by_class():
    """Class 0 forgotten whole."""
    return model_outputs(
        forget=drawn(30, sharpness=-1.0, labels=[0] * 30, seed=4),
        retain=drawn(200, sharpness=3.0, labels=[1, 2] * 100, seed=5),
        test=drawn(120, sharpness=2.0, labels=[0, 1, 2] * 40, seed=6),
        forget_classes=(0,),
    )
