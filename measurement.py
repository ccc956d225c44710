"""What the unlearned, the initial and the ideal model know: one forward pass per model and image set, every metric once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluation import METRICS, VERSION, Evidence, NotFinite, evaluate, needs_of, outputs_of
from training import digest_of
from unlearn import ForgetData
from vision_data import ImageSet

BATCH = 1024
INCOMPETENT = "incompetent"


@dataclass(frozen=True)
class Measured:
    """Metrics of the unlearned, the initial and the ideal model, why others have no value, and the outputs behind them."""

    model: dict[str, float]
    initial: dict[str, float]
    ideal: dict[str, float]
    undefined: dict[str, str]
    evidence: dict[str, Evidence]


def measure(unlearned: nn.Module, base_models: Mapping[str, nn.Module], data: ForgetData, test: ImageSet) -> Measured:
    """Evaluate the unlearned model, and by all metrics that need no ideal model the base models too.

    base_models: "initial", and where there are some, "ideal" and the "incompetent" teacher, which is only compared with.
    What depends on one model's outputs alone is kept in `data.cache`, so that a model is attacked once. `undefined` names
    the base models' missing metrics too, as initial_<name> and ideal_<name>. Raises NotFinite for a model that diverged.
    """
    others = evidence_of_others(base_models, data, test)
    evidence = {name: own for name, own in others.items() if name != INCOMPETENT}
    evidence["unlearned"] = known_evidence(unlearned, "unlearned", data, test)
    values: dict[str, dict[str, float]] = {}
    undefined: dict[str, str] = {}
    for name, own in evidence.items():
        values[name], reasons = values_of(own, others, None if name == "unlearned" else without_ideal())
        prefix = "" if name == "unlearned" else f"{name}_"
        undefined |= {prefix + metric: reason for metric, reason in reasons.items()}
    named = {f"{name} model": evidence[name] for name in ("initial", "unlearned", "ideal") if name in evidence}
    return Measured(values["unlearned"], values["initial"], values.get("ideal", {}), undefined, named)


def values_of(model: Evidence, others: Mapping[str, Any], names: Sequence[str] | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of a model, by default all, where `others` (Evidence by name) is what to compare with; and why the rest has no value."""
    return evaluate(names=names, model=model, **others)


def evidence_of_others(models: Mapping[str, nn.Module], data: ForgetData, test: ImageSet) -> dict[str, Evidence]:
    """What an unlearned model is compared with, by name. Of the incompetent teacher that is the forget set alone."""
    return {
        name: evidence_on_forget(model, data) if name == INCOMPETENT else known_evidence(model, name, data, test)
        for name, model in models.items()
    }


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


def evidence_on_forget(model: nn.Module, data: ForgetData) -> Evidence:
    """What a model says about the forget set; the other sets are empty."""
    forget = outputs_of(model, data.forget.batches(BATCH, device=data.device))
    none = forget.subset(torch.zeros(len(forget), dtype=torch.bool))
    return Evidence(forget, retain=none, test=none, validation=None, forget_classes=data.forget_classes, seed=data.seed)


def of_one_model() -> list[str]:
    """The metrics that need no second model."""
    return [entry.name for entry in METRICS if needs_of(entry.function) == ("model",)]


def without_ideal() -> list[str]:
    """The metrics of one model that need no ideal model."""
    return [entry.name for entry in METRICS if "model" in needs_of(entry.function) and "ideal" not in needs_of(entry.function)]


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
