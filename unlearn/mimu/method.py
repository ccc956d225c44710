"""The registered method MIMU."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.flag_error import FlagError
from lethe.models import MaskedLayer
from lethe.system.timed import timed
from lethe.unlearn.amount import AUTO, count_of
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.mimu.graph import Gradient
from lethe.unlearn.mimu.kappa import (
    TRAINED_FOR,
    chosen,
    count_or_auto,
)
from lethe.unlearn.mimu.mask_layer import Answer, masked, resolved_counts
from lethe.unlearn.mimu.network import NetworkTraining, is_default, learned_network, network_of
from lethe.unlearn.mimu.objective import Objective, Prior
from lethe.unlearn.mimu.ranking import Ranking, comparisons_of, scores_of
from lethe.unlearn.mimu.refine import RefineSettings, refined, unseen_of
from lethe.unlearn.mimu.topk import Sampler
from lethe.unlearn.settings import (
    Amount,
    BatchSize,
    Count,
    CountFromZero,
    KappaOrAuto,
    LearningRate,
    MaskLayerOrAuto,
    Temperature,
    Weight,
    WeightDecay,
)


def check_refinement(model: nn.Module, data: ForgetData, *, ranking: Ranking, refine_steps: int) -> None:
    """Raise ValueError for refinement with set_difference, or of images without validation images."""
    if not refine_steps:
        return
    if ranking == "set_difference":
        raise FlagError(
            "refine_steps",
            f"expected 0 with --ranking set_difference, got {refine_steps}. Choose another --ranking",
        )
    unseen_of(data)


def counts_of_layer(layer: MaskedLayer, topk: Amount, kappa: KappaOrAuto) -> dict[str, int]:
    counts = {"topk_count": count_of(topk, layer.size, "topk")}
    drops = count_or_auto(kappa, layer.size)
    return counts if drops is None else counts | {"kappa_count": drops}


def resolve_counts(
    model: nn.Module, data: ForgetData, *, topk: Amount, kappa: KappaOrAuto, mask_layer: str | None
) -> dict[str, int]:
    """Return topk and kappa as numbers of weights of the masked layer; no kappa yet if it is auto.

    Returns no numbers if the layer is auto.
    """
    return resolved_counts(model, data, mask_layer, partial(counts_of_layer, topk=topk, kappa=kappa))


@register(
    "MIMU",
    source="Layer 6, Minimally Invasive Machine Unlearning, OpenReview UF5pTfMjhu",
    resolve=(check_refinement, resolve_counts),
    augments=(),
)
def mimu(
    model: nn.Module,
    data: ForgetData,
    *,
    topk: Amount = 50,
    kappa: KappaOrAuto = AUTO,
    mask_layer: MaskLayerOrAuto | None = None,
    ranking: Ranking = "continuous",
    sampler: Sampler = "sinkhorn",
    contrast: Weight = 100.0,
    retain_weight: Weight = 4.0,
    prior: Prior = "weight",
    rho: Weight = 0.1,
    tau: Temperature = 0.1,
    gradient: Gradient = "margin",
    representatives: Count = 128,
    gcn_steps: Count = 32,
    gcn_lr: LearningRate = 1e-2,
    gcn_weight_decay: WeightDecay = 5e-4,
    gcn_batch: BatchSize = 1024,
    refine_steps: CountFromZero = 0,
    refine_lr: LearningRate = 0.1,
) -> Unlearned:
    """Switch off the few weights of one layer that a graph network finds to serve the forget set alone.

    A network gives every weight of the masked layer W (m, n) a logit q for a class, from the class's mean
    features. With the network's flags at their defaults it is one that comes with Lethe, which other models
    taught. With other flags it is trained on the training images, at most ten classes a step, by

        L = L_keep + contrast L_drop
        L_keep = -log p(y | x; M * W) + rho (-<M, log pi> + <M, log softmax(q)>) / topk
        L_drop = -log(1 - p_f(x_f; (1 - D) * W)) + retain_weight CE(x_r, y_r; (1 - D) * W)
        s = q^f - mean over the other classes c of q^c
        M = soft top-topk of q,  D = soft top-kappa of s

    with hard masks forward and the soft ones' gradient backward (`sampler`). The q of all classes are then
    tuned by L_drop for this kappa, 30 steps for each class, and kept; not so with `--kappa auto` where the
    network is Lethe's. A forget request ranks the weights by s, or by another `ranking`, and switches off the
    kappa largest: the unlearned model differs in these weights alone. For some images of a class, s compares
    their q with that of the class's retained images.

        binary          M^f - mean over the other classes of M^c, M = hard top-topk of q; equal ones by s
        set_difference  weights in M^f and in no M^c, by s; `kappa_count` is smaller than kappa if they are
                        fewer

    With `--kappa auto` masks of 1 to 30 % of the layer are judged on training and validation images, never
    on test images: how many of the forgotten ones are still predicted right, and what the others lose. The
    cheapest is chosen, the smallest among equals. If it misses its targets, its scores are refined by up to
    60 steps, and if it still does, the run warns of it. With a number as kappa exactly so many weights are
    switched off.

    With `--mask_layer auto` every linear layer that can be masked is answered for in this way, and the same
    images decide between the masks: those that meet their targets come first, then the least cost. Where
    layers are alike, the architecture's choice is masked.

    Flags:
        topk: weights that a class mask marks as important
        kappa: weights to switch off; auto chooses by training and validation images, and refines where needed
        ranking: how a request orders the weights (training uses the continuous score)
        sampler: how training chooses the top-k: exactly, with Gumbel noise, or by the k-th largest value
        contrast: weight of L_drop; 0 is the paper's objective
        retain_weight: weight of the retained images in L_drop
        prior: the prior pi over weights is proportional to their sizes, or to those of their gradients
        rho: weight of the prior terms
        tau: temperature of the soft top-k
        gradient: objective whose gradient is the fourth feature
        representatives: images averaged for a class's features in training (a request averages all)
        gcn_steps: optimiser steps of the network
        gcn_lr: its learning rate (AdamW, cosine schedule)
        gcn_weight_decay: its weight decay
        gcn_batch: images a step for L_drop, and of each kind for refinement
        refine_steps: optimiser steps that tune the scores of this request: whole classes by L_drop, images of
            other classes by the distance of their margins from those of validation images; 0 for the
            network's scores, and with --kappa auto for as many as are needed
        refine_lr: learning rate of these steps (Adam)

    Raises ValueError for an amount that the layer does not have, and for a layer that is missing, is not
    linear or does not see one vector an image. The mask makes a class unreachable, but the layers before it
    still know it.

    Departures: the paper's objective gives the label no gradient, and its ranking puts weights that no class
    needs first; L_drop, averaged features and the ranking by s are ours. The paper's network has a sigmoid
    between its rounds, here relu; its 32 steps take single images' graphs, ours averaged ones; its topk is
    8,000 weights, here 50.
    """
    stages: dict[str, float] = {}
    student = copy_of(model)
    training = NetworkTraining(gradient, representatives, gcn_steps, gcn_lr, gcn_weight_decay, gcn_batch)

    def answer(layer: MaskedLayer) -> Answer:
        marks, drops = count_of(topk, layer.size, "topk"), count_or_auto(kappa, layer.size)
        trained_for = drops or max(1, round(TRAINED_FOR * layer.size))
        objective = Objective(marks, trained_for, contrast, retain_weight, prior, rho, tau, sampler)
        with timed(stages, "network"):
            if is_default(objective, training):
                network = learned_network(student, layer, data, None if drops is None else objective)
            else:
                network = network_of(student, layer, data, objective, training)

        def of_images(images: ImageSet) -> Tensor:
            return network.of_images(layer, images, gradient, data.device)

        with timed(stages, "request"):
            scores = scores_of(ranking, comparisons_of(data, lambda: network.by_class, of_images), marks)
        choice = None
        if drops is None:
            settings = RefineSettings(retain_weight, tau, refine_lr, gcn_batch)
            may_refine = not refine_steps and ranking != "set_difference"
            choice = chosen(student, layer, data, scores, stages, settings if may_refine else None)
            scores, drops = choice.best.scores, choice.best.kappa
        with timed(stages, "refinement"):
            scores = refined(
                scores,
                layer,
                data,
                drops,
                retain_weight,
                tau,
                steps=refine_steps,
                lr=refine_lr,
                batch=gcn_batch,
            )
            if choice is not None and refine_steps:
                choice = choice.with_scores(scores)
        return Answer(layer, scores, drops, choice, network.history, {"network_cached": int(network.cached)})

    counts = partial(counts_of_layer, topk=topk, kappa=kappa)
    return masked(student, data, mask_layer, counts, answer, stages)
