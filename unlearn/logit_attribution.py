"""logit_attribution: mask the weights that contribute most to the forget class's logit; no training."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.models import MaskedLayer
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.mimu.graph import averaged, factors_of
from lethe.unlearn.mimu.kappa import chosen, count_or_auto
from lethe.unlearn.mimu.mask_layer import Answer, masked, resolved_counts
from lethe.unlearn.mimu.ranking import comparisons_of, continuous
from lethe.unlearn.settings import KappaOrAuto, MaskLayerOrAuto


def counts_of_layer(layer: MaskedLayer, kappa: KappaOrAuto) -> dict[str, int]:
    count = count_or_auto(kappa, layer.size)
    return {} if count is None else {"kappa_count": count}


def resolve_kappa(
    model: nn.Module, data: ForgetData, *, kappa: KappaOrAuto, mask_layer: str | None
) -> dict[str, int]:
    """Return kappa as a number of weights of the masked layer, unless it is auto or the layer is."""
    return resolved_counts(model, data, mask_layer, partial(counts_of_layer, kappa=kappa))


@register("logit_attribution", resolve=(resolve_kappa,), augments=())
def logit_attribution(
    model: nn.Module,
    data: ForgetData,
    *,
    kappa: KappaOrAuto = 0.02,
    mask_layer: MaskLayerOrAuto | None = None,
) -> Unlearned:
    """Switch off the kappa weights that add most to the forget class's own logit, and least to the others'.

        A^c_ij = mean over the training images of class c of (d logit_c / d z_i) h_j W_ij
        s = A^f - mean over the other classes of A^c

    For images of a class that stays, s is A of the forget images minus A of the class's retained images.

    With `--mask_layer auto` every linear layer that can be masked is tried; training and validation images
    decide, as in MIMU.

    Raises ValueError for an amount that the layer does not have, or a layer that can't be masked.
    """
    student, stages = copy_of(model), dict[str, float]()

    def answer(layer: MaskedLayer) -> Answer:
        def attribution(images: ImageSet) -> Tensor:
            gradient = averaged(factors_of(layer, images, "logit", data.device), 1, layer.weight).gradient[0]
            return (gradient * layer.weight).flatten()

        comparisons = comparisons_of(
            data, lambda: {c: attribution(data.train.of_classes(c)) for c in data.train.classes}, attribution
        )
        scores, count = continuous(comparisons), count_or_auto(kappa, layer.size)
        if count is not None:
            return Answer(layer, scores, count)
        choice = chosen(student, layer, data, scores, stages, None)
        return Answer(layer, scores, choice.best.kappa, choice)

    return masked(student, data, mask_layer, partial(counts_of_layer, kappa=kappa), answer, stages)
