"""A small vision transformer, also for small images."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from lethe.flag_error import FlagError
from lethe.models.impl import Count, ImageShape, Width, register

SIDE = 8  # default number of patches a side, about


@register(
    "vit_tiny",
    mask_layer="-1",
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.05,
    source="Dosovitskiy et al. 2021, arXiv:2010.11929; width and heads of DeiT-Ti, Touvron et al. 2021, "
    "arXiv:2012.12877",
)
def vit_tiny(
    image_shape: ImageShape,
    classes: int,
    *,
    patch: Count | None = None,
    depth: Count = 12,
    dim: Width = 192,
    heads: Count = 3,
) -> nn.Sequential:
    """A vision transformer without a class token.

        patches -> tokens + positions -> depth x (x + attention(norm(x)), x + mlp(norm(x))) -> norm -> mean of
        the tokens -> linear

    Flags:
        patch: pixels a side of a patch; by default an eighth of the image's smaller side, rounded
        depth: number of blocks
        dim: width of a token
        heads: attention heads of a block, which divide dim

    An image whose sides are no multiples of the patch is padded with zeros, right and below. The mean of the
    tokens replaces DeiT's class token. The masked layer is classes x dim; earlier linear layers get a vector
    per token. Raises ValueError for a patch larger than the image, and heads that do not divide dim.
    """
    channels, height, width = image_shape
    side = max(1, round(min(height, width) / SIDE)) if patch is None else patch
    if dim % heads:
        message = (
            f"--heads and --dim: expected heads that divide dim, got {heads} and {dim}. Correct one of them"
        )
        raise FlagError("heads", message, named=False)
    if side > min(height, width):
        raise FlagError(
            "patch", f"expected at most the image's {min(height, width)} pixels, got {side}. Give fewer"
        )
    down, right = -height % side, -width % side
    tokens = (height + down) * (width + right) // side**2
    return nn.Sequential(
        OrderedDict(
            pad=nn.ZeroPad2d((0, right, 0, down)),
            patches=nn.Conv2d(channels, dim, kernel_size=side, stride=side),
            flatten=nn.Flatten(2),
            places=PositionEmbedding(tokens, dim),
            blocks=nn.Sequential(*(Block(dim, heads) for _ in range(depth))),
            norm=nn.LayerNorm(dim),
            mean=Mean(),
            head=nn.Linear(dim, classes),
        )
    )


class PositionEmbedding(nn.Module):
    """(N, dim, tokens) -> (N, tokens, dim), plus a learned vector for each position."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.empty(tokens, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.places, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2) + self.places


class Mean(nn.Module):
    """(N, tokens, dim) -> (N, dim)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Block(nn.Module):
    """x <- x + attention(norm(x)); x <- x + mlp(norm(x)), the mlp four times as wide."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            OrderedDict(up=nn.Linear(dim, 4 * dim), gelu=nn.GELU(), down=nn.Linear(4 * dim, dim))
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v, (N, heads, tokens, d) each; torch's has no forward derivative, no vmap."""
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
