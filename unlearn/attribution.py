"""A datamodel by gradient attribution: the logits without some training images, to first order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from lethe.data import ImageSet
from lethe.models import evaluating
from lethe.unlearn.impl import ForgetData

NUMBERS = 2**26  # numbers of single images' gradients in memory at once


@dataclass(frozen=True)
class Sketch:
    """A random map from P parameters to k numbers: adds each parameter to one number, with a random sign.

    (S' g)_j = sum over i with bucket_i = j of sign_i g_i    E[S S'] = I
    """

    bucket: Tensor
    sign: Tensor
    size: int

    @classmethod
    def drawn(cls, parameters: int, size: int, generator: torch.Generator, device: torch.device) -> Sketch:
        bucket = torch.randint(size, (parameters,), generator=generator)
        sign = torch.randint(2, (parameters,), generator=generator).double() * 2 - 1
        return cls(bucket.to(device), sign.to(device), size)

    def down(self, rows: Tensor) -> Tensor:
        """(N, P) -> (N, k)."""
        return rows.new_zeros(len(rows), self.size).index_add_(1, self.bucket, rows * self.sign)

    def up(self, row: Tensor) -> Tensor:
        """(k,) -> (P,)."""
        return row[self.bucket] * self.sign


class Attribution:
    """Influence of training images on other images, from the gradients at the model's weights.

    With the margins m(x) = log p_y / (1 - p_y), the sketched gradients phi = S' grad m of the N training
    images, and q = 1 - p_y, the score of training image i for x is its influence on m(x), as in a logistic
    regression on these features:

        tau(x)_i = phi(x)' H^-1 phi_i q_i
        H = sum p_y (1 - p_y) phi phi' + c I    c = damping mean(p_y (1 - p_y) |phi|^2)

    so that without the images of a set F the output at x is lower by sum over F of tau(x). In the weights
    that is the shift

        delta = -S H^-1 sum over F of q_f phi_f    f(x) without F is about f(x) + grad f(x) . delta

    H^-1 is taken among images (Woodbury): N x N numbers.
    """

    def __init__(
        self, model: nn.Module, images: ImageSet, data: ForgetData, *, sketch_size: int, damping: float
    ) -> None:
        self.model, self.device = model, data.device
        self.parameters = {name: p.detach() for name, p in model.named_parameters()}
        count = sum(p.numel() for p in self.parameters.values())
        self.sketch = Sketch.drawn(count, sketch_size, data.generator("attribution", "sketch"), data.device)
        pieces = list(self._pieces(images))
        self.features = torch.cat(
            [self._features(x, y) for x, y in data.progress(pieces, "gradients of training images")]
        )
        self.residuals = torch.cat([self._residuals(x, y) for x, y in pieces])
        self.weighted = self.features * (self.residuals * (1 - self.residuals)).sqrt()[:, None]
        gram = self.weighted @ self.weighted.T
        self.ridge = damping * gram.diagonal().mean()
        self.damped = gram + self.ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)

    def shift(self, chosen: Tensor) -> dict[str, Tensor]:
        """Return the change of the weights if the `chosen` images, (N,) bool, are left out of training."""
        gradient = (self.residuals * chosen.to(self.device)) @ self.features
        delta = -self.sketch.up(self._solved(gradient[None])[0])
        parts = delta.split([p.numel() for p in self.parameters.values()])
        return {
            name: part.view_as(p).to(p)
            for (name, p), part in zip(self.parameters.items(), parts, strict=True)
        }

    def scores(self, images: ImageSet) -> Tensor:
        """Return tau (M, N): how much each of the N training images adds to the margins of M images."""
        features = torch.cat([self._features(x, y) for x, y in self._pieces(images)])
        return self._solved(features) @ self.features.T * self.residuals

    def _solved(self, rows: Tensor) -> Tensor:
        """Return H^-1 times each row, (M, k)."""
        inside = torch.linalg.solve(self.damped, self.weighted @ rows.T)
        return (rows - inside.T @ self.weighted) / self.ridge

    def _pieces(self, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, min(256, NUMBERS // sum(p.numel() for p in self.parameters.values())))
        return images.to(self.device).batches(size, device=self.device)

    def _features(self, x: Tensor, y: Tensor) -> Tensor:
        def margin(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(self.model, parameters, (image[None],))[0]
            others = logits.masked_fill(torch.arange(len(logits), device=logits.device) == label, -torch.inf)
            return logits.gather(0, label[None])[0] - others.logsumexp(0)

        with evaluating(self.model):
            rows = vmap(grad(margin), in_dims=(None, 0, 0))(self.parameters, x, y)
        return self.sketch.down(torch.cat([row.flatten(1) for row in rows.values()], 1).double())

    @torch.no_grad()
    def _residuals(self, x: Tensor, y: Tensor) -> Tensor:
        """Return 1 - p_y, exact also where p_y rounds to 1."""
        with evaluating(self.model):
            logits = self.model(x).double()
        others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
        return (others - logits.logsumexp(1)).exp()


class Shifted(nn.Module):
    """A model with the logits of shifted weights, to first order; its weights stay unchanged.

    logits(x) = f_theta(x) + grad f_theta(x) . shift    shift: a buffer of this module for each parameter
    """

    def __init__(self, model: nn.Module, shift: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.names = list(shift)
        for number, value in enumerate(shift.values()):
            self.register_buffer(f"shift{number}", value)

    def forward(self, x: Tensor) -> Tensor:
        parameters = dict(self.model.named_parameters())
        shift = {name: self.get_buffer(f"shift{number}") for number, name in enumerate(self.names)}

        def logits(values: dict[str, Tensor]) -> Any:
            return functional_call(self.model, values, (x,))

        answer, change = jvp(logits, (parameters,), (shift,))  # type: ignore[misc]  # three only with has_aux
        shifted: Tensor = answer + change
        return shifted
