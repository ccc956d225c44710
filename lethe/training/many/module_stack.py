"""A stack of modules of any one architecture: vmap applies each operation to all models at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class ModuleStack:
    """K modules with stacked parameters and buffers, (K, ...) each; gradients come from autograd."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models
        self.state = {
            name: _stacked([model.get_parameter(name) for model in models])
            for name, _ in models[0].named_parameters()
        }
        self.buffers = {
            name: _stacked([model.get_buffer(name) for model in models])
            for name, _ in models[0].named_buffers()
        }
        self.parameters: list[Tensor] = list(self.state.values())
        for name, parameter in self.state.items():
            parameter.requires_grad_(models[0].get_parameter(name).requires_grad)
        skeleton = copy.deepcopy(models[0]).to("meta")

        def logits(state: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            answer: Tensor = functional_call(skeleton, (state, buffers), (x,))
            return answer

        self._logits = torch.vmap(logits, randomness="different")

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._logits(self.state, self.buffers, x)
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
        for parameter in self.parameters:
            parameter.grad = None
        losses.sum().backward()
        return losses.detach(), (logits.detach().argmax(2) == y).sum(1)

    @torch.no_grad()
    def write_back(self) -> None:
        for number, model in enumerate(self.models):
            for name, values in self.state.items():
                model.get_parameter(name).copy_(values[number])
            for name, values in self.buffers.items():
                model.get_buffer(name).copy_(values[number])


def _stacked(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.detach() for value in values])
