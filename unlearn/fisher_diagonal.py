"""The diagonal of the Fisher information: from one backward pass over a batch where the layers allow it, else image by image."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import Progress, silent
from unlearn.fisher_information import AT_ONCE, NUMBERS, Tensors, image_gradients
from vision_data import ImageSet

Answers = Sequence[tuple[Tensor, Tensor]]  # labels (N,) and weights (N,), once for each label that an image may have
TOLERANCE = 1e-3  # of the two ways' agreement, relative to the largest entry of a tensor


def fisher_diagonal(
    model: nn.Module,
    images: ImageSet,
    device: torch.device,
    *,
    labels: Literal["true", "model"],
    progress: Progress = silent,
    label: str = "Fisher information",
) -> Tensors:
    """The diagonal of the Fisher information, each entry the mean of a squared derivative over single images, in eval mode.

    true     F = mean_x (d log p(y_x | x) / d theta)^2                          y_x the image's label
    model    F = mean_x sum_y p(y | x) (d log p(y | x) / d theta)^2             exact: no label is drawn
    """
    images = images.to(device)
    squares = SquaredGradients(model, next(images.batches(2, device=device))[0])
    size = min(AT_ONCE, max(1, NUMBERS // squares.numbers_an_image))
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in progress(images.batches(size, device=device), label, math.ceil(len(images) / size)):
        answers = functools.partial(_true_labels, y) if labels == "true" else _every_label
        for name, summed in squares(x, answers).items():
            total[name] += summed / len(images)
    return total


def _true_labels(labels: Tensor, logits: Tensor) -> Answers:
    return [(labels, torch.ones_like(logits[:, 0]))]


def _every_label(logits: Tensor) -> Answers:
    classes = logits.shape[1]
    return [
        (torch.full((len(logits),), c, device=logits.device), p) for c, p in zip(range(classes), logits.softmax(1).unbind(1), strict=True)
    ]


class SquaredGradients:
    """sum_i w_i (dL_i / dtheta)^2 over the images i of a batch, L_i the cross-entropy of image i; the model has to be in eval mode.

    Where every weight is of a linear layer, a convolution or a batch norm that runs once, it follows from the layer's inputs h
    and the loss's derivatives delta by its outputs, without a gradient for each image and weight at once:

        linear       sum_i w_i (delta_i h_i')^2 = (w delta^2)' h^2            the bias: sum_i w_i delta_i^2
        convolution  sum_i w_i (delta_i patches(h_i)')^2                      patches: a column for each place of the kernel
        batch norm   sum_i w_i (sum over places of delta_i standardised h_i)^2

    Both ways are taken on `some_images` first, and the second on all where the first differs: a model of other layers, or
    one whose weights have more to do than their layer shows.
    """

    def __init__(self, model: nn.Module, some_images: Tensor) -> None:
        self.model = model
        self.by_layers = _is_of_known_layers(model) and self._agree(some_images)

    @property
    def numbers_an_image(self) -> int:
        """How many entries of an image's gradient are held at once: of all weights, or of the largest layer's alone."""
        sizes = [p.numel() for p in self.model.parameters()]
        return max(sizes) if self.by_layers else sum(sizes)

    def __call__(self, x: Tensor, answers: Callable[[Tensor], Answers]) -> Tensors:
        """The sums by parameter, over all answers; `answers` gets the logits (N, C)."""
        return self._from_layers(x, answers) if self.by_layers else self._one_by_one(x, answers)

    def _one_by_one(self, x: Tensor, answers: Callable[[Tensor], Answers]) -> Tensors:
        with torch.no_grad():
            logits: Tensor = self.model(x)
        total = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        for labels, weights in answers(logits):
            for name, gradient in image_gradients(self.model, x, labels).items():
                total[name] += torch.tensordot(weights, gradient.square(), dims=1)
        return total

    def _from_layers(self, x: Tensor, answers: Callable[[Tensor], Answers]) -> Tensors:
        with _calls(self.model) as calls:
            logits: Tensor = self.model(x)
        outputs = [output for _, output in calls.values()]
        total = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        layers = [(name, self.model.get_submodule(name)) for name in calls]
        with torch.no_grad():
            prepared = [PREPARED[type(layer)](layer, calls[name][0]) for name, layer in layers]
        for labels, weights in answers(logits.detach()):
            loss = F.cross_entropy(logits, labels, reduction="sum")
            deltas = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
            for (name, layer), inputs, delta in zip(layers, prepared, deltas, strict=True):
                for own, squares in SQUARES[type(layer)](layer, inputs, delta, weights).items():
                    total[f"{name}.{own}".lstrip(".")] += squares
        return total

    def _agree(self, x: Tensor) -> bool:
        def unlikely(logits: Tensor) -> Answers:
            return [(logits.argmin(1), torch.ones_like(logits[:, 0]))]  # a loss that is not nearly 0

        try:
            found = self._from_layers(x, unlikely)
        except LookupError:
            return False
        expected = self._one_by_one(x, unlikely)
        return all((found[name] - value).abs().max() <= TOLERANCE * value.abs().max() for name, value in expected.items())


def _linear(layer: nn.Module, squared_inputs: Tensor, delta: Tensor, weights: Tensor) -> Tensors:
    weighted = delta.square() * weights[:, None]
    own = {"weight": lambda: weighted.T @ squared_inputs, "bias": lambda: weighted.sum(0)}
    return {name: own[name]() for name, _ in layer.named_parameters()}


def _convolution(layer: nn.Module, patches: Tensor, delta: Tensor, weights: Tensor) -> Tensors:
    places = delta.flatten(2)

    def kernel() -> Tensor:
        return torch.tensordot(weights, (places @ patches.transpose(1, 2)).square_(), dims=1).view_as(layer.get_parameter("weight"))

    own = {"weight": kernel, "bias": lambda: torch.tensordot(weights, places.sum(2).square(), dims=1)}
    return {name: own[name]() for name, _ in layer.named_parameters()}


def _batch_norm(layer: nn.Module, standard: Tensor, delta: Tensor, weights: Tensor) -> Tensors:
    per_image = {"weight": delta * standard, "bias": delta}
    sums = {name: value.flatten(2).sum(2) if value.ndim > 2 else value for name, value in per_image.items()}
    return {name: torch.tensordot(weights, sums[name].square(), dims=1) for name, _ in layer.named_parameters()}


def _patches(layer: nn.Module, h: Tensor) -> Tensor:
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):  # `_is_simple` has looked
        raise TypeError(f"expected a Conv2d with numbers for its padding, got {layer}")
    return F.unfold(h, layer.kernel_size, layer.dilation, layer.padding, layer.stride)


def _standardised(layer: nn.Module, h: Tensor) -> Tensor:
    mean, variance = (layer.get_buffer(name).view(1, -1, *(1,) * (h.ndim - 2)) for name in ("running_mean", "running_var"))
    return (h - mean) / (variance + float(layer.eps)).sqrt()  # type: ignore[arg-type]


SQUARES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor, Tensor], Tensors]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}
PREPARED: dict[type[nn.Module], Callable[[nn.Module, Tensor], Tensor]] = {
    nn.Linear: lambda _, h: h.square(),
    nn.Conv2d: _patches,
    nn.BatchNorm1d: _standardised,
    nn.BatchNorm2d: _standardised,
}


def _is_of_known_layers(model: nn.Module) -> bool:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    layers = [layer for _, layer in _with_weights(model)]
    plain = all(type(layer) in SQUARES and not layer._forward_hooks and not layer._forward_pre_hooks for layer in layers)
    return plain and len(names) == len(dict(model.named_parameters())) and all(map(_is_simple, layers))


def _is_simple(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return not isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) or layer.running_mean is not None


def _with_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None)


@contextmanager
def _calls(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Input and output of each layer with weights that runs meanwhile. LookupError for one that runs twice, or on rows of vectors."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if name in seen or (isinstance(layer, nn.Linear) and inputs[0].ndim != 2):
            raise LookupError(name)
        seen[name] = inputs[0].detach(), output
        return output.clone()  # what follows may write into it

    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: remember(name, layer, inputs, output))
        for name, layer in _with_weights(model)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
