"""logit_attribution: mask the weights that contribute most to the forget class's logit; no training."""

from __future__ import annotations

from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.models import Mask, switched_off
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, masked_layer, register
from lethe.unlearn.mimu.graph import averaged, factors_of
from lethe.unlearn.mimu.kappa import chosen, count_or_auto
from lethe.unlearn.mimu.ranking import comparisons_of, continuous, keep_largest_out
from lethe.unlearn.settings import KappaOrAuto, MaskLayer


def resolve_kappa(
    model: nn.Module, data: ForgetData, *, kappa: KappaOrAuto, mask_layer: str | None
) -> dict[str, int]:
    """Return kappa as a number of weights of the masked layer, unless it is auto."""
    count = count_or_auto(kappa, masked_layer(model, data, mask_layer).size)
    return {} if count is None else {"kappa_count": count}


@register("logit_attribution", resolve=(resolve_kappa,), augments=())
def logit_attribution(
    model: nn.Module, data: ForgetData, *, kappa: KappaOrAuto = 0.02, mask_layer: MaskLayer | None = None
) -> Unlearned:
    """Switch off the kappa weights that add most to the forget class's own logit, and least to the others'.

        A^c_ij = mean over the training images of class c of (d logit_c / d z_i) h_j W_ij
        s = A^f - mean over the other classes of A^c

    For images of a class that stays, s is A of the forget images minus A of the class's retained images.

    Raises ValueError for an amount that the layer does not have, or a layer that can't be masked.
    """
    student = copy_of(model)
    layer = masked_layer(student, data, mask_layer)

    def attribution(images: ImageSet) -> Tensor:
        gradient = averaged(factors_of(layer, images, "logit", data.device), 1, layer.weight).gradient[0]
        return (gradient * layer.weight).flatten()

    comparisons = comparisons_of(
        data, lambda: {c: attribution(data.train.of_classes(c)) for c in data.train.classes}, attribution
    )
    scores, count = continuous(comparisons), count_or_auto(kappa, layer.size)
    stages: dict[str, float] = {}
    choice = None
    if count is None:
        choice = chosen(student, layer, data, scores, stages, None)
        count = choice.best.kappa
    mask = Mask(layer.name, keep_largest_out(scores, count, layer.shape))
    switched_off(student, mask)
    if choice is None:
        return Unlearned(student, mask)
    return Unlearned(student, mask, facts=choice.facts, stages=stages, **choice.told)
