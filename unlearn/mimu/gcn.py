"""The graph network that reads a layer and gives every weight a logit.

On a rook's graph the mean over the neighbours of vertex (i, j) is (row_sum_i + column_sum_j - 2 x_ij) / (m + n - 2), so a
round of message passing needs no edges. Equivalent row and column pooling: Hartford et al. 2018 (arXiv:1803.02879), NFN
(Zhou et al. 2023, arXiv:2302.14040), DWSNets (Navon et al. 2023, arXiv:2301.12780).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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

    def forward(self, x: Tensor) -> Tensor:
        m, n = x.shape[-3], x.shape[-2]
        share = self.neighbours.weight.T / max(m + n - 2, 1)
        out = x @ (self.itself.weight.T - 2 * share)
        out += x.sum(-2, keepdim=True) @ share  # in place: a new array of this size costs more than the sum
        out += x.sum(-3, keepdim=True) @ share
        return out


class MaskingGCN(nn.Module):
    """Three rounds, relu after the second and the third, then one logit per weight: (..., m, n, 4) -> (..., m n)."""

    def __init__(self, features: int = FEATURES, width: int = WIDTH) -> None:
        super().__init__()
        self.rounds = nn.ModuleList([RookConv(features, width), RookConv(width, width), RookConv(width, width)])
        self.logit = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rounds[0](x)
        x = self.rounds[1](x).relu_()
        x = self.rounds[2](x).relu_()
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
