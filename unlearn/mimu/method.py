"""MIMU as a registered method."""

from __future__ import annotations

import time

from torch import nn

from models import Mask, switched_off
from unlearn.amount import count_of
from unlearn.impl import ForgetData, Unlearned, copy_of, masked_layer, register
from unlearn.mimu.graph import Gradient
from unlearn.mimu.network import NetworkSettings, network_of
from unlearn.mimu.objective import Prior
from unlearn.mimu.ranking import Ranking, comparisons_of, keep_largest_out, scores_of
from unlearn.mimu.refine import refined, unseen_of
from unlearn.mimu.topk import Sampler
from unlearn.settings import (
    Amount,
    BatchSize,
    Count,
    CountFromZero,
    Kappa,
    LearningRate,
    MaskLayer,
    Temperature,
    Weight,
    WeightDecay,
)


def resolve(
    model: nn.Module,
    data: ForgetData,
    *,
    topk: Amount,
    kappa: Amount,
    mask_layer: str | None,
    ranking: Ranking,
    refine_steps: int,
) -> dict[str, int]:
    """topk and kappa as numbers of weights of the masked layer. ValueError for a refinement that the request
    or the ranking can't have.
    """
    if ranking == "set_difference" and refine_steps:
        raise ValueError(
            f"--refine_steps: expected 0 with --ranking set_difference, got {refine_steps}. Choose another "
            "--ranking"
        )
    if refine_steps:
        unseen_of(data)
    size = masked_layer(model, data, mask_layer).size
    return {"topk_count": count_of(topk, size, "topk"), "kappa_count": count_of(kappa, size, "kappa")}


@register(
    "MIMU",
    source="Layer 6, Minimally Invasive Machine Unlearning, OpenReview UF5pTfMjhu",
    resolve=(resolve,),
    augments=(),
)
def mimu(
    model: nn.Module,
    data: ForgetData,
    *,
    topk: Amount = 50,
    kappa: Kappa = 0.1,
    mask_layer: MaskLayer | None = None,
    ranking: Ranking = "continuous",
    sampler: Sampler = "sinkhorn",
    contrast: Weight = 100.0,
    retain_weight: Weight = 4.0,
    prior: Prior = "weight",
    rho: Weight = 0.1,
    tau: Temperature = 0.1,
    gradient: Gradient = "margin",
    representatives: Count = 128,
    gcn_steps: Count = 300,
    gcn_lr: LearningRate = 1e-2,
    gcn_weight_decay: WeightDecay = 5e-4,
    gcn_batch: BatchSize = 1024,
    refine_steps: CountFromZero = 0,
    refine_lr: LearningRate = 0.1,
) -> Unlearned:
    """Switch off the few weights of one layer that serve what is to be forgotten, as a graph network reads
    them.

    A network gives every weight of the masked layer W (m, n) a logit q for a class, from the class's mean
    features. It is trained once per model on the training images, ten classes a step (all, where there are
    fewer), by

        L = L_keep + contrast L_drop
        L_keep = -log p(y | x; M * W) + rho (-<M, log pi> + <M, log softmax(q)>) / topk       M = soft top-topk of q
        L_drop = -log(1 - p_f(x_f; (1 - D) * W)) + retain_weight CE(x_r, y_r; (1 - D) * W)    D = soft top-kappa of s

    with s = q^f - mean over the other classes of q^c; masks are hard forward and soft backward (`sampler`). A
    forget request ranks the weights by s, or by another `ranking`, and switches off the kappa largest: the
    unlearned model differs in these
    weights alone. Images of a class that stays: the forget images' q is held against that of the class's
    retained images.

        binary          M^f - mean over the other classes of M^c, M = hard top-topk of q; among equals the larger s first
        set_difference  weights in M^f and in no M^c, by s; `kappa_count` says how many there were, if fewer than kappa

    Flags:
        topk: weights that a class mask marks as important
        ranking: how a request orders the weights (training ranks by the continuous score)
        sampler: how training chooses the top-k: exactly, with Gumbel noise, or by the plain k-th value
        contrast: weight of L_drop; 0 is the paper's objective
        retain_weight: weight of the retained images in L_drop
        prior: what the prior pi over weights is proportional to
        rho: weight of the prior terms
        tau: temperature of the soft top-k
        gradient: whose gradient is the fourth feature
        representatives: images averaged for a class's features in training (a request averages all)
        gcn_steps: optimiser steps of the network
        gcn_lr: its learning rate (AdamW, cosine schedule)
        gcn_weight_decay: its weight decay
        gcn_batch: images a step that L_drop is evaluated on
        refine_steps: steps that then tune the scores of this request itself: whole classes by L_drop, images
            of a class that stays by the distance of their margins from those of validation images; 0 for the
            network's answer alone
        refine_lr: their learning rate (Adam)

    Raises ValueError for an amount that the layer does not have, a layer that is not there, is not linear or
    does not see one vector an image. The mask makes a class unreachable, not absent: what the layers before
    it know is still there.

    Departures: the paper's objective leaves the label without a gradient and its ranking puts weights that
    serve nobody first; L_drop, averaged features and the ranking by s are ours. Between the rounds of the
    network it has sigmoid, here relu; it takes 32 steps of single images' graphs, here 300 of averaged ones;
    its topk is 8,000 weights, here 50.
    """
    given = dict(locals())
    started = time.perf_counter()
    student = copy_of(model)
    layer = masked_layer(student, data, mask_layer)
    counts = {name: count_of(given[name], layer.size, name) for name in ("topk", "kappa")}
    settings = NetworkSettings.of(given | counts)
    network = network_of(student, layer, data, settings)
    trained = time.perf_counter()
    comparisons = comparisons_of(
        data, lambda: network.by_class, lambda images: network.of_images(layer, images, gradient, data.device)
    )
    scores = scores_of(ranking, comparisons, settings.topk)
    ranked = time.perf_counter()
    scores = refined(
        scores,
        layer,
        data,
        settings.kappa,
        steps=refine_steps,
        lr=refine_lr,
        retain_weight=retain_weight,
        tau=tau,
        batch=gcn_batch,
    )
    mask = Mask(layer.name, keep_largest_out(scores, settings.kappa, layer.shape))
    switched_off(student, mask)
    stages = {
        "network": trained - started,
        "request": ranked - trained,
        "refinement": time.perf_counter() - ranked,
    }
    return Unlearned(
        student, mask, network.history, {"network_cached": int(network.cached)}, stages, step="step"
    )
