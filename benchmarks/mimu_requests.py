"""Time MIMU around its network: the features of many images, and a request on a cached network."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.meter import Meter
from lethe.data import ForgetRequest, ImageSet, load_splits
from lethe.models import build, split_at
from lethe.training import Cache, DiskCache, Recipe, fit, generator_for
from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.mimu.graph import Factors, factors_of

Row = dict[str, Any]


def features(m: int, n: int, images: int, meter: Meter) -> list[Row]:
    """Time the features of `images` digits, in batches and one at a time, of an MLP 64 -> n -> m -> 10."""
    train = load_splits("digits", "").train
    chosen = train.subset(torch.arange(images) % len(train)).to(meter.device)
    model = multilayer_perceptron(chosen, 10, m, n, meter.device)
    layer = split_at(model, "-2", chosen.normalisation(chosen.images[:2]))
    pixels = chosen.normalisation(chosen.images[:])

    def in_batches() -> Factors:
        return factors_of(layer, chosen, "cross_entropy", meter.device)

    def one_at_a_time() -> Tensor:
        for x, y in zip(pixels.split(1), chosen.labels.split(1), strict=True):
            written_out = features_by_autograd(model, layer.layer, x, y)
        return written_out

    kept = in_batches()  # also warms up
    floats = floats_in(kept.h, kept.a, kept.delta) / images, float(floats_in(one_at_a_time()))
    about = {"m": m, "n": n, "images": images}
    return [
        about | {"way": "in batches", **meter.timed(in_batches), "floats_an_image": floats[0]},
        about | {"way": "one at a time", **meter.timed(one_at_a_time), "floats_an_image": floats[1]},
    ]


def features_by_autograd(model: nn.Module, layer: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """Return h_j, a_i, W_ij and dL/dW_ij (m, n, 4) of one image x (1, C, H, W), by a hook."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, inputs, z: seen.extend((inputs[0].detach(), z.detach())))
    loss = F.cross_entropy(model(x), y)
    handle.remove()
    model.zero_grad()
    loss.backward()
    (h,), (z,) = seen
    weight, gradient = layer.weight.detach(), layer.weight.grad
    if gradient is None:
        raise RuntimeError("the masked layer has no gradient")
    return torch.stack([h.expand_as(weight), z.relu()[:, None].expand_as(weight), weight, gradient], dim=-1)


def floats_in(*tensors: Tensor) -> int:
    """How many floats the memory behind the tensors holds: of a view, all that it keeps alive."""
    return sum(t.untyped_storage().nbytes() // t.element_size() for t in tensors)


def second_class(dataset: str, folder: Path, m: int, n: int, meter: Meter) -> list[Row]:
    """Time a request for each class but the first, which trains the network: a row a kind of cache."""
    splits = load_splits(dataset, folder)
    model = multilayer_perceptron(splits.train, splits.classes, m, n, meter.device)
    with tempfile.TemporaryDirectory() as temporary:
        caches: dict[str, Cache] = {"memory": {}, "disk": DiskCache(Path(temporary))}
        rows = []
        for kind, cache in caches.items():
            requests = [
                ForgetData.of(splits, ForgetRequest((label,)), device=meter.device, cache=cache)
                for label in range(splits.classes)
            ]
            served = [request_cost(model, data, m, n, meter) for data in requests][1:]
            milliseconds = [request["milliseconds"] for request in served]
            cost = {"milliseconds": median(milliseconds), "slowest_ms": max(milliseconds)}
            counts = {"requests": len(served), "from_cache": sum(request["from_cache"] for request in served)}
            rows.append(
                {
                    "dataset": dataset,
                    "images": len(splits.train),
                    "m": m,
                    "n": n,
                    "cache": kind,
                    **cost,
                    **counts,
                }
            )
    return rows


def request_cost(model: nn.Module, data: ForgetData, m: int, n: int, meter: Meter) -> Row:
    """Return milliseconds of a request, and whether its network was cached. Trains for two steps."""
    facts: Row = {}

    def request() -> None:
        facts.update(
            unlearn("MIMU", model, data, topk=min(50, m * n), kappa=max(1, m * n // 10), gcn_steps=2).facts
        )

    return {"milliseconds": meter.once(request), "from_cache": facts["network_cached"]}


def defaults(dataset: str, folder: Path, m: int, n: int, meter: Meter) -> list[Row]:
    """Time a request for each class by MIMU's defaults on a trained model: a row a kind of request.

    A first request takes the network's answers for all classes, and the inputs of the layer, into the cache.
    """
    splits = load_splits(dataset, folder)
    model = multilayer_perceptron(splits.train, splits.classes, m, n, meter.device)
    fit(model, splits.train, Recipe(2, "adamw", lr=3e-3, batch_size=128), generator=generator_for(1, "train"))
    cache: dict[str, Any] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    for kappa in (0.1, "auto"):
        for label in range(splits.classes):
            data = ForgetData.of(splits, ForgetRequest((label,)), device=meter.device, cache=cache)
            facts: Row = {}
            started = process_time()
            milliseconds = meter.once(partial(request_by_default, model, data, kappa, facts))
            of_processor = 1000 * (process_time() - started)
            found.setdefault(kind_of(kappa, label, facts), []).append((milliseconds, of_processor))
    about = {"dataset": dataset, "images": len(splits.train), "m": m, "n": n}
    rows = []
    for kind, times in found.items():
        wall, processor = zip(*times, strict=True)
        cost = {"milliseconds": median(wall), "processor_ms": median(processor), "slowest_ms": max(processor)}
        rows.append({**about, "request": kind, **cost, "requests": len(times)})
    return rows


def request_by_default(model: nn.Module, data: ForgetData, kappa: float | str, facts: Row) -> None:
    facts.update(unlearn("MIMU", model, data, kappa=kappa).facts)


def kind_of(kappa: float | str, label: int, facts: Row) -> str:
    if label == 0:
        return f"kappa {kappa}, the first"
    if kappa != "auto":
        return f"kappa {kappa}"
    return f"kappa auto, {'refined' if facts['refine_rounds'] else 'not refined'}"


def multilayer_perceptron(images: ImageSet, classes: int, m: int, n: int, device: torch.device) -> nn.Module:
    """Bias-free, untrained, its masked layer m x n."""
    return build("mlp", images.image_shape, classes, seed=1, options={"hidden": (n, m)}).to(device)
