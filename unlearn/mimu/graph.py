"""The masked layer as a graph: one vertex per weight, four features per vertex.

Weight (i, j) of W (m, n), z = W h: vertices are joined if they share a row (an output neuron) or a column (an
input neuron), the rook's graph of an m x n board. For an image (x, y) the features of (i, j) are h_j, a_i,
W_ij and g_ij = delta_i h_j with delta = dL/dz, each standardised over the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lethe.data import ImageSet
from lethe.models import MaskedLayer

Gradient = Literal["margin", "cross_entropy", "logit"]


@dataclass(frozen=True)
class Factors:
    """The factors of N images' features: h (N, n), a (N, m), delta (N, m), labels (N,).

    n + 2m floats an image, instead of the 4 m n features. images (N, C, H, W): normalised pixels, kept only
    for a model whose head needs them.
    """

    h: Tensor
    a: Tensor
    delta: Tensor
    labels: Tensor
    images: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Factors:
        images = None if self.images is None else self.images[rows]
        return Factors(self.h[rows], self.a[rows], self.delta[rows], self.labels[rows], images)

    def drawn(self, count: int, generator: torch.Generator) -> Factors:
        """Return `count` images, drawn by `generator` without repetition; all, if there are fewer."""
        if count >= len(self):
            return self
        return self[torch.randperm(len(self), generator=generator)[:count].to(self.labels.device)]


def factors_of(
    layer: MaskedLayer, images: ImageSet, gradient: Gradient, device: torch.device, batch_size: int = 1024
) -> Factors:
    """Return h, a and delta of every image: one pass through the model, one back through its head.

    a = relu(z) where the head begins with a relu (relu(z) gives the same logits as z), else z.

    delta_i = dL/dz_i per image. L is minus the margin (`margin`: its gradient does not vanish on confident
    predictions), the cross-entropy, or the true class's logit.
    """
    # Written batch by batch into the result: torch.cat would need the memory twice.
    whole: dict[str, Tensor] = {}
    start = 0
    for x, y in images.batches(batch_size, device=device):
        for name, values in vars(_batch_factors(layer, x, y, gradient)).items():
            if values is None:
                continue
            if name not in whole:
                whole[name] = values.new_empty(len(images), *values.shape[1:])
            whole[name][start : start + len(y)] = values
        start += len(y)
    return Factors(images=whole.pop("images", None), **whole)


def at_least_single(values: Tensor) -> Tensor:
    """Return half-precision values as float32, so that means and standardised features keep their digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _batch_factors(layer: MaskedLayer, x: Tensor, y: Tensor, gradient: Gradient) -> Factors:
    with torch.no_grad():
        h = layer.body(x)
        z = F.linear(h, layer.weight, layer.bias)
    z.requires_grad_(True)
    with torch.enable_grad():
        logits = layer.head(z, x)
        (delta,) = torch.autograd.grad(_objectives(logits, y, gradient).sum(), z)
    with torch.no_grad():
        activation = z.relu()
        is_cut_at_zero = layer.relu_follows or torch.equal(layer.head(activation, x), logits)
    a = activation if is_cut_at_zero else z.detach()
    h, a, delta = (at_least_single(values) for values in (h, a, delta))
    return Factors(h, a, delta, y, x if layer.needs_images else None)


def _objectives(logits: Tensor, labels: Tensor, gradient: Gradient) -> Tensor:
    if gradient == "cross_entropy":
        return F.cross_entropy(logits, labels, reduction="none")
    own = labels.unsqueeze(-1)
    true = logits.gather(-1, own).squeeze(-1)
    return true if gradient == "logit" else logits.scatter(-1, own, -torch.inf).logsumexp(-1) - true


@dataclass(frozen=True)
class Vertices:
    """Raw features of G graphs, means over images: h (G, n), a (G, m), weight (m, n), gradient (G, m, n)."""

    h: Tensor
    a: Tensor
    weight: Tensor
    gradient: Tensor

    def standardised(self) -> Tensor:
        """Return features (G, m, n, 4) of mean 0 and variance 1 over the layer; 0 for a constant feature."""
        graphs, m, n = self.gradient.shape
        h = _standardised(self.h, (1,))[:, None, :].expand(graphs, m, n)
        a = _standardised(self.a, (1,))[:, :, None].expand(graphs, m, n)
        weight = _standardised(at_least_single(self.weight), (0, 1)).expand(graphs, m, n)
        return torch.stack([h, a, weight, _standardised(self.gradient, (1, 2))], dim=-1)


def _standardised(values: Tensor, over: tuple[int, ...]) -> Tensor:
    centred = values - values.mean(over, keepdim=True)
    largest = centred.abs().amax(over, keepdim=True)
    rounding = 16 * torch.finfo(values.dtype).eps * values.abs().amax(over, keepdim=True)
    scaled = centred / torch.where(largest > rounding, largest, torch.inf)  # so that no square underflows
    deviation = scaled.square().mean(over, keepdim=True).sqrt()
    return scaled / torch.where(deviation > 0, deviation, 1.0)


def averaged(factors: Factors, groups: int, weight: Tensor) -> Vertices:
    """Return one graph for each of `groups` equal parts of the images, its features averaged over the part.

    The mean of the outer products delta h' is one matrix product a graph: no tensor has an entry per weight
    and image.
    """
    h, a, delta = (v.unflatten(0, (groups, -1)) for v in (factors.h, factors.a, factors.delta))
    return Vertices(h.mean(1), a.mean(1), weight, delta.transpose(1, 2) @ h / h.shape[1])


def averaged_by_class(factors: Factors, classes: tuple[int, ...], weight: Tensor) -> Vertices:
    """Return one graph per class, its features averaged over all images of that class."""
    graphs = [averaged(factors[factors.labels == label], 1, weight) for label in classes]
    h = torch.cat([graph.h for graph in graphs])
    a = torch.cat([graph.a for graph in graphs])
    return Vertices(h, a, weight, torch.cat([graph.gradient for graph in graphs]))


def drawn_by_class(
    labels: Tensor, classes: tuple[int, ...], count: int, generator: torch.Generator
) -> Tensor:
    """Return positions (classes, count) of images of each class, drawn by `generator` with repetition."""
    rows = []
    for label in classes:
        members = (labels == label).nonzero().squeeze(1)
        rows.append(members[torch.randint(len(members), (count,), generator=generator).to(members.device)])
    return torch.stack(rows)
