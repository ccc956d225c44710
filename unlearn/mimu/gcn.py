"""The graph network that reads a layer and gives every weight a logit.

On a rook's graph the mean over the neighbours of vertex (i, j) is (row_sum_i + column_sum_j - 2 x_ij) / (m + n - 2), so a
round of message passing needs no edges. Equivalent row and column pooling: Hartford et al. 2018 (arXiv:1803.02879), NFN
(Zhou et al. 2023, arXiv:2302.14040), DWSNets (Navon et al. 2023, arXiv:2301.12780).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEATURES, WIDTH = 4, 32


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
        """S and R, (d, width) each."""
        shared = self.neighbours.weight.T / max(m + n - 2, 1)
        return self.itself.weight.T - 2 * shared, shared

    def forward(self, x: Tensor) -> Tensor:
        own, shared = self.maps(*x.shape[-3:-1])
        return x @ own + x.sum(-2, keepdim=True) @ shared + x.sum(-3, keepdim=True) @ shared


class MaskingGCN(nn.Module):
    """Three rounds, relu after the second and the third, then one logit per weight: (..., m, n, 4) -> (..., m n).

    Nothing bends between the first two rounds, so they are computed as one, with r_i and c_j the row and column sums of
    x and t its total:

        conv_2(conv_1(x)) = x S1 S2 + r_i (R1 S2 + (S1 + n R1) R2) + c_j (R1 S2 + (S1 + m R1) R2) + 2 t R1 R2
    """

    def __init__(self, features: int = FEATURES, width: int = WIDTH) -> None:
        super().__init__()
        self.rounds = nn.ModuleList([RookConv(features, width), RookConv(width, width), RookConv(width, width)])
        self.logit = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        m, n = x.shape[-3:-1]
        (s1, r1), (s2, r2), (s3, r3) = (cast(RookConv, conv).maps(m, n) for conv in self.rounds)
        total = x.sum((-3, -2), keepdim=True) @ (2 * r1 @ r2)
        x = _RookRound.apply(x, s1 @ s2, r1 @ s2 + (s1 + n * r1) @ r2, r1 @ s2 + (s1 + m * r1) @ r2, total)
        x = _RookRound.apply(x, s3, r3, r3.clone(), torch.zeros_like(total))  # torch.compile takes no tensor twice
        logits: Tensor = self.logit(x).flatten(-3)
        return logits


class _RookRound(torch.autograd.Function):
    """relu(x S + row_sums(x) P + column_sums(x) Q + t): x (..., m, n, d), S, P, Q (d, w), t (..., 1, 1, w).

    Its gradient by hand, with G the incoming one (zero where relu cut): G S' + row_sums(G) P' + column_sums(G) Q' for x,
    x' G for S, row_sums(x)' row_sums(G) for P, column_sums(x)' column_sums(G) for Q, and the sum of G for t. What has
    the size of a layer is added in place: on a CPU a new array of that size costs more than the sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Tensor, by_row: Tensor, by_column: Tensor, constant: Tensor) -> Tensor:
        rows, columns = x.sum(-2, keepdim=True), x.sum(-3, keepdim=True)
        out = x @ own
        out += rows @ by_row + constant
        out += columns @ by_column
        out.relu_()
        ctx.save_for_backward(x, own, by_row, by_column, rows, columns, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
        x, own, by_row, by_column, rows, columns, out = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        row_sums, column_sums = gradient.sum(-2, keepdim=True), gradient.sum(-3, keepdim=True)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = gradient @ own.T
            to_x += row_sums @ by_row.T
            to_x += column_sums @ by_column.T
        products = [a.flatten(0, -2).T @ b.flatten(0, -2) for a, b in ((x, gradient), (rows, row_sums), (columns, column_sums))]
        return to_x, *products, row_sums.sum(-3, keepdim=True)
