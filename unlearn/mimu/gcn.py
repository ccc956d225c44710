"""The graph network that gives every weight of a layer a logit.

On a rook's graph the mean over the neighbours of vertex (i, j) is (row_sum_i + column_sum_j - 2 x_ij) /
(m + n - 2), so a round of message passing needs no edges. Equivalent row and column pooling: Hartford et al.
2018 (arXiv:1803.02879), NFN (Zhou et al. 2023, arXiv:2302.14040), DWSNets (Navon et al. 2023,
arXiv:2301.12780).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEATURES, WIDTH = 4, 32
Sums = tuple[Tensor, Tensor, Tensor]


class RookConv(nn.Module):
    """conv(x) = A mean_over_neighbours(x) + B x on the rook's graph; A and B are linear maps without a bias.

    x (..., m, n, d) -> (..., m, n, width), by

        conv(x) = x S + row_sums(x) R + column_sums(x) R        R = A / (m + n - 2), S = B - 2R

    A layer of one weight has no neighbours; their mean counts as 0.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.neighbours = nn.Linear(inputs, outputs, bias=False)
        self.itself = nn.Linear(inputs, outputs, bias=False)

    def maps(self, m: int, n: int) -> tuple[Tensor, Tensor]:
        """Return S and R, (d, width) each."""
        neighbours, others = self.neighbours.weight.T, max(m + n - 2, 1)
        return torch.add(self.itself.weight.T, neighbours, alpha=-2 / others), neighbours / others

    def forward(self, x: Tensor) -> Tensor:
        own, shared = self.maps(*x.shape[-3:-1])
        return x @ own + x.sum(-2, keepdim=True) @ shared + x.sum(-3, keepdim=True) @ shared


class MaskingGCN(nn.Module):
    """Three rounds, relu after the second and third, then one logit per weight.

    (..., m, n, 4) -> (..., m n). The first two rounds have no nonlinearity between them and are computed as
    one, with r_i and c_j the row and column sums of x and t its total:

        conv_2(conv_1(x)) = x S1 S2 + (r_i + c_j) (R1 S2 + S1 R2) + (n r_i + m c_j + 2 t) R1 R2
    """

    def __init__(self, features: int = FEATURES, width: int = WIDTH) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(
            [RookConv(features, width), RookConv(width, width), RookConv(width, width)]
        )
        self.logit = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.logit.weight.dtype)  # a float64 model has float64 features
        m, n = x.shape[-3:-1]
        (s1, r1), (s2, r2), (s3, r3) = (cast(RookConv, conv).maps(m, n) for conv in self.rounds)
        products = torch.cat([s1, r1]) @ torch.cat([s2, r2], 1)  # all four in one
        (ss, sr), (rs, rr) = (half.chunk(2, 1) for half in products.chunk(2))
        mixed = rs + sr
        x = _RookRound.apply(x, ss, torch.add(mixed, rr, alpha=n), torch.add(mixed, rr, alpha=m), 2 * rr)
        # A clone, since torch.compile refuses the same tensor twice.
        x = _RookRound.apply(x, s3, r3, r3.clone(), torch.zeros_like(s3))
        logits: Tensor = self.logit(x).flatten(-3)
        return logits


class _RookRound(torch.autograd.Function):
    """relu(x S + row_sums(x) P + column_sums(x) Q + total(x) T): x (..., m, n, d), S, P, Q, T (d, w).

    Its gradient, with G the incoming gradient where relu is positive, else 0:

        x:           G S' + row_sums(G) P' + column_sums(G) Q' + total(G) T'
        S, P, Q, T:  x' G, row_sums(x)' row_sums(G), column_sums(x)' column_sums(G), total(x)' total(G)

    Each result of a layer's size is allocated once: the products are added to it in place.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, own: Tensor, by_row: Tensor, by_column: Tensor, by_total: Tensor
    ) -> Tensor:
        sums = _sums(x)
        out = _mapped(x, sums, own, by_row, by_column, by_total).relu_()
        ctx.save_for_backward(x, *sums, own, by_row, by_column, by_total, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *of_x, own, by_row, by_column, by_total, out = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        of_gradient = _sums(gradient)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = _mapped(gradient, of_gradient, own.T, by_row.T, by_column.T, by_total.T)
        pairs = zip((x, *of_x), (gradient, *of_gradient), strict=True)
        return to_x, *(a.flatten(0, -2).T @ b.flatten(0, -2) for a, b in pairs)


def _sums(x: Tensor) -> Sums:
    """Return row sums (..., m, 1, d), column sums (..., 1, n, d) and totals (..., 1, 1, d)."""
    rows = x.sum(-2, keepdim=True)
    return rows, x.sum(-3, keepdim=True), rows.sum(-3, keepdim=True)


def _mapped(
    x: Tensor, sums: Sums, own: Tensor, by_row: Tensor, by_column: Tensor, by_total: Tensor
) -> Tensor:
    rows, columns, total = sums
    out = rows @ by_row + (columns @ by_column + total @ by_total)
    out.view(-1, out.shape[-1]).addmm_(x.flatten(0, -2), own)
    return out
