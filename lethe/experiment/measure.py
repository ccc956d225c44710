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

from lethe.data import ImageSet, forward_batch
from lethe.evaluation import (
    DEFAULT,
    NO_COMMANDS,
    OF_MANY,
    VERSION,
    Attack,
    MetricFacts,
    Missing,
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
from lethe.evaluation.memorisation import Memorisation
from lethe.flag_error import named_as_arguments
from lethe.nearest_name import did_you_mean
from lethe.registry import Entry
from lethe.training import Cache, digest_of, model_digest
from lethe.unlearn import ForgetData, check_model

INCOMPETENT, TIMES, MEMORISATION = "incompetent", "times", "memorisation"
ON_FEATURES = ("probe_score", "probe_gap")
Metric = Entry[MetricFacts]
MEMBER, RANGE = "member score of ", "range of "  # prefixes of an attack's name in the cache
ATTACK_OF = {"mia": "mia_confidence"}  # metrics that share the member scores of another metric


@dataclass(frozen=True)
class Measured:
    """The metrics and outputs of the unlearned, the initial and the ideal model.

    undefined: the reasons of missing metrics. incompetent: the outputs of the incompetent teacher on the
    forget set, if it was evaluated. memorisation: of the forget images, if a metric needs it.
    """

    model: dict[str, float]
    initial: dict[str, float]
    ideal: dict[str, float]
    undefined: dict[str, Missing]
    outputs: dict[str, ModelOutputs]
    incompetent: ModelOutputs | None = None
    memorisation: Memorisation | None = None

    @property
    def sides(self) -> dict[str, dict[str, float]]:
        """The metrics by model; {} for an ideal model that does not exist."""
        return {"initial": self.initial, "unlearned": self.model, "ideal": self.ideal}

    @property
    def of_base_models(self) -> dict[str, float]:
        """The metrics of the initial and the ideal model, as runs log them: initial_<name>, ideal_<name>."""
        initial = {f"initial_{name}": value for name, value in self.initial.items()}
        return initial | {f"ideal_{name}": value for name, value in self.ideal.items()}


def measure(
    unlearned: nn.Module,
    base_models: Mapping[str, nn.Module],
    data: ForgetData,
    test: ImageSet,
    *,
    metrics: Sequence[Metric | str] | None = None,
    others: Mapping[str, ModelOutputs] | None = None,
    times: Times | None = None,
    commands: Mapping[str, str] = NO_COMMANDS,
    memorisation: Memorisation | None = None,
) -> Measured:
    """Evaluate the unlearned model, and the base models by all metrics that need no ideal model.

    base_models: "initial", and optionally "ideal" and the "incompetent" teacher (for comparison only).
    metrics: names, or what `evaluation.chosen` returns (default: all but the costly ones). others: the base
    models' outputs from `outputs_of_others`, if they exist already. commands: the commands that make missing
    inputs, by name. memorisation: of the forget images, for the metrics of their thirds. Caches the metrics
    of one model alone in `data.cache`. `undefined` names the base models' missing metrics initial_<name> and
    ideal_<name>. Raises NotFinite for a model that diverged, ValueError for a model that does not fit the
    data, an unknown metric, no initial model, and an empty test set.
    """
    with named_as_arguments():
        metrics = by_default() if metrics is None else _entries_of(metrics)
    _check_base_models(base_models)
    if not isinstance(test, ImageSet):
        raise ValueError(
            f"the test set: expected an ImageSet, got {type(test).__name__}. Make it: "
            "ImageSet.of_dataset(test_set)"
        )
    if not len(test):
        raise ValueError(
            "the test set: expected at least one image, got none. Give images that no model was trained on"
        )
    _check_images(data)
    for model in (unlearned, *base_models.values()):
        check_model(model, data, copied=False)
    others = outputs_of_others(base_models, data, test, metrics) if others is None else others
    outputs = {name: own for name, own in others.items() if name != INCOMPETENT}
    outputs["unlearned"] = outputs_with_metrics(unlearned, "unlearned", data, test, metrics)
    values: dict[str, dict[str, float]] = {}
    undefined: dict[str, Missing] = {}
    for name, own in outputs.items():
        wanted, known = (metrics, times) if name == "unlearned" else (of_base_models(metrics), None)
        values[name], reasons = values_of(
            own, others, wanted, times=known, commands=commands, memorisation=memorisation
        )
        prefix = "" if name == "unlearned" else f"{name}_"
        undefined |= {prefix + metric: reason for metric, reason in reasons.items()}
    named = {f"{name} model": outputs[name] for name in ("initial", "unlearned", "ideal") if name in outputs}
    return Measured(
        model=values["unlearned"],
        initial=values["initial"],
        ideal=values.get("ideal", {}),
        undefined=undefined,
        outputs=named,
        incompetent=others.get(INCOMPETENT),
        memorisation=memorisation,
    )


def _entries_of(metrics: Sequence[Metric | str]) -> list[Metric]:
    """Return metrics with those that are given by name looked up."""
    if isinstance(metrics, str):
        return chosen((metrics,))
    entries: list[Metric] = []
    for metric in metrics:
        entries += chosen((metric,)) if isinstance(metric, str) else [metric]
    return entries


def _check_images(data: ForgetData) -> None:
    """Raise ValueError for a set without images, which a method may do without, but no metric."""
    for name, images in (("forget", data.forget), ("retain", data.retain)):
        if not len(images):
            raise ValueError(
                f"the {name} set: expected at least one image to measure by, got none. Give ForgetData some"
            )


def _check_base_models(models: Mapping[str, nn.Module]) -> None:
    names = ("initial", "ideal", INCOMPETENT)
    if not isinstance(models, Mapping) or "initial" not in models:
        got = ", ".join(map(str, models)) if isinstance(models, Mapping) else type(models).__name__
        raise ValueError(
            f"base_models: expected the initial model by name, got {got or 'none'}. Write "
            '{"initial": model}'
        )
    for name in models:
        if name not in names:
            raise ValueError(did_you_mean("base model", name, names))


def values_of(
    model: ModelOutputs,
    others: Mapping[str, ModelOutputs],
    metrics: Sequence[Metric] | None = None,
    *,
    times: Times | None = None,
    commands: Mapping[str, str] = NO_COMMANDS,
    memorisation: Memorisation | None = None,
) -> tuple[dict[str, float], dict[str, Missing]]:
    """Return a model's metrics, compared with `others` by name, and the reasons of missing ones."""
    known: dict[str, Any] = {**others, TIMES: times, MEMORISATION: memorisation}
    known = {name: own for name, own in known.items() if own is not None}
    names = by_default() if metrics is None else metrics
    return evaluate(names=names, model=model, commands=commands, **known)


def outputs_of_others(
    models: Mapping[str, nn.Module], data: ForgetData, test: ImageSet, metrics: Sequence[Metric] | None = None
) -> dict[str, ModelOutputs]:
    """Return the outputs of the base models, by name; of the incompetent teacher on the forget set only."""
    outputs = {}
    for name, model in models.items():
        if name == INCOMPETENT:
            outputs[name] = outputs_on_forget(model, data)
        else:
            outputs[name] = outputs_with_metrics(model, name, data, test, metrics)
    return outputs


def outputs_with_metrics(
    model: nn.Module, name: str, data: ForgetData, test: ImageSet, metrics: Sequence[Metric] | None = None
) -> ModelOutputs:
    """Return a model's outputs with its cached metrics. Raises NotFinite if the model diverged."""
    metrics = by_default() if metrics is None else metrics
    try:
        features = any(metric.name in ON_FEATURES for metric in metrics)
        outputs = model_outputs(model, data, test, features=features, name=f"{name} model")
    except NotFinite as error:
        raise NotFinite(f"the {name} model: {error}") from error
    alone = [metric for metric in metrics if needs_of(metric.function) == ("model",) and metric.own]
    _recall(outputs, alone, data.cache, lambda metrics: data.progress(metrics, f"evaluate {name} model"))
    return outputs


def model_outputs(
    model: nn.Module, data: ForgetData, test: ImageSet, *, features: bool = False, name: str = "model"
) -> ModelOutputs:
    """Return a model's outputs on all image sets, by one forward pass per set.

    features: keep the inputs of the last linear layer, if there is one. name: shown by the progress bar.
    """
    sets = {"forget": data.forget, "retain": data.retain, "test": test, "validation": data.validation}
    layer: nn.Module | None = None
    if features:
        with contextlib.suppress(ValueError):  # no such layer: metrics that need it have no value
            layer = last_linear_layer(model, data.forget, device=data.device)
    by_set: dict[str, Any] = dict.fromkeys(sets)
    size = forward_batch(data.device)
    for which, images in sets.items():
        if not len(images):
            continue
        steps = data.progress(range(-(-len(images) // size)), f"{name}, {which} images")
        batches = images.batches(size, device=data.device)
        shown = (batch for _, batch in zip(steps, batches, strict=True))
        by_set[which] = outputs_of(model, shown, layer if which in ("forget", "retain") else None)
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
    tensors = {f"{name}.logits": own.logits for name, own in outputs.sets.items()}
    tensors |= {f"{name}.labels": own.labels for name, own in outputs.sets.items()}
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
        for metric in unknown:
            kept[metric.name] = torch.tensor(values.get(metric.name, math.nan), dtype=torch.float64)
        for name, attack in outputs.attacks.items():
            kept[MEMBER + name] = attack.scores
            kept[RANGE + name] = torch.tensor([attack.lowest, attack.highest], dtype=torch.float64)
        cache[key] = kept
    known = {metric.name: float(kept[metric.name]) for metric in metrics}
    outputs.remember({name: value for name, value in known.items() if not math.isnan(value)})
    # Only the attacks of these metrics: an earlier run may have asked for more.
    for name in {ATTACK_OF.get(metric.name, metric.name) for metric in metrics}:
        if MEMBER + name in kept:
            outputs.attacks[name] = Attack(kept[MEMBER + name], *kept[RANGE + name].tolist())
