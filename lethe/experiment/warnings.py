"""Warnings of a run: the method diverged, destroyed the model, lost accuracy, or changed nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.experiment.measure import Measured
from lethe.experiment.singled_out import not_singled_out
from lethe.report.run_warning import RunWarning
from lethe.training import same_weights
from lethe.unlearn import Unlearned

LARGEST_LOSS = 1e4  # of a method's steps or of the evaluated model; a larger one has diverged
LARGEST_FALL = 5.0  # percentage points of accuracy on retained images; a larger fall is a warning
COMPARED = ("forget", "retain", "test")
LEAST_RELIABILITY = 0.7  # of memorisation scores
SHOWN = 3  # names of weights in one line


def warnings_of(
    initial: nn.Module,
    unlearned: Unlearned,
    measured: Measured,
    *,
    classes: int,
    leaves_weights: bool = False,
) -> list[RunWarning]:
    """Return the warnings of a run; [] if there are none.

    diverged: a weight is not finite, or a loss (in the method's history, or on forget or retain) is not
        finite or over 1e4
    gives probabilities: every row of a model's outputs is a distribution (the model ends in a softmax)
    destroyed the model: retain_score below twice chance, 2 x 100 / classes percent
    lost accuracy: if it is not destroyed, see `_lost_accuracy`
    missed its targets: the method says so
    not singled out: a mask for a part of a class takes the rest of it along, see `not_singled_out`
    changed nothing, changed no prediction: see `_unchanged`

    `leaves_weights`: the method leaves the weights unchanged by design.
    """
    return [
        *_diverged(unlearned, measured),
        *_no_logits(measured),
        *(_destroyed(measured, classes) or _lost_accuracy(measured)),
        *_missed(unlearned),
        *_not_singled_out(unlearned, measured),
        *_unchanged(initial, unlearned.model, measured, leaves_weights),
    ]


def unreliable(reliability: float | None, shadows: int) -> list[RunWarning]:
    """Return a warning for memorisation scores of a low split-half reliability, or of an unknown one."""
    if reliability is not None and reliability >= LEAST_RELIABILITY:
        return []
    found = "is unknown" if reliability is None else f"is {reliability:.2f}, below {LEAST_RELIABILITY}"
    text = (
        f"the split-half reliability of the memorisation scores {found}, with {shadows} shadow models. Take "
        f"more: --shadows {4 * shadows}"
    )
    return [RunWarning("unreliable", text)]


def _diverged(unlearned: Unlearned, measured: Measured) -> Iterator[RunWarning]:
    signs = [*_broken_weights(unlearned.model), *_broken_steps(unlearned.history), *_broken_losses(measured)]
    if signs:
        yield RunWarning("diverged", f"diverged: {', '.join(signs)}")


def _missed(unlearned: Unlearned) -> Iterator[RunWarning]:
    if unlearned.misses:
        yield RunWarning("missed its targets", unlearned.misses)


def _not_singled_out(unlearned: Unlearned, measured: Measured) -> Iterator[RunWarning]:
    if unlearned.mask is None:
        return
    text = not_singled_out(measured.outputs["initial model"], measured.outputs["unlearned model"])
    if text:
        yield RunWarning("not singled out", text)


def _no_logits(measured: Measured) -> Iterator[RunWarning]:
    """A softmax inside the model raises no error, but makes every loss and probability wrong."""
    for name, model in measured.outputs.items():
        outputs = torch.cat([own.logits for own in model.sets.values()]).double()
        if bool((outputs >= 0).all()) and bool(((outputs.sum(dim=1) - 1).abs() < 1e-4).all()):
            expected = "expected logits, got rows that are not negative and sum to 1. Leave out its softmax"
            yield RunWarning("probabilities", f"the {name} gives probabilities: {expected}")


def _broken_weights(model: nn.Module) -> Iterator[str]:
    floats = {name: value for name, value in _tensors(model).items() if value.is_floating_point()}
    broken = [name for name, value in floats.items() if not value.isfinite().all()]
    if broken:
        more = ", ..." if len(broken) > SHOWN else ""
        yield f"weights that are not finite ({', '.join(broken[:SHOWN])}{more})"


def _broken_steps(history: list[dict[str, float]]) -> Iterator[str]:
    """Yield the first step of each loss beyond the limit. Other values of a history are not checked."""
    seen = set()
    for step, values in enumerate(history, 1):
        for name, value in values.items():
            if "loss" in name and name not in seen and _beyond(value):
                seen.add(name)
                yield f"{name} {value:.4g} in step {step} of its history"


def _broken_losses(measured: Measured) -> Iterator[str]:
    for name in ("forget_loss", "retain_loss"):
        value = _value(measured, "unlearned", name)
        if _beyond(value):
            yield f"measured {name} {value:.4g}"


def _value(measured: Measured, which: Literal["initial", "unlearned"], name: str) -> float:
    """Return a metric: measured, or computed now from the model's outputs."""
    values = measured.initial if which == "initial" else measured.model
    return values[name] if name in values else measured.outputs[f"{which} model"].metric(name)


def _beyond(loss: float) -> bool:
    return not math.isfinite(loss) or abs(loss) > LARGEST_LOSS


def _destroyed(measured: Measured, classes: int) -> list[RunWarning]:
    """For two classes the limit is chance, as twice chance would be 100 %."""
    chance = 100 / classes
    limit, words = (2 * chance, "twice chance") if classes > 2 else (chance, "chance")
    before, after = _before_and_after(measured, "retain_score")
    if after >= limit:
        return []
    if before < limit:
        own = f"the initial model's own retain_score, {before:.2f} %, is under {words} ({limit:.4g} %)"
        text = f"{own}, and the unlearned model's is {after:.2f} %. Train the initial model for more epochs"
        return [RunWarning("nothing to preserve", f"nothing to preserve: {text}")]
    under = f"retain_score {after:.2f} % is under {words} ({limit:.4g} %)"
    text = f"destroyed the model: {under}; the initial model has {before:.2f} %"
    return [RunWarning("destroyed", text)]


def _lost_accuracy(measured: Measured) -> list[RunWarning]:
    """Warn if the score of retain, or of the retained classes' test images, fell by 5 points or more.

    Checks both: a method may keep the score on the images that it repairs the model with, and lose it on
    unseen ones.
    """
    outputs = measured.outputs["unlearned model"]
    of_test, on_test = (
        (outputs.test_retain, "test_retain_score") if outputs.forget_classes else (outputs.test, "test_score")
    )
    kept = ("retain_score", on_test) if len(of_test) else ("retain_score",)
    falls = []
    for name in kept:
        before, after = _before_and_after(measured, name)
        # Rounded, as binary fractions would make 95 % - 90 % less or more than 5 points.
        if round(before - after, 9) >= LARGEST_FALL:
            falls.append(f"{name} fell {before - after:.2f} points, from {before:.2f} % to {after:.2f} %")
    return [RunWarning("lost accuracy", f"lost accuracy: {'; '.join(falls)}")] if falls else []


def _before_and_after(measured: Measured, name: str) -> tuple[float, float]:
    return _value(measured, "initial", name), _value(measured, "unlearned", name)


def _unchanged(
    initial: nn.Module, unlearned: nn.Module, measured: Measured, leaves_weights: bool
) -> Iterator[RunWarning]:
    """Warn if no prediction on forget, retain and test changed, and whether the weights did."""
    before, after = (measured.outputs[f"{name} model"].sets for name in ("initial", "unlearned"))
    if any(not torch.equal(before[name].logits.argmax(1), after[name].logits.argmax(1)) for name in COMPARED):
        return
    if same_weights(initial, unlearned):
        if not leaves_weights:
            yield RunWarning("changed nothing", "changed nothing: every weight is the same as before")
        return
    moved = max(
        float((before[name].true_probabilities - after[name].true_probabilities).abs().max())
        for name in COMPARED
    )
    same = "every forget, retain and test image has the same predicted class as before"
    text = f"changed no prediction: {same} (largest change of a true class's probability: {moved:.2g})"
    yield RunWarning("changed no prediction", text)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
