"""MIMU's network as message passing over a list of edges, by PyTorch Geometric: what the closed form is
tested against.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from lethe.unlearn.mimu.gcn import MaskingGCN, RookConv


class EdgeConv(MessagePassing):
    """conv(x) = A mean_over_neighbours(x) + B x with the maps of a RookConv, on edges (2, E): x (vertices, d)
    -> (vertices, width).
    """

    def __init__(self, conv: RookConv) -> None:
        super().__init__(aggr="mean")
        self.conv = conv

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        out: Tensor = self.conv.neighbours(self.propagate(edges, x=x)) + self.conv.itself(x)
        return out


def logits_by_messages(gcn: MaskingGCN, x: Tensor, edges: Tensor) -> Tensor:
    """What MaskingGCN computes, by messages along the edges: x (vertices, 4) -> (vertices,)."""
    first, second, third = (EdgeConv(cast(RookConv, conv)) for conv in gcn.rounds)
    x = second(first(x, edges), edges).relu()
    logits: Tensor = gcn.logit(third(x, edges).relu()).squeeze(-1)
    return logits


def rook_edges(m: int, n: int) -> Tensor:
    """The edges (2, mn(m+n-2)) of the rook's graph, vertex (i, j) numbered i n + j: what the closed form does
    without.
    """
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
