"""Train the graph network of a model, cached by everything that it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from lethe.data import ImageSet
from lethe.models import MaskedLayer
from lethe.system.device import CPU, restored_random_state
from lethe.training import Tensors, computed_once, digest_of
from lethe.training.optimizers import AdamW
from lethe.training.storage import tensors_beside
from lethe.unlearn.impl import ForgetData
from lethe.unlearn.mimu import ranking
from lethe.unlearn.mimu.cache_key import key_of
from lethe.unlearn.mimu.gcn import MaskingGCN
from lethe.unlearn.mimu.graph import (
    Factors,
    Gradient,
    averaged,
    averaged_by_class,
    drawn_by_class,
    factors_of,
)
from lethe.unlearn.mimu.objective import Objective, drop_loss, keep_loss, log_prior, masked_logits
from lethe.unlearn.mimu.topk import sampled_topk
from lethe.unlearn.mimu.tuning import tuned

CLASSES_A_STEP = 10
LEARNED = "learned.safetensors"
LOSSES = ("loss", "keep_loss", "drop_loss")
VERSION = 4  # part of the cache's key: raise it when a change trains another network by the same flags


@dataclass(frozen=True)
class NetworkTraining:
    """The flags of the network's features and optimiser."""

    gradient: Gradient
    representatives: int
    gcn_steps: int
    gcn_lr: float
    gcn_weight_decay: float
    gcn_batch: int


# MIMU's defaults, for which the network of LEARNED is used.
DEFAULT_TRAINING = NetworkTraining("margin", 128, 32, 1e-2, 5e-4, 1024)
DEFAULT_OBJECTIVE = Objective(50, 0, 100.0, 4.0, "weight", 0.1, 0.1, "sinkhorn")


def is_default(objective: Objective, training: NetworkTraining) -> bool:
    """Return whether all flags of the network but kappa are the defaults."""
    return training == DEFAULT_TRAINING and objective == replace(DEFAULT_OBJECTIVE, kappa=objective.kappa)


@dataclass(frozen=True)
class TrainedNetwork:
    """The network and the logits q^c (N,) of every class, from the mean features of its training images."""

    gcn: MaskingGCN
    by_class: dict[int, Tensor]
    history: list[dict[str, float]]
    cached: bool

    def of_images(
        self, layer: MaskedLayer, images: ImageSet, gradient: Gradient, device: torch.device
    ) -> Tensor:
        """Return q (N,) of the mean features of images."""
        graph = averaged(factors_of(layer, images, gradient, device), 1, layer.weight)
        with torch.no_grad():
            q: Tensor = self.gcn(graph.standardised())[0]
        return q


def network_of(
    model: torch.nn.Module,
    layer: MaskedLayer,
    data: ForgetData,
    objective: Objective,
    training: NetworkTraining,
) -> TrainedNetwork:
    """Return the network of this model: from the cache, else trained on the forget and retain images."""
    key = key_of("MIMU network", VERSION, model, layer, data, asdict(objective) | asdict(training))
    tensors, cached = computed_once(data.cache, key, lambda: _trained(layer, data, objective, training))
    return _restored(tensors, cached, data.device)


def learned_network(
    model: torch.nn.Module, layer: MaskedLayer, data: ForgetData, objective: Objective | None = None
) -> TrainedNetwork:
    """Return the network that comes with Lethe, which other models taught. It is not trained.

    Its answers for the classes of this model are cached, after tuning by the objective, if there is one.
    benchmarks/mimu_network.py makes the file.
    """
    weights = tensors_beside(__file__, LEARNED)

    def compute() -> Tensors:
        gcn = MaskingGCN()
        gcn.load_state_dict(weights)
        gcn.to(data.device)
        factors = factors_of(layer, data.train, DEFAULT_TRAINING.gradient, data.device)
        q = _answers(gcn, layer, factors, data)
        if objective is not None:
            q = tuned(q, layer, factors, objective, DEFAULT_TRAINING.gcn_batch, data)
        named = {f"gcn.{name}": value for name, value in weights.items()}
        return {"q": _finite(q), "classes": torch.tensor(data.train.classes), **named}

    depends_on = {"gcn": digest_of(weights), "objective": None if objective is None else asdict(objective)}
    key = key_of("answers of the learned MIMU network", VERSION, model, layer, data, depends_on)
    return _restored(*computed_once(data.cache, key, compute), data.device)


@torch.no_grad()
def _answers(gcn: MaskingGCN, layer: MaskedLayer, factors: Factors, data: ForgetData) -> Tensor:
    """Return q (C, N) of the mean features of every class, one after another, to need little memory."""
    q = []
    for label in data.train.classes:
        q.append(gcn(averaged_by_class(factors, (label,), layer.weight).standardised()))
    return torch.cat(q)


def _finite(q: Tensor) -> Tensor:
    """Return q on the CPU. Raises FloatingPointError if it is not finite."""
    if q.isfinite().all():
        return q.cpu()
    raise FloatingPointError(
        "the MIMU network diverged. Choose a smaller --gcn_lr, and --tau, --rho, --contrast and "
        "--retain_weight nearer to their defaults"
    )


def _trained(
    layer: MaskedLayer, data: ForgetData, objective: Objective, training: NetworkTraining
) -> Tensors:
    """Return the tensors that `_restored` reads. Raises FloatingPointError if the training diverged."""
    factors = factors_of(layer, data.train, training.gradient, data.device)
    gcn = _initial_network(data).to(data.device)
    losses = torch.stack(list(_train(gcn, layer, factors, data, objective, training))).cpu().double()
    q = _answers(gcn, layer, factors, data)
    q = tuned(q, layer, factors, objective, training.gcn_batch, data) if q.isfinite().all() else q
    tensors = {"q": _finite(q), "classes": torch.tensor(data.train.classes)}
    for name, value in gcn.state_dict().items():
        tensors[f"gcn.{name}"] = value.cpu()
    for name, values in zip(LOSSES, losses.unbind(1), strict=True):
        tensors[f"history.{name}"] = values
    return tensors


def _restored(tensors: Tensors, cached: bool, device: torch.device) -> TrainedNetwork:
    with torch.device("meta"):  # draws no weights, so the global random state stays
        gcn = MaskingGCN()
    gcn.load_state_dict({name: value.clone() for name, value in _below("gcn.", tensors)}, assign=True)
    gcn.to(device)
    by_class = dict(zip(tensors["classes"].tolist(), tensors["q"].to(device), strict=True))
    losses = {name: value.tolist() for name, value in _below("history.", tensors)}
    history = [dict(zip(losses, step, strict=True)) for step in zip(*losses.values(), strict=True)]
    return TrainedNetwork(gcn, by_class, history, cached)


def _below(prefix: str, tensors: Tensors) -> list[tuple[str, Tensor]]:
    """Return the tensors whose names start with `prefix`, and their names without it."""
    return [(name.removeprefix(prefix), value) for name, value in tensors.items() if name.startswith(prefix)]


def _initial_network(data: ForgetData) -> MaskingGCN:
    seed = int(torch.randint(2**31, (1,), generator=data.generator("MIMU", "weights")))
    with restored_random_state(CPU, seed):
        return MaskingGCN()


def _train(
    gcn: MaskingGCN,
    layer: MaskedLayer,
    factors: Factors,
    data: ForgetData,
    objective: Objective,
    training: NetworkTraining,
) -> Iterator[Tensor]:
    """Train in place, by L = L_keep + contrast L_drop; yield each step's losses (3,), named by LOSSES.

    They stay on the device: reading them at each step would wait for it.
    """
    generator = data.generator("MIMU", "training")
    optimizer = AdamW(gcn.parameters(), lr=training.gcn_lr, weight_decay=training.gcn_weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.gcn_steps)
    labels = factors.labels.cpu()
    for _ in data.progress(range(training.gcn_steps), "MIMU network"):
        classes = _classes_of_step(data.train.classes, generator)
        rows = drawn_by_class(labels, classes, training.representatives, generator)
        images = factors[rows.flatten().to(data.device)]
        graphs = averaged(images, len(classes), layer.weight)
        q = gcn(graphs.standardised())
        keep = _keep(q, graphs.gradient, layer, images, objective, generator)
        drop = keep.new_zeros(())
        if objective.contrast:
            batch = factors.drawn(training.gcn_batch, generator)
            drop = _drop(q, layer, batch, classes, objective, generator)
        loss = keep + objective.contrast * drop
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(gcn.parameters()))
        optimizer.step()
        schedule.step()
        yield torch.stack([loss, keep, drop]).detach()


def _classes_of_step(classes: tuple[int, ...], generator: torch.Generator) -> tuple[int, ...]:
    """Return all classes, or ten drawn ones where there are more."""
    if len(classes) <= CLASSES_A_STEP:
        return classes
    order = torch.randperm(len(classes), generator=generator)[:CLASSES_A_STEP]
    return tuple(classes[i] for i in sorted(order.tolist()))


def _keep(
    q: Tensor,
    gradient: Tensor,
    layer: MaskedLayer,
    images: Factors,
    objective: Objective,
    generator: torch.Generator,
) -> Tensor:
    """Return L_keep of each graph's own images, with the topk weights kept that the graph marks."""
    by_graph = (len(q), -1)
    mask = sampled_topk(objective.sampler, q, objective.topk, objective.tau, generator)
    pixels = None if images.images is None else images.images.unflatten(0, by_graph)
    logits = masked_logits(layer, mask.view(-1, *layer.shape), images.h.unflatten(0, by_graph), pixels)
    log_pi = log_prior(layer.weight if objective.prior == "weight" else gradient)
    labels = images.labels.unflatten(0, by_graph)
    return keep_loss(logits, labels, mask, q, log_pi, objective.topk, objective.rho)


def _drop(
    q: Tensor,
    layer: MaskedLayer,
    images: Factors,
    classes: tuple[int, ...],
    objective: Objective,
    generator: torch.Generator,
) -> Tensor:
    """Return L_drop of the step's classes, the kappa weights of each class's largest scores switched off."""
    scores = ranking.every_class(q)
    drop = sampled_topk(objective.sampler, scores, objective.kappa, objective.tau, generator)
    logits = masked_logits(layer, (1 - drop).view(-1, *layer.shape), images.h, images.images)
    return drop_loss(logits, images.labels, torch.tensor(classes, device=q.device), objective.retain_weight)
