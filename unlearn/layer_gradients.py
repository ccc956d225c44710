"""Gradients of single images, from one backward pass over a batch if the layers allow it.

By one layer's weights an image's gradient is an outer product, or short enough to be written out. With the
layer's inputs h_i and the loss's derivatives delta_i by its outputs it is

    linear       delta_i (h_i, 1)'
    convolution  sum over places of delta_i patches(h_i)'      patches: a column for each place of the kernel
    batch norm   sum over places of delta_i standardised h_i
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from lethe.unlearn.fisher_information import ImageLoss, Tensors, image_gradients, summed_cross_entropy

Call = tuple[Tensor, GradientEdge]  # a layer's inputs, and the edge for the derivatives by its outputs
Answers = Sequence[tuple[Tensor, Tensor]]  # labels (N,) and weights (N,), for each label of an image
Entrywise = Callable[[Tensor], Tensor]  # the square or the size of each entry: of a product, their product
TOLERANCE = 1e-3  # between the two ways, relative to a tensor's largest entry
IN_CACHE = 2**17  # numbers
WHOLE = "*"  # in place of a layer: all weights of the model, image by image


class Factors(NamedTuple):
    """The gradients of N images by one layer's weights: of image i the matrix outputs_i inputs_i' (b, a)."""

    inputs: Tensor  # (N, a)
    outputs: Tensor  # (N, b)

    @classmethod
    def joined(cls, parts: Sequence[Factors]) -> Factors:
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def images(self, some: slice) -> Factors:
        return Factors(self.inputs[some], self.outputs[some])

    def written_out(self) -> Factors:
        return self

    def sum_of(self, of: Entrywise, weights: Tensor) -> Tensor:
        """Return the sum over images of weights_i times `of` the gradient, (b, a); of: square or abs."""
        return (of(self.outputs) * weights[:, None]).T @ of(self.inputs)

    def products(self, other: Factors) -> Tensor:
        """Return the inner product (N, M) of each of these gradients with each of the others."""
        return (self.inputs @ other.inputs.T).mul_(self.outputs @ other.outputs.T)

    def along(self, direction: Tensor) -> Tensor:
        """Return the inner product (N,) of each gradient with one direction (b, a)."""
        return ((self.outputs @ direction) * self.inputs).sum(1)


class Places(NamedTuple):
    """The gradients of N images by a convolution's weights, not yet summed over the places of its output."""

    outputs: Tensor  # (N, channels, places): the loss's derivatives
    patches: Tensor  # (N, inputs of a place, places)
    bias: bool

    def written_out(self) -> Factors:
        kernel = (self.outputs @ self.patches.transpose(1, 2)).flatten(1)
        return _rows(torch.cat([kernel, self.outputs.sum(2)], 1) if self.bias else kernel)

    def sum_of(self, of: Entrywise, weights: Tensor) -> Tensor:
        """Return as `Factors.sum_of`, by as many images at once as fit a processor's cache."""
        numbers = self.outputs.shape[1] * self.patches.shape[1]
        few = max(1, IN_CACHE // numbers) if weights.is_cpu else len(weights)
        parts = zip(self.outputs.split(few), self.patches.split(few), weights.split(few), strict=True)
        return torch.stack(
            [Places(outputs, patches, self.bias).written_out().sum_of(of, w) for outputs, patches, w in parts]
        ).sum(0)


Gradients = Factors | Places


class ImageGradients:
    """The gradients of single images' losses, layer by layer; the model has to be in eval mode.

    loss: of logits and labels, a sum over the images.

    If every weight is of a linear layer, a convolution or a batch norm that runs once, they are computed by
    layers, without a gradient for each image and weight of a linear layer. If both ways differ on
    `some_images`, as for a weight with another use, they are computed image by image.
    """

    def __init__(self, model: nn.Module, some_images: Tensor, loss: ImageLoss = summed_cross_entropy) -> None:
        self.model, self.loss = model, loss
        self.by_layers = _is_of_known_layers(model) and self._agree(some_images)

    def numbers_an_image(self, some_images: Tensor) -> int:
        """Return about how many numbers an image needs in memory: its factors and their inputs."""
        if not self.by_layers:
            return sum(p.numel() for p in self.model.parameters())
        _, calls = self._forward(some_images)
        tensors = [OF_LAYER[type(layer)].prepare(layer, h) for layer, h in self._layers(calls)]
        labels = torch.zeros(len(some_images), dtype=torch.int64, device=some_images.device)
        for factors in self.of_labels(some_images, labels).values():
            tensors += factors
        return sum(tensor.numel() for tensor in tensors) // len(some_images)

    def of_labels(self, x: Tensor, labels: Tensor) -> dict[str, Factors]:
        """Return the factors of the gradients by layer, for one label per image."""
        _, gradients = next(self.of(x, lambda logits: [(labels, torch.ones_like(logits[:, 0]))]))
        return {layer: own.written_out() for layer, own in gradients.items()}

    def of(
        self, x: Tensor, answers: Callable[[Tensor], Answers]
    ) -> Iterator[tuple[Tensor, dict[str, Gradients]]]:
        """Yield the weights (N,) and the gradients by layer of each of `answers(logits)`, logits (N, C)."""
        return self._from_layers(x, answers) if self.by_layers else self._one_by_one(x, answers)

    def unpacked(self, layer: str, matrix: Tensor) -> Tensors:
        """Return a layer's matrix (b, a) as tensors by the parameters' names, in their shapes."""
        if layer == WHOLE:
            named = dict(self.model.named_parameters())
        else:
            module = self.model.get_submodule(layer)
            named = {f"{layer}.{name}".lstrip("."): p for name, p in module.named_parameters()}
            if isinstance(module, nn.Linear):
                return {
                    name: matrix[:, : p.shape[1]] if p.ndim > 1 else matrix[:, -1]
                    for name, p in named.items()
                }
        pieces = matrix.flatten().split([p.numel() for p in named.values()])
        return {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces, strict=True)}

    def packed(self, layer: str, tensors: Tensors) -> Tensor:
        """Return the inverse of `unpacked`, from tensors of all parameters."""
        if layer == WHOLE:
            return torch.cat([tensors[name].flatten() for name, _ in self.model.named_parameters()])[None]
        module = self.model.get_submodule(layer)
        own = [tensors[f"{layer}.{name}".lstrip(".")] for name, _ in module.named_parameters()]
        if isinstance(module, nn.Linear):
            return torch.cat([t.view(module.out_features, -1) for t in own], 1)
        return torch.cat([t.flatten() for t in own])[None]

    def _one_by_one(
        self, x: Tensor, answers: Callable[[Tensor], Answers]
    ) -> Iterator[tuple[Tensor, dict[str, Gradients]]]:
        with torch.no_grad():
            logits: Tensor = self.model(x)
        for labels, weights in answers(logits):
            gradients = image_gradients(self.model, x, labels, self.loss).values()
            yield weights, {WHOLE: _rows(torch.cat([each.flatten(1) for each in gradients], 1))}

    def _from_layers(
        self, x: Tensor, answers: Callable[[Tensor], Answers]
    ) -> Iterator[tuple[Tensor, dict[str, Gradients]]]:
        logits, calls = self._forward(x)
        layers = list(self._layers(calls))
        edges = [edge for _, edge in calls.values()]
        with torch.no_grad():
            prepared = [OF_LAYER[type(layer)].prepare(layer, h) for layer, h in layers]
        for labels, weights in answers(logits.detach()):
            loss = self.loss(logits, labels)
            deltas = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
            found = {}
            for name, (layer, _), h, delta in zip(calls, layers, prepared, deltas, strict=True):
                if delta is not None:
                    found[name] = OF_LAYER[type(layer)].gradients(layer, h, delta)
            yield weights, found

    def _forward(self, x: Tensor) -> tuple[Tensor, dict[str, Call]]:
        with _calls(self.model, len(x)) as calls:
            return self.model(x), calls

    def _layers(self, calls: dict[str, Call]) -> Iterator[tuple[nn.Module, Tensor]]:
        return ((self.model.get_submodule(name), h) for name, (h, _) in calls.items())

    def _agree(self, x: Tensor) -> bool:
        def unlikely(logits: Tensor) -> Answers:
            return [(logits.argmin(1), torch.ones_like(logits[:, 0]))]  # a loss that is not nearly 0

        zeros = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}

        def squares(way: Iterator[tuple[Tensor, dict[str, Gradients]]]) -> Tensors:
            weights, factors = next(way)
            unpacked = [
                self.unpacked(layer, own.sum_of(torch.square, weights)) for layer, own in factors.items()
            ]
            return {name: t for own in [zeros, *unpacked] for name, t in own.items()}

        try:
            found = squares(self._from_layers(x, unlikely))
        except LookupError:
            return False
        expected = squares(self._one_by_one(x, unlikely))
        return all(
            (found[name] - value).abs().max() <= TOLERANCE * value.abs().max()
            for name, value in expected.items()
        )


def _rows(rows: Tensor) -> Factors:
    return Factors(rows, torch.ones_like(rows[:, :1]))


class OfLayer(NamedTuple):
    """The gradients by a type of layer, from its prepared inputs and the derivatives by its outputs."""

    prepare: Callable[[nn.Module, Tensor], Tensor]
    gradients: Callable[[nn.Module, Tensor, Tensor], Gradients]


def _with_ones(layer: nn.Module, h: Tensor) -> Tensor:
    return h if layer.bias is None else torch.cat([h, torch.ones_like(h[:, :1])], 1)


def _as_it_is(_: nn.Module, h: Tensor) -> Tensor:
    return h


def patches_of(layer: nn.Module, h: Tensor) -> Tensor:
    """Return a convolution's patches (N, channels x height x width of the kernel, places), as `F.unfold`."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):  # `_is_simple` has looked
        raise TypeError(f"expected a Conv2d with numbers for its padding, got {layer}")
    if layer.dilation != (1, 1):
        return F.unfold(h, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    height, width = layer.padding
    windows = F.pad(h, (width, width, height, height))
    for dimension in (2, 3):
        windows = windows.unfold(dimension, layer.kernel_size[dimension - 2], layer.stride[dimension - 2])
    places = windows.shape[2] * windows.shape[3]
    return windows.permute(0, 1, 4, 5, 2, 3).reshape(len(h), -1, places)


def _batch_norm(layer: nn.Module, h: Tensor, delta: Tensor) -> Factors:
    mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    of_bias, of_product = (t.flatten(2).sum(2) if t.ndim > 2 else t for t in (delta, delta * h))
    of_weight = (of_product - mean * of_bias) / (variance + float(layer.eps)).sqrt()  # type: ignore[arg-type]
    own = {"weight": of_weight, "bias": of_bias}
    return _rows(torch.cat([own[name] for name, _ in layer.named_parameters()], 1))


OF_LAYER: dict[type[nn.Module], OfLayer] = {
    nn.Linear: OfLayer(_with_ones, lambda _, h, delta: Factors(h, delta)),
    nn.Conv2d: OfLayer(
        patches_of, lambda layer, patches, delta: Places(delta.flatten(2), patches, layer.bias is not None)
    ),
    nn.BatchNorm1d: OfLayer(_as_it_is, _batch_norm),
    nn.BatchNorm2d: OfLayer(_as_it_is, _batch_norm),
}


def _is_of_known_layers(model: nn.Module) -> bool:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    shared = len(names) != len(dict(model.named_parameters()))
    return not shared and all(_is_simple(layer) for _, layer in _with_weights(model))


def _is_simple(layer: nn.Module) -> bool:
    if type(layer) not in OF_LAYER or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return not isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) or layer.running_mean is not None


def _with_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (
        (name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None
    )


@contextmanager
def _calls(model: nn.Module, images: int) -> Iterator[dict[str, Call]]:
    """Record the call of each layer with weights within the with block.

    Raises LookupError for a layer that runs twice, on rows of vectors, on another number of rows than images,
    or without a gradient.
    """
    seen: dict[str, Call] = {}

    def remember(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows_of_vectors = isinstance(layer, nn.Linear) and inputs[0].ndim != 2
        if name in seen or rows_of_vectors or len(inputs[0]) != images or not output.requires_grad:
            raise LookupError(name)
        seen[name] = (inputs[0].detach(), get_gradient_edge(output))  # later layers may change the output

    hooks = [(layer, partial(remember, name)) for name, layer in _with_weights(model)]
    handles = [layer.register_forward_hook(hook) for layer, hook in hooks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
