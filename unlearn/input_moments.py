"""The inputs of each linear layer and convolution, and their second moments, over a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.models import evaluating
from lethe.unlearn.fisher_information import Tensors
from lethe.unlearn.impl import ForgetData
from lethe.unlearn.layer_gradients import patches_of

AT_ONCE = 64  # images: their patches have to fit in memory


def layers_of(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the linear layers and convolutions by name. Raises ValueError for a convolution in groups, or
    one whose padding is a word or no zeros: its weights see no rows of patches.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    for name, layer in found.items():
        if isinstance(layer, nn.Conv2d) and not _sees_patches(layer):
            raise ValueError(
                f"expected convolutions without groups, padded by a number of zeros, got {name!r}: {layer}. "
                "Use another method, or another architecture"
            )
    return found


def input_moments(model: nn.Module, images: ImageSet, data: ForgetData) -> Tensors:
    """Return the sum of h h' (a, a) of each layer's inputs h, in double precision, by the layer's name.

    h (a): a row that a linear layer gets, or a patch of inputs x kernel height x kernel width numbers, in the
    order of the convolution's flattened weight. The model is in eval mode. A layer that does not run is left
    out. Raises ValueError as `layers_of`.
    """
    total: Tensors = {}
    for name, h in _inputs_of(model, images, data):
        rows = h.flatten(0, 1).double()
        moment = rows.T @ rows
        total[name] = total[name] + moment if name in total else moment
    return total


def drawn_inputs(
    model: nn.Module, images: ImageSet, data: ForgetData, *purpose: str, places: int
) -> dict[str, Tensor]:
    """Return about `places` inputs h (m, a) of each layer, as many of each image, by the layer's name.

    They are drawn by the seed for this `purpose`; all of a layer with fewer. h, and the rest, is as in
    `input_moments`.
    """
    of_image = max(1, places // len(images))
    draws = cache(lambda: data.generator(*purpose))  # no stream where every input counts
    found: dict[str, list[Tensor]] = {}
    for name, h in _inputs_of(model, images, data):
        found.setdefault(name, []).append(_drawn(h, of_image, draws))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _inputs_of(model: nn.Module, images: ImageSet, data: ForgetData) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's name with its inputs (N, places, a) of some images, until all images are seen."""
    images = images.to(data.device)
    with evaluating(model), torch.no_grad():
        for x, _ in images.batches(AT_ONCE, device=data.device):
            with _inputs(model) as seen:
                model(x)
            yield from seen


@contextmanager
def _inputs(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the layers' names and inputs (N, places, a) within the with block."""
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        h = inputs[0].detach()
        if isinstance(layer, nn.Conv2d):
            seen.append((name, patches_of(layer, h).transpose(1, 2)))
        else:
            seen.append((name, h.reshape(len(h), -1, h.shape[-1])))

    hooks = [(layer, partial(note, name)) for name, layer in layers_of(model).items()]
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in hooks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _drawn(h: Tensor, count: int, draws: Callable[[], torch.Generator]) -> Tensor:
    """Return `count` random rows of each of the N matrices of h (N, places, a), one below the other."""
    places = h.shape[1]
    if count >= places:
        return h.flatten(0, 1)
    order = torch.rand(len(h), places, generator=draws()).argsort(1)[:, :count].to(h.device)
    return h.gather(1, order[:, :, None].expand(-1, -1, h.shape[2])).flatten(0, 1)


def _sees_patches(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
