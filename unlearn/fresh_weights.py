"""Fresh weights: all layers of a model, or chosen entries, drawn anew by the seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lethe.system.device import CPU, restored_random_state
from lethe.unlearn.blocks import redraw_of

Draw = Callable[[Tensor], object]  # fills a tensor in place


def redrawn(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy on the CPU whose layers have drawn their weights anew by `reset_parameters`.

    It takes no generator: torch's own is seeded by a draw from `generator`, and restored.
    """
    fresh = copy.deepcopy(model).cpu()
    seed = int(torch.randint(2**62, (), generator=generator))
    with restored_random_state(CPU, seed):
        for module in fresh.modules():
            if (redraw := redraw_of(module)) is not None:
                redraw()
    return fresh


@torch.no_grad()
def reset_entries(model: nn.Module, chosen: Mapping[str, Tensor], draw: Draw) -> None:
    """Give the chosen entries of the named parameters fresh values; the others keep theirs, bit for bit.

    chosen: bool, in the shape of its parameter. draw: fills a whole tensor on the CPU, whatever is chosen.
    """
    for name, marked in chosen.items():
        weight = model.get_parameter(name)
        fresh = torch.empty(weight.shape, dtype=weight.dtype)
        draw(fresh)
        weight.copy_(torch.where(marked, fresh.to(weight.device), weight))


def as_new_layers(generator: torch.Generator) -> Draw:
    """Return a draw as new linear layers have, uniform in +-1 / sqrt(fan in); biases 0.

    Kaiming uniform with a = sqrt 5.
    """

    def draw(weight: Tensor) -> None:
        if weight.ndim < 2:
            weight.zero_()
        else:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)

    return draw
