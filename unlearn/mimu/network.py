"""The graph network of one model: trained once, cached by everything it depends on, then asked for any class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from models import MaskedLayer
from training import Tensors, computed_once, digest_of
from unlearn.impl import ForgetData
from unlearn.mimu import ranking
from unlearn.mimu.gcn import MaskingGCN
from unlearn.mimu.graph import Factors, Gradient, averaged, averaged_by_class, drawn_by_class, factors_of
from unlearn.mimu.objective import Prior, drop_loss, keep_loss, log_prior, masked_logits
from unlearn.mimu.topk import Sampler, sampled_topk
from vision_data import ImageSet

CLASSES_A_STEP = 10
IMAGES_IN_KEY = 64
VERSION = 3  # part of the cache's key: raise it when the same settings would train another network


@dataclass(frozen=True)
class NetworkSettings:
    """The flags that the trained network depends on, topk and kappa as numbers of weights."""

    topk: int
    kappa: int
    contrast: float
    retain_weight: float
    prior: Prior
    rho: float
    tau: float
    sampler: Sampler
    gradient: Gradient
    representatives: int
    gcn_steps: int
    gcn_lr: float
    gcn_weight_decay: float
    gcn_batch: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> NetworkSettings:
        """Those of the method's settings that the network depends on."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class TrainedNetwork:
    """The network with the logits q^c (N,) of every class, from features averaged over all its training
    images.
    """

    gcn: MaskingGCN
    by_class: dict[int, Tensor]
    history: list[dict[str, float]]
    cached: bool

    def of_images(
        self, layer: MaskedLayer, images: ImageSet, gradient: Gradient, device: torch.device
    ) -> Tensor:
        """q (N,) of a set of images, their features averaged first."""
        with torch.no_grad():
            q: Tensor = self.gcn(
                averaged(factors_of(layer, images, gradient, device), 1, layer.weight).standardised()
            )[0]
        return q


def network_of(
    model: torch.nn.Module, layer: MaskedLayer, data: ForgetData, settings: NetworkSettings
) -> TrainedNetwork:
    """The network of this model, from the cache or trained now on the training images (forget and retain
    together).
    """
    tensors, cached = computed_once(
        data.cache, _key(model, layer, data, settings), lambda: _trained(layer, data, settings)
    )
    return _restored(tensors, cached, data.device)


def _trained(layer: MaskedLayer, data: ForgetData, settings: NetworkSettings) -> Tensors:
    """What `_restored` makes a network of. Raises FloatingPointError if its training diverged."""
    factors = factors_of(layer, data.train, settings.gradient, data.device)
    gcn = _initial_network(data).to(data.device)
    history = list(_training(gcn, layer, factors, data, settings))
    with torch.no_grad():
        q = gcn(averaged_by_class(factors, data.train.classes, layer.weight).standardised())
    if not q.isfinite().all():
        raise FloatingPointError(
            f"the MIMU network diverged in {settings.gcn_steps} steps with --gcn_lr {settings.gcn_lr:g}. "
            "Choose a smaller one, "
            "and --tau, --rho, --contrast and --retain_weight nearer to their defaults"
        )
    losses = {
        name: torch.tensor([step[name] for step in history], dtype=torch.float64) for name in history[0]
    }
    return {
        "q": q.cpu(),
        "classes": torch.tensor(data.train.classes),
        **{f"gcn.{name}": value.cpu() for name, value in gcn.state_dict().items()},
        **{f"history.{name}": value for name, value in losses.items()},
    }


def _key(model: torch.nn.Module, layer: MaskedLayer, data: ForgetData, settings: NetworkSettings) -> str:
    parts = {
        "what": "MIMU network",
        "version": VERSION,
        "model": digest_of(model.state_dict()),
        "layer": layer.name,
        "computes": digest_of({"logits": _logits_of_some(layer, data)}),
        "images": data.train.digest,
        "normalisation": asdict(data.train.normalisation),
        "seed": data.seed,
        "device": data.device.type,
        "threads": torch.get_num_threads(),
        **asdict(settings),
    }
    return json.dumps(parts, sort_keys=True)


def _logits_of_some(layer: MaskedLayer, data: ForgetData) -> Tensor:
    """Logits of the first training images: two models of equal weights may compute different things."""
    with torch.no_grad():
        x, _ = next(data.train.batches(IMAGES_IN_KEY, device=data.device))
        return layer.head(layer.layer(layer.body(x)), x)


def _restored(tensors: Tensors, cached: bool, device: torch.device) -> TrainedNetwork:
    with torch.device("meta"):  # no weights are drawn, for the global random state is the caller's
        gcn = MaskingGCN()
    own = {
        name.removeprefix("gcn."): value.clone() for name, value in tensors.items() if name.startswith("gcn.")
    }
    gcn.load_state_dict(own, assign=True)
    gcn.to(device)
    by_class = dict(zip(tensors["classes"].tolist(), tensors["q"].to(device), strict=True))
    losses = {
        name.removeprefix("history."): value.tolist()
        for name, value in tensors.items()
        if name.startswith("history.")
    }
    history = [dict(zip(losses, step, strict=True)) for step in zip(*losses.values(), strict=True)]
    return TrainedNetwork(gcn, by_class, history, cached)


def _initial_network(data: ForgetData) -> MaskingGCN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=data.generator("MIMU", "weights"))))
        return MaskingGCN()


def _training(
    gcn: MaskingGCN, layer: MaskedLayer, factors: Factors, data: ForgetData, settings: NetworkSettings
) -> Iterator[dict[str, float]]:
    """Train in place, by L = L_keep + contrast L_drop; yields the losses of each step."""
    generator = data.generator("MIMU", "training")
    optimizer = torch.optim.AdamW(
        gcn.parameters(), lr=settings.gcn_lr, weight_decay=settings.gcn_weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.gcn_steps)
    for _ in data.progress(range(settings.gcn_steps), "MIMU network"):
        classes = _classes_of_step(data.train.classes, generator)
        rows = drawn_by_class(factors.labels, classes, settings.representatives, generator)
        graphs = averaged(factors[rows.flatten()], len(classes), layer.weight)
        q = gcn(graphs.standardised())
        keep = _keep(q, graphs.gradient, layer, factors[rows.flatten()], settings, generator)
        drop = torch.zeros(())
        if settings.contrast:
            drop = _drop(q, layer, factors.drawn(settings.gcn_batch, generator), classes, settings, generator)
        loss = keep + settings.contrast * drop
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(gcn.parameters()))
        optimizer.step()
        schedule.step()
        yield {"loss": loss.item(), "keep_loss": keep.item(), "drop_loss": drop.item()}


def _classes_of_step(classes: tuple[int, ...], generator: torch.Generator) -> tuple[int, ...]:
    """All classes, or where there are many, as many as fit a step, drawn anew."""
    if len(classes) <= CLASSES_A_STEP:
        return classes
    order = torch.randperm(len(classes), generator=generator)[:CLASSES_A_STEP]
    return tuple(classes[i] for i in sorted(order.tolist()))


def _keep(
    q: Tensor,
    gradient: Tensor,
    layer: MaskedLayer,
    images: Factors,
    settings: NetworkSettings,
    generator: torch.Generator,
) -> Tensor:
    """L_keep of the images that each graph was made of, under the topk weights that it marks."""
    graphs = len(q)
    mask = sampled_topk(settings.sampler, q, settings.topk, settings.tau, generator)
    pixels = None if images.images is None else images.images.unflatten(0, (graphs, -1))
    logits = masked_logits(
        layer, mask.view(graphs, *layer.shape), images.h.unflatten(0, (graphs, -1)), pixels
    )
    log_pi = log_prior(layer.weight if settings.prior == "weight" else gradient)
    return keep_loss(
        logits, images.labels.unflatten(0, (graphs, -1)), mask, q, log_pi, settings.topk, settings.rho
    )


def _drop(
    q: Tensor,
    layer: MaskedLayer,
    images: Factors,
    classes: tuple[int, ...],
    settings: NetworkSettings,
    generator: torch.Generator,
) -> Tensor:
    """L_drop of every class of the step, with the kappa weights switched off that its continuous score
    chooses.
    """
    drop = sampled_topk(settings.sampler, ranking.every_class(q), settings.kappa, settings.tau, generator)
    logits = masked_logits(layer, (1 - drop).view(-1, *layer.shape), images.h, images.images)
    return drop_loss(logits, images.labels, torch.tensor(classes, device=q.device), settings.retain_weight)
