"""The classifier of a model, and the blocks before it in forward order: what "the last k blocks" means."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from models import evaluating, linear_layers
from unlearn.impl import ForgetData

Block = tuple[str, ...]  # names of modules


def classifier_of(model: nn.Module, data: ForgetData) -> str:
    """The name of the linear layer that gives the logits: the last one in forward order.

    Raises ValueError for a model without one, and for one that does something to its outputs.
    """
    images = _few(data)
    inputs = linear_layers(model, images)
    name = next(reversed(inputs), None)
    with evaluating(model), torch.no_grad():
        logits = model(images)
        made = None if name is None else model.get_submodule(name)(inputs[name])
    if name is None or made is None or made.shape != logits.shape or not torch.allclose(made, logits):
        found = (
            f"{name!r} with {made.shape[1]} outputs, and something after it"
            if made is not None
            else "no linear layer"
        )
        raise ValueError(
            f"expected a model whose last linear layer gives its {logits.shape[1]} logits, got {found}. Use "
            "a model that ends in one"
        )
    return name


def blocks_of(model: nn.Module, data: ForgetData) -> list[Block]:
    """The blocks in the order in which they first run, and last the classifier with what comes after it.

    A block is a module with a forward pass of its own (torchvision's BasicBlock), or in a chain of layers one
    that has a weight of two dimensions or more (linear, convolution) with the layers after it up to the next
    such one (batch norm, activation). Looked into are only Sequential and ModuleList, what holds the
    classifier, and what holds a row of blocks of the same class.
    mlp and any Sequential: a block per linear layer or convolution; resnet18: the stem, then 8 BasicBlocks.

    Raises ValueError where the order can't be said: for a unit with weights that runs more than once.
    """
    classifier = classifier_of(model, data)
    blocks: list[list[str]] = []
    for name in _in_forward_order(model, list(_units(model, "", classifier)), _few(data)):
        unit = model.get_submodule(name)
        if blocks and (blocks[-1][0] == classifier or not _opens_a_block(unit)):
            blocks[-1].append(name)
        elif _opens_a_block(unit):
            blocks.append([name])
    return [tuple(block) for block in blocks]


def redraw_of(module: nn.Module) -> Callable[[], None] | None:
    """What draws a module's own weights anew; torch's attention layers have it under another name."""
    found: Callable[[], None] | None = getattr(module, "reset_parameters", None) or getattr(
        module, "_reset_parameters", None
    )
    return found


def _few(data: ForgetData) -> Tensor:
    return data.forget.normalisation(data.forget.images[:2].to(data.device))


def _units(module: nn.Module, prefix: str, classifier: str) -> Iterator[str]:
    for child, unit in module.named_children():
        name = f"{prefix}{child}"
        if _is_chain(unit) or classifier.startswith(f"{name}.") or _holds_a_row(unit):
            yield from _units(unit, f"{name}.", classifier)
        else:
            yield name


def _is_chain(unit: nn.Module) -> bool:
    """Whether it only holds modules in a row: one with a forward pass of its own is a block."""
    return isinstance(unit, nn.ModuleList) or (
        isinstance(unit, nn.Sequential) and type(unit).forward is nn.Sequential.forward
    )


def _holds_a_row(unit: nn.Module) -> bool:
    """Whether a chain in it has two blocks of the same class, as an encoder has."""
    chains = [child for child in unit.children() if _is_chain(child)]
    rows = [
        [
            type(item)
            for item in chain.children()
            if any(True for _ in item.children()) and not _is_chain(item)
        ]
        for chain in chains
    ]
    return any(len(row) > len(set(row)) for row in rows)


def _opens_a_block(unit: nn.Module) -> bool:
    parameters = list(unit.parameters())
    return bool(parameters) and (
        next(unit.children(), None) is not None or any(p.ndim > 1 for p in parameters)
    )


def _in_forward_order(model: nn.Module, names: list[str], images: Tensor) -> list[str]:
    seen: list[str] = []
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen.append(name)
        )
        for name in names
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    again = [
        name
        for name in seen
        if seen.count(name) > 1 and next(model.get_submodule(name).parameters(), None) is not None
    ]
    if again:
        raise ValueError(
            f"expected a model whose blocks run one after the other, got one that runs {again[0]!r} twice. "
            "Use another model"
        )
    return list(dict.fromkeys(seen))
