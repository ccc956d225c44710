"""The key of what is computed once per model: it names everything that the result depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from lethe.models import MaskedLayer
from lethe.training import digest_of
from lethe.unlearn.impl import ForgetData

IMAGES_IN_KEY = 64


def key_of(
    what: str,
    version: int,
    model: nn.Module,
    layer: MaskedLayer,
    data: ForgetData,
    more: Mapping[str, object],
) -> str:
    """Return the key of `what`, which the model, its layer, the training images and `more` decide."""
    parts = {
        "what": what,
        "version": version,
        "model": digest_of(model.state_dict()),
        "layer": layer.name,
        "computes": digest_of({"logits": _logits_of_some(layer, data)}),
        "images": data.train.digest,
        "normalisation": asdict(data.train.normalisation),
        "seed": data.seed,
        "device": data.device.type,
        "threads": torch.get_num_threads(),
        **more,
    }
    return json.dumps(parts, sort_keys=True)


def _logits_of_some(layer: MaskedLayer, data: ForgetData) -> Tensor:
    """Return logits of the first training images: models of equal weights may compute different functions."""
    with torch.no_grad():
        x, _ = next(data.train.batches(IMAGES_IN_KEY, device=data.device))
        return layer.head(layer.layer(layer.body(x)), x)
