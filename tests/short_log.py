"""The log of a training of two steps, for methods that need one: the second step held every image."""

import torch


def updates(model):
    weights = sum(p.numel() for p in model.parameters())
    change = torch.linspace(-0.1, 0.1, weights)
    return [(torch.tensor([10**6]), change), (torch.arange(10_000), change)]
