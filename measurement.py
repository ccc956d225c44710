"""What the unlearned, the initial and the ideal model know: one forward pass per model and image set, every metric once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluation import METRICS, VERSION, Evidence, NotFinite, evaluate, needs_of, outputs_of
from training import digest_of
from unlearn import ForgetData
from vision_data import ImageSet

BATCH = 1024


@dataclass(frozen=True)
class Measured:
    """Metrics of the unlearned, the initial and the ideal model, why others have no value, and the outputs behind them."""

    model: dict[str, float]
    initial: dict[str, float]
    ideal: dict[str, float]
    undefined: dict[str, str]
    evidence: dict[str, Evidence]


def measure(unlearned: nn.Module, base_models: Mapping[str, nn.Module], data: ForgetData, test: ImageSet) -> Measured:
    """Evaluate the unlearned model, and for comparison the base models ("initial", and "ideal" if there is one).

    What depends on one model's outputs alone is kept in `data.cache`, so that a model is attacked once. `undefined` names
    the base models' missing metrics too, as initial_<name> and ideal_<name>. Raises NotFinite for a model that diverged.
    """
    evidence = {name: known_evidence(model, name, data, test) for name, model in {**base_models, "unlearned": unlearned}.items()}
    values: dict[str, dict[str, float]] = {}
    undefined: dict[str, str] = {}
    for name, own in evidence.items():
        if name == "unlearned":
            values[name], reasons = values_of(own, evidence.get("ideal"))
        else:
            values[name], reasons = evaluate(names=of_one_model(), model=own)
        prefix = "" if name == "unlearned" else f"{name}_"
        undefined |= {prefix + metric: reason for metric, reason in reasons.items()}
    named = {f"{name} model": evidence[name] for name in ("initial", "unlearned", "ideal") if name in evidence}
    return Measured(values["unlearned"], values["initial"], values.get("ideal", {}), undefined, named)


def values_of(unlearned: Evidence, ideal: Evidence | None) -> tuple[dict[str, float], dict[str, str]]:
    """Every metric of an unlearned model, and the reasons of those that have no value."""
    return evaluate(model=unlearned) if ideal is None else evaluate(model=unlearned, ideal=ideal)


def known_evidence(model: nn.Module, name: str, data: ForgetData, test: ImageSet) -> Evidence:
    """What a model says about the images, with the metrics of it alone, which are kept. NotFinite, with its name, if it diverged."""
    try:
        evidence = evidence_of(model, data, test)
    except NotFinite as error:
        raise NotFinite(f"the {name} model: {error}") from error
    _recall(evidence, data.cache, lambda metrics: data.progress(metrics, f"evaluate {name} model"))
    return evidence


def evidence_of(model: nn.Module, data: ForgetData, test: ImageSet) -> Evidence:
    """What a model says about the images: one forward pass per set."""
    sets = {"forget": data.forget, "retain": data.retain, "test": test, "validation": data.validation}
    outputs: dict[str, Any] = {
        name: outputs_of(model, images.batches(BATCH, device=data.device)) if len(images) else None for name, images in sets.items()
    }
    return Evidence(**outputs, forget_classes=data.forget_classes, seed=data.seed)


def of_one_model() -> list[str]:
    """The metrics that need no second model."""
    return [entry.name for entry in METRICS if needs_of(entry.function) == ("model",)]


def _recall(evidence: Evidence, cache: MutableMapping[str, dict[str, Tensor]], progress: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
    """Fill in the metrics of one model: from the cache if these very outputs were measured before, else computed and kept."""
    names = of_one_model()
    outputs = {f"{name}.{part}": getattr(own, part) for name, own in evidence.sets.items() for part in ("logits", "labels")}
    depends_on = {
        "what": "metrics of one model",
        "outputs": digest_of(outputs),
        "forget_classes": evidence.forget_classes,
        "seed": evidence.seed,
        "metrics": names,
        "version": VERSION,
    }
    key = json.dumps(depends_on, sort_keys=True)
    kept = cache.get(key)
    if kept is None:
        values, _ = evaluate(names=names, progress=progress, model=evidence)
        kept = {"values": torch.tensor([values.get(name, math.nan) for name in names], dtype=torch.float64)}
        cache[key] = kept
    known = dict(zip(names, kept["values"].tolist(), strict=True))
    evidence.remember({name: value for name, value in known.items() if not math.isnan(value)})
