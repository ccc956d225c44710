"""dm_direct: subtract the forget images' contribution to the logits, as a datamodel predicts it."""

from __future__ import annotations

from torch import nn

from lethe.unlearn import datamodel
from lethe.unlearn.impl import ForgetData, register
from lethe.unlearn.settings import RESOLVED, Count, Positive


@register(
    "dm_direct",
    wraps=True,
    source="Georgiev et al. 2024, arXiv:2410.23232; Park et al. 2023, arXiv:2303.14186",
    resolve=(datamodel.resolve,),
    augments=(),
)
def dm_direct(
    model: nn.Module,
    data: ForgetData,
    *,
    multiplier: Positive = RESOLVED,
    attribution_images: Count = 2000,
    sketch_size: Count = 4096,
    damping: Positive = 1.0,
) -> nn.Module:
    """Subtract the forget images' attribution scores from the logits; the weights stay as they are.

        logits(x) = f_theta(x) - multiplier sum over f in forget of score(f, x)
        score(f, x) = grad f_theta(x) . S H^-1 phi_f (1 - p_f)
        H = sum p_y (1 - p_y) phi phi' + damping mean(p_y (1 - p_y) |phi|^2) I
        phi_i = S' grad log p_y / (1 - p_y) of training image i, in eval mode; S a random sketch to
        sketch_size numbers

    This is the influence of the forget images in a logistic regression on the model's gradients. It is of
    first order: of the right size for a few images, and far too small for a whole class, for which the
    multiplier has to make up.

    The result is a module around the model, of about three times its cost. It keeps one direction of the
    weights, and computes the logits' derivative along it, the scores' sum, for each input. `python
    benchmarks/datamodels.py` prints how well such scores agree with retraining.

    Flags:
        multiplier: factor of the scores; by default 1, and 20 where a whole class is forgotten
        attribution_images: random retain images for the scores; all if there are fewer
        sketch_size: numbers that a gradient is reduced to
        damping: addition to H's diagonal, in units of the mean p_y (1 - p_y) |phi|^2

    Raises FloatingPointError if the scores are not finite.

    Departures: one model where the source averages over many; H keeps the weights p_y (1 - p_y), which the
    source drops, because without them the scores of a well-trained model are far too small; a sparse sketch
    with one entry a parameter where the source projects by a dense random matrix; and damping, without which
    more numbers than images have no inverse.
    """
    return datamodel.without_the_forget_set(model, data, multiplier, attribution_images, sketch_size, damping)
