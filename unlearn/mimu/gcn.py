"""The graph network that reads a layer and gives every weight a logit.

On a rook's graph the mean over the neighbours of vertex (i, j) is (row_sum_i + column_sum_j - 2 x_ij) / (m + n - 2), so a
round of message passing needs no edges. Equivalent row and column pooling: Hartford et al. 2018 (arXiv:1803.02879), NFN
(Zhou et al. 2023, arXiv:2302.14040), DWSNets (Navon et al. 2023, arXiv:2301.12780).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEATURES, WIDTH = 4, 32


class RookConv(nn.Module):
    """conv(x) = A mean_over_neighbours(x) + B x on the rook's graph; A and B are linear maps without a bias.

    x (..., m, n, d) -> (..., m, n, width), by

        x (B - 2A / (m+n-2)) + (row_sums A + column_sums A) / (m+n-2)

    A layer of one weight has no neighbours; their mean counts as 0.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.neighbours = nn.Linear(inputs, outputs, bias=False)
        self.itself = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        share = self.neighbours.weight.T / max(x.shape[-3] + x.shape[-2] - 2, 1)
        out: Tensor = _RookRound.apply(x, self.itself.weight.T - 2 * share, share, relu)
        return out


class _RookRound(torch.autograd.Function):
    """x S + row_sums(x) R + column_sums(x) R, then relu if asked: x (..., m, n, d), S and R (d, w).

    Its gradient by hand, with G the incoming one (zero where relu cut): G S' + row_sums(G) R' + column_sums(G) R' for x,
    x' G for S, and row_sums(x)' row_sums(G) + column_sums(x)' column_sums(G) for R. Everything of the size of a layer is
    added in place: on a CPU a new array of that size costs more than the sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Tensor, shared: Tensor, relu: bool) -> Tensor:
        rows, columns = x.sum(-2, keepdim=True), x.sum(-3, keepdim=True)
        out = x @ own
        out += rows @ shared
        out += columns @ shared
        if relu:
            out.relu_()
        ctx.relu = relu
        ctx.save_for_backward(x, own, shared, rows, columns, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, own, shared, rows, columns, out = ctx.saved_tensors
        if ctx.relu:
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        row_sums, column_sums = gradient.sum(-2, keepdim=True), gradient.sum(-3, keepdim=True)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = gradient @ own.T
            to_x += row_sums @ shared.T
            to_x += column_sums @ shared.T
        to_own = x.flatten(0, -2).T @ gradient.flatten(0, -2)
        to_shared = rows.flatten(0, -2).T @ row_sums.flatten(0, -2) + columns.flatten(0, -2).T @ column_sums.flatten(0, -2)
        return to_x, to_own, to_shared, None


class MaskingGCN(nn.Module):
    """Three rounds, relu after the second and the third, then one logit per weight: (..., m, n, 4) -> (..., m n)."""

    def __init__(self, features: int = FEATURES, width: int = WIDTH) -> None:
        super().__init__()
        self.rounds = nn.ModuleList([RookConv(features, width), RookConv(width, width), RookConv(width, width)])
        self.logit = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rounds[0](x)
        x = self.rounds[1](x, relu=True)
        x = self.rounds[2](x, relu=True)
        logits: Tensor = self.logit(x).flatten(-3)
        return logits


def rook_edges(m: int, n: int) -> Tensor:
    """The edges (2, mn(m+n-2)) of the rook's graph, vertex (i, j) numbered i n + j: what the closed form does without."""
    vertices = torch.arange(m * n).view(m, n)
    rows = (
        [vertices[:, j].repeat_interleave(n - 1) for j in range(n)],
        [torch.cat([vertices[:, :j], vertices[:, j + 1 :]], 1).flatten() for j in range(n)],
    )
    columns = (
        [vertices[i].repeat_interleave(m - 1) for i in range(m)],
        [torch.cat([vertices[:i], vertices[i + 1 :]]).T.flatten() for i in range(m)],
    )
    return torch.stack([torch.cat(rows[0] + columns[0]), torch.cat(rows[1] + columns[1])])
