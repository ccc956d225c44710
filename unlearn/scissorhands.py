"""Scissorhands: reset the weights that forget is most sensitive to, then learn retain, not forget, again."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from lethe.flag_error import FlagError
from lethe.signature import Range, Search
from lethe.unlearn.blocks import blocks_of
from lethe.unlearn.fisher_information import Tensors, batch_gradient
from lethe.unlearn.fresh_weights import as_new_layers, reset_entries
from lethe.unlearn.impl import Batch, ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.salun import most_salient
from lethe.unlearn.settings import (
    RESOLVED,
    BatchSize,
    Count,
    CountFromZero,
    Epochs,
    LearningRate,
    Momentum,
    Weight,
    WeightDecay,
)
from lethe.unlearn.train_mode import train_mode
from lethe.unlearn.two_gradients import batch_size_for

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # the first: batch and instance norm
LEAST_WAY = 0.5  # of v
Sparsity = Annotated[float, Range(0, 1, "[)"), Search("linear", 0.5, 0.99)]


def resolve(model: nn.Module, data: ForgetData, *, last_blocks: int | None) -> dict[str, int]:
    """Return the number of blocks, by default half of those before the classifier.

    Raises ValueError for more than there are.
    """
    before = len(blocks_of(model, data)) - 1
    if last_blocks is not None and last_blocks > before:
        raise FlagError(
            "last_blocks", f"expected at most {before}, the blocks before the classifier, got {last_blocks}"
        )
    return {"last_blocks": before // 2 if last_blocks is None else last_blocks}


@register(
    "Scissorhands",
    "SHs",
    source="Wu, Harandi 2024, arXiv:2401.06187",
    resolve=(resolve,),
    augments=("forget", "retain"),
    source_augments="",
)
def scissorhands(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 5e-3,
    batch_size: BatchSize = 256,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    sparsity: Sparsity = 0.97,
    prune_batches: Count = 1,
    shs_lambda: Weight = 0.05,
    last_blocks: CountFromZero = RESOLVED,
) -> Unlearned:
    """Reset the last blocks' most sensitive weights, then descend on retain, never towards forget.

        s = |theta * mean |grad CE||        over prune_batches forget batches, eval mode
        theta ~ as a new layer's, where s is among the 1 - sparsity largest and theta in the last blocks
        g = grad (CE_r - shs_lambda CE_f) on a batch of each;  theta <- SGD(theta, g), but in the last blocks
        where <g, g_o> < 0:  g <- g + v g_o,  v = max(.5, - <g, g_o> / |g_o|^2)
        g_o = grad of -CE on a forget batch, at the start of each epoch, eval mode

    An epoch is a pass over retain; once the forget set is through, its steps are of CE_r alone. The largest s
    are those of all weights, but what is not in the last blocks or the classifier, and layers that normalise
    or scale, is not reset: `facts` has how many were marked and how many were reset. Batch norm takes the
    statistics of each batch.

    Flags:
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of SGD
        batch_size: images of each kind a step
        sparsity: share of the weights that is not marked
        prune_batches: forget batches that s is averaged over
        shs_lambda: weight of the forget images' cross-entropy
        last_blocks: blocks before the classifier that are reset and projected with it; by default half

    Raises ValueError for more blocks than there are, FloatingPointError if it diverges.

    Departures: published code chooses layers by names, and resets the batch norm that is not called bn; it
    adds 1e-3 to |g_o|^2, so that small gradients are not projected all the way; where forget has more batches
    than retain, the rest of it is not seen, here too. One g_o is kept, the source's default.
    """
    student = copy_of(model)
    size = batch_size_for((data.forget, data.retain), batch_size)
    order, moves, dropout = (
        data.generator("Scissorhands", purpose) for purpose in ("order", "augmentation", "dropout")
    )
    forget, retain = data.forget.to(data.device), data.retain.to(data.device)

    def as_they_are() -> Iterator[Batch]:
        return forget.batches(size, generator=order, device=data.device)

    last = names_in(student, blocks_of(student, data)[-1 - last_blocks :])
    marked = most_sensitive(student, itertools.islice(as_they_are(), prune_batches), 1 - sparsity)
    resettable = last - names_of_scales(student)
    chosen = {name: mask for name, mask in marked.items() if name in resettable}
    reset_entries(student, chosen, as_new_layers(data.generator("Scissorhands", "reset")))

    optimizer, history = sgd(student, unlearn_lr, momentum, weight_decay), []
    single = min(size, len(forget), len(retain)) == 1
    for epoch in data.progress(range(unlearn_epochs), "Scissorhands"):
        x, y = next(as_they_are())
        away = {name: -g for name, g in batch_gradient(student, x, y).items() if name in last}
        losses = []
        pairs = itertools.zip_longest(
            data.training_batches(retain, size, order, moves),
            itertools.islice(data.training_batches(forget, size, order, moves), -(-len(retain) // size)),
        )
        with train_mode(student, dropout, data.device, single_images=single):
            for of_retain, of_forget in pairs:
                losses.append(step(student, of_retain, of_forget, shs_lambda, away, optimizer))
        history.append({"retain_loss": torch.stack(losses).mean().item()})
        check_finite(student, history[-1], f"Scissorhands diverged in epoch {epoch + 1}")
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    counts = {"marked": _count(marked.values()), "reset": _count(chosen.values())}
    return Unlearned(student, history=history, facts=dict(counts))


def most_sensitive(model: nn.Module, batches: Iterable[Batch], density: float) -> Tensors:
    """Mark the `density` of all weights with the largest s, in eval mode, by the parameters' names."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in batches:
        for name, gradient in batch_gradient(model, x, y).items():
            total[name] += gradient.abs()
    scores = [(p.detach() * total[name]).abs() for name, p in model.named_parameters()]
    return dict(zip(total, most_salient(scores, density), strict=True))


def step(
    student: nn.Module,
    of_retain: Batch,
    of_forget: Batch | None,
    shs_lambda: float,
    away: Tensors,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """Take a step; return the retain loss. Without a forget batch it is one of CE_r alone."""
    x, y = of_retain
    retain_loss = F.cross_entropy(student(x), y)
    loss = retain_loss
    if of_forget is not None:
        x, y = of_forget
        loss = retain_loss - shs_lambda * F.cross_entropy(student(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if of_forget is not None:
        gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
        project({name: gradients[name] for name in away if name in gradients}, away)
    optimizer.step()
    return retain_loss.detach()


def project(gradients: Tensors, away: Tensors) -> None:
    """Set g to g + v g_o in place, over all tensors together, where <g, g_o> < 0."""
    products = [(g.double() * away[name].double()).sum() for name, g in gradients.items()]
    squares = [away[name].double().square().sum() for name in gradients]
    conflict, square = torch.stack(products).sum(), torch.stack(squares).sum()
    # By `where` and not by an if, for which a GPU would have to wait.
    way = (-conflict / torch.where(square > 0, square, 1.0)).clamp(min=LEAST_WAY)
    v = torch.where(conflict < 0, way, 0.0)
    for name, gradient in gradients.items():
        gradient.add_(v.to(gradient) * away[name])


def names_in(model: nn.Module, blocks: Iterable[Collection[str]]) -> set[str]:
    """Return the names of the parameters of these blocks."""
    units = tuple(f"{unit}." for unit in itertools.chain(*blocks))
    return {name for name, _ in model.named_parameters() if name.startswith(units)}


def names_of_scales(model: nn.Module) -> set[str]:
    """Return the names of the parameters of normalisation layers, and of vectors that are no bias.

    A new layer's biases are 0; as a factor of a feature, 0 would cut it off.
    """
    return {
        f"{layer}.{name}".lstrip(".")
        for layer, module in model.named_modules()
        for name, p in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or (p.ndim < 2 and not name.endswith("bias"))
    }


def _count(masks: Iterable[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)
