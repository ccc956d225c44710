"""Evaluate the unlearned, the initial and the ideal model: one forward pass per model and image set."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evaluation import (
    DEFAULT,
    NO_COMMANDS,
    OF_MANY,
    VERSION,
    Attack,
    MetricFacts,
    ModelOutputs,
    NotFinite,
    Subject,
    Times,
    chosen,
    evaluate,
    last_linear_layer,
    needs_of,
    outputs_of,
)
from registry import Entry
from training import Cache, digest_of, model_digest
from unlearn import ForgetData, check_model
from vision_data import ImageSet, forward_batch

INCOMPETENT, TIMES = "incompetent", "times"
ON_FEATURES = ("probe_score", "probe_gap")
Metric = Entry[MetricFacts]
MEMBER, RANGE = "member score of ", "range of "  # prefixes of an attack's name in the cache
ATTACK_OF = {"mia": "mia_confidence"}  # metrics that share the member scores of another metric


@dataclass(frozen=True)
class Measured:
    """Metrics of the unlearned, the initial and the ideal model, the reasons of missing ones, and the models'
    outputs.

    `incompetent`: the outputs of the incompetent teacher on the forget set, if it was evaluated.
    """

    model: dict[str, float]
    initial: dict[str, float]
    ideal: dict[str, float]
    undefined: dict[str, str]
    outputs: dict[str, ModelOutputs]
    incompetent: ModelOutputs | None = None


def measure(
    unlearned: nn.Module,
    base_models: Mapping[str, nn.Module],
    data: ForgetData,
    test: ImageSet,
    *,
    metrics: Sequence[Metric] | None = None,
    others: Mapping[str, ModelOutputs] | None = None,
    times: Times | None = None,
    commands: Mapping[str, str] = NO_COMMANDS,
) -> Measured:
    """Evaluate the unlearned model, and the base models by all metrics that need no ideal model.

    base_models: "initial", and optionally "ideal" and the "incompetent" teacher (for comparison only).
    metrics: from `evaluation.chosen` (default: all but the costly ones). others: the base models' outputs
    from `outputs_of_others`, if
    they exist already. commands: the commands that make missing inputs, by input name.
    Metrics of one model alone are cached in `data.cache`, so each model is attacked once. `undefined`
    includes the base models' missing metrics as initial_<name> and ideal_<name>. Raises NotFinite for a model
    that diverged.
    """
    metrics = by_default() if metrics is None else metrics
    if not len(test):
        raise ValueError(
            "the test set: expected at least one image, got none. Give images that no model was trained on"
        )
    for model in (unlearned, *base_models.values()):
        check_model(model, data, copied=False)
    others = outputs_of_others(base_models, data, test, metrics) if others is None else others
    outputs = {name: own for name, own in others.items() if name != INCOMPETENT}
    outputs["unlearned"] = outputs_with_metrics(unlearned, "unlearned", data, test, metrics)
    values: dict[str, dict[str, float]] = {}
    undefined: dict[str, str] = {}
    for name, own in outputs.items():
        wanted, known = (metrics, times) if name == "unlearned" else (of_base_models(metrics), None)
        values[name], reasons = values_of(own, others, wanted, times=known, commands=commands)
        prefix = "" if name == "unlearned" else f"{name}_"
        undefined |= {prefix + metric: reason for metric, reason in reasons.items()}
    named = {f"{name} model": outputs[name] for name in ("initial", "unlearned", "ideal") if name in outputs}
    return Measured(
        values["unlearned"],
        values["initial"],
        values.get("ideal", {}),
        undefined,
        named,
        others.get(INCOMPETENT),
    )


def values_of(
    model: ModelOutputs,
    others: Mapping[str, ModelOutputs],
    metrics: Sequence[Metric] | None = None,
    *,
    times: Times | None = None,
    commands: Mapping[str, str] = NO_COMMANDS,
) -> tuple[dict[str, float], dict[str, str]]:
    """Return a model's metrics, compared with `others` by name, and the reasons of missing ones."""
    known: dict[str, Any] = dict(others) if times is None else {**others, TIMES: times}
    return evaluate(
        names=by_default() if metrics is None else metrics, model=model, commands=commands, **known
    )


def outputs_of_others(
    models: Mapping[str, nn.Module], data: ForgetData, test: ImageSet, metrics: Sequence[Metric] | None = None
) -> dict[str, ModelOutputs]:
    """Return the outputs of the base models, by name; of the incompetent teacher on the forget set only."""
    return {
        name: outputs_on_forget(model, data)
        if name == INCOMPETENT
        else outputs_with_metrics(model, name, data, test, metrics)
        for name, model in models.items()
    }


def outputs_with_metrics(
    model: nn.Module, name: str, data: ForgetData, test: ImageSet, metrics: Sequence[Metric] | None = None
) -> ModelOutputs:
    """Return a model's outputs with its cached metrics. Raises NotFinite, naming the model, if it diverged."""
    metrics = by_default() if metrics is None else metrics
    try:
        features = any(metric.name in ON_FEATURES for metric in metrics)
        outputs = model_outputs(model, data, test, features=features, name=f"{name} model")
    except NotFinite as error:
        raise NotFinite(f"the {name} model: {error}") from error
    alone = [metric for metric in metrics if needs_of(metric.function) == ("model",) and metric.file is None]
    _recall(outputs, alone, data.cache, lambda metrics: data.progress(metrics, f"evaluate {name} model"))
    return outputs


def model_outputs(
    model: nn.Module, data: ForgetData, test: ImageSet, *, features: bool = False, name: str = "model"
) -> ModelOutputs:
    """Return a model's outputs on all image sets, by one forward pass per set.

    features: keep the inputs of the last linear layer. name: of the model, for the progress bar.
    """
    sets = {"forget": data.forget, "retain": data.retain, "test": test, "validation": data.validation}
    layer: nn.Module | None = None
    if features:
        with contextlib.suppress(ValueError):  # without such a layer, the metrics that need it have no value
            layer = last_linear_layer(model, data.forget, device=data.device)
    by_set: dict[str, Any] = dict.fromkeys(sets)
    size = forward_batch(data.device)
    for which, images in sets.items():
        if len(images):
            steps = data.progress(range(-(-len(images) // size)), f"{name}, {which} images")
            batches = (
                batch for _, batch in zip(steps, images.batches(size, device=data.device), strict=True)
            )
            by_set[which] = outputs_of(model, batches, layer if which in ("forget", "retain") else None)
    subject = Subject(model, data.forget, data.retain, data.device)
    return ModelOutputs(**by_set, forget_classes=data.forget_classes, seed=data.seed, subject=subject)


def outputs_on_forget(model: nn.Module, data: ForgetData) -> ModelOutputs:
    """Return a model's outputs on the forget set; the other sets are empty."""
    forget = outputs_of(model, data.forget.batches(forward_batch(data.device), device=data.device))
    none = forget.subset(torch.zeros(len(forget), dtype=torch.bool))
    return ModelOutputs(
        forget, retain=none, test=none, validation=None, forget_classes=data.forget_classes, seed=data.seed
    )


def by_default() -> list[Metric]:
    return chosen((DEFAULT,))


def of_base_models(metrics: Sequence[Metric]) -> list[Metric]:
    """Select the metrics of base models: those without the ideal model, a method's seconds or many models."""
    return [metric for metric in metrics if not {"ideal", TIMES, *OF_MANY} & set(needs_of(metric.function))]


def of_intermediate_models(metrics: Sequence[Metric]) -> list[Metric]:
    """Select the metrics of intermediate models: those without the seconds of a whole run."""
    return [metric for metric in metrics if TIMES not in needs_of(metric.function)]


def _recall(
    outputs: ModelOutputs,
    metrics: Sequence[Metric],
    cache: Cache,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> None:
    """Fill in metrics of one model from the cache; compute and cache those that are missing."""
    tensors = {
        f"{name}.{part}": getattr(own, part)
        for name, own in outputs.sets.items()
        for part in ("logits", "labels")
    }
    depends_on = {
        "what": "metrics of one model",
        "outputs": digest_of(tensors),
        "model": None if outputs.subject is None else model_digest(outputs.subject.model),
        "forget_classes": outputs.forget_classes,
        "seed": outputs.seed,
        "version": VERSION,
    }
    key = json.dumps(depends_on, sort_keys=True)
    kept = dict(cache.get(key, {}))
    unknown = [metric for metric in metrics if metric.name not in kept]
    if unknown:
        values, _ = evaluate(names=unknown, progress=progress, model=outputs)
        kept |= {
            metric.name: torch.tensor(values.get(metric.name, math.nan), dtype=torch.float64)
            for metric in unknown
        }
        for name, attack in outputs.attacks.items():
            kept |= {
                MEMBER + name: attack.scores,
                RANGE + name: torch.tensor([attack.lowest, attack.highest], dtype=torch.float64),
            }
        cache[key] = kept
    known = {metric.name: float(kept[metric.name]) for metric in metrics}
    outputs.remember({name: value for name, value in known.items() if not math.isnan(value)})
    attacks = {
        ATTACK_OF.get(metric.name, metric.name) for metric in metrics
    }  # an earlier run may have asked for more
    for name in attacks:
        if MEMBER + name in kept:
            outputs.attacks[name] = Attack(kept[MEMBER + name], *kept[RANGE + name].tolist())
