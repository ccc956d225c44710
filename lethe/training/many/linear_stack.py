"""A stack of perceptrons: forward and backward passes as batched matrix products, without autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LinearStack:
    """K models flatten -> linear -> relu -> ... -> linear without biases; weights (K, outputs, inputs).

    With h_0 the images (K, N, inputs), h_l = max(h_(l-1) W_l', 0) and logits z = W_L h_(L-1)' (K, classes,
    N), the gradient of each model's mean cross-entropy is

        dz = (softmax(z) - onehot(y)) / N    dW_L = dz h_(L-1)    dh_(L-1) = dz' W_L
        dW_l = (dh_l 1[h_l > 0])' h_(l-1)    ...

    The logits have the classes before the images: on a CPU, a softmax along a short last dimension costs as
    much as a layer.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models
        self.names = [name for name, _ in models[0].named_parameters()]
        self.parameters = [
            torch.stack([model.get_parameter(name).detach() for model in models]) for name in self.names
        ]
        for parameter in self.parameters:
            parameter.grad = torch.empty_like(parameter)

    @staticmethod
    def takes(model: nn.Module) -> bool:
        """Return whether a model is exactly such a perceptron: no subclass, no hook, no frozen weight."""
        if type(model) is not nn.Sequential or any(
            part._forward_hooks or part._forward_pre_hooks for part in model.modules()
        ):
            return False
        kinds = [type(part) for part in model]
        depth = len(kinds) // 2
        if len(kinds) % 2 or kinds != [nn.Flatten, nn.Linear, *(depth - 1) * [nn.ReLU, nn.Linear]]:
            return False
        flatten, *others = model
        whole = isinstance(flatten, nn.Flatten) and (flatten.start_dim, flatten.end_dim) == (1, -1)
        return whole and all(
            part.bias is None and part.weight.requires_grad for part in others if isinstance(part, nn.Linear)
        )

    @torch.no_grad()
    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [x.flatten(2)]
        for weight in self.parameters[:-1]:
            inputs.append(torch.bmm(inputs[-1], weight.mT).relu_())
        logits = torch.bmm(self.parameters[-1], inputs[-1].mT)
        right = (logits.max(1).indices == y).sum(1)
        log_probabilities = logits.log_softmax(1)
        chosen = y.unsqueeze(1)
        losses = -log_probabilities.gather(1, chosen).mean((1, 2))
        gradient = log_probabilities.exp_()
        gradient.scatter_add_(1, chosen, gradient.new_full((1, 1, 1), -1.0).expand_as(chosen))
        self._backward((gradient / y.shape[1]).mT, inputs)
        return losses, right

    def _backward(self, gradient: Tensor, inputs: list[Tensor]) -> None:
        """Compute the weights' gradients from d loss / d logits (K, N, classes) and the layers' inputs."""
        for layer in reversed(range(len(self.parameters))):
            torch.bmm(gradient.mT, inputs[layer], out=self.parameters[layer].grad)
            if layer:
                gradient = torch.bmm(gradient, self.parameters[layer])
                gradient = torch.ops.aten.threshold_backward(gradient, inputs[layer], 0)

    @torch.no_grad()
    def write_back(self) -> None:
        for name, values in zip(self.names, self.parameters, strict=True):
            for model, value in zip(self.models, values, strict=True):
                model.get_parameter(name).copy_(value)
