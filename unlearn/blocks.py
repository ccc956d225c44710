"""The classifier of a model and its blocks in forward order, for methods that train the last k blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lethe.models import evaluating, linear_layers
from lethe.unlearn.impl import ForgetData

Block = tuple[str, ...]  # names of modules


def classifier_of(model: nn.Module, data: ForgetData) -> str:
    """Return the name of the last linear layer in forward order, which computes the logits.

    Raises ValueError for a model without one, and for a model that changes the layer's outputs.
    """
    images = data.some_images
    inputs = linear_layers(model, images)
    name = next(reversed(inputs), None)
    with evaluating(model), torch.no_grad():
        logits = model(images)
        made = None if name is None else model.get_submodule(name)(inputs[name])
    if name is None or made is None or made.shape != logits.shape or not torch.allclose(made, logits):
        found = "no linear layer"
        if made is not None:
            found = f"{name!r} with {made.shape[1]} outputs, and something after it"
        raise ValueError(
            f"expected a model whose last linear layer gives its {logits.shape[1]} logits, got {found}. Use "
            "a model that ends in one"
        )
    return name


def blocks_of(model: nn.Module, data: ForgetData) -> list[Block]:
    """Return the blocks in forward order; the last is the classifier with everything after it.

    A block is a module with a forward pass of its own (torchvision's BasicBlock), or in a chain of layers one
    with a weight of two or more dimensions (linear, convolution) and the layers up to the next such one
    (batch norm, activation). The search enters only Sequential and ModuleList, the parents of the classifier,
    and modules with a row of blocks of one class. mlp and any Sequential: a block per linear layer or
    convolution; resnet18: the stem, then 8 BasicBlocks.

    Raises ValueError for a block with weights that runs more than once.
    """
    classifier = classifier_of(model, data)
    blocks: list[list[str]] = []
    for name in _in_forward_order(model, list(_units(model, "", classifier)), data.some_images):
        unit = model.get_submodule(name)
        if blocks and (blocks[-1][0] == classifier or not _opens_a_block(unit)):
            blocks[-1].append(name)
        elif _opens_a_block(unit):
            blocks.append([name])
    return [tuple(block) for block in blocks]


def redraw_of(module: nn.Module) -> Callable[[], None] | None:
    """Return the method that draws a module's own weights anew, None without one."""
    public: Callable[[], None] | None = getattr(module, "reset_parameters", None)
    return public or getattr(module, "_reset_parameters", None)  # the latter: torch's attention layers


def _units(module: nn.Module, prefix: str, classifier: str) -> Iterator[str]:
    for child, unit in module.named_children():
        name = f"{prefix}{child}"
        if _is_chain(unit) or classifier.startswith(f"{name}.") or _holds_a_row(unit):
            yield from _units(unit, f"{name}.", classifier)
        else:
            yield name


def _is_chain(unit: nn.Module) -> bool:
    """Return whether the unit only holds modules in a row and has no forward pass of its own."""
    plain = isinstance(unit, nn.Sequential) and type(unit).forward is nn.Sequential.forward
    return plain or isinstance(unit, nn.ModuleList)


def _holds_a_row(unit: nn.Module) -> bool:
    """Return whether a chain in the unit has two blocks of one class, as an encoder has."""
    for chain in filter(_is_chain, unit.children()):
        items = [item for item in chain.children() if list(item.children()) and not _is_chain(item)]
        if len(items) > len(set(map(type, items))):
            return True
    return False


def _opens_a_block(unit: nn.Module) -> bool:
    parameters = list(unit.parameters())
    return any(p.ndim > 1 for p in parameters) or bool(parameters and list(unit.children()))


def _in_forward_order(model: nn.Module, names: list[str], images: Tensor) -> list[str]:
    seen: list[str] = []
    handles = []
    for name in names:
        unit = model.get_submodule(name)
        handles.append(unit.register_forward_pre_hook(lambda *_, name=name: seen.append(name)))
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    repeated = [name for name in seen if seen.count(name) > 1]
    again = [name for name in repeated if list(model.get_submodule(name).parameters())]
    if again:
        raise ValueError(
            f"expected a model whose blocks run one after the other, got one that runs {again[0]!r} twice. "
            "Use another model"
        )
    return list(dict.fromkeys(seen))
