"""What a run has to warn of: a method that diverged, destroyed the model, lost accuracy that was to be kept, or changed nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from measurement import Measured
from reporter.run_warning import RunWarning
from unlearn import Unlearned

LARGEST_LOSS = 1e4  # of a method's steps or of the measured model; beyond it something has diverged
LARGEST_FALL = 5.0  # percentage points of accuracy on what is to be kept; from there on it is worth a warning
COMPARED = ("forget", "retain", "test")
SHOWN = 3  # names of weights in one line


def warnings_of(
    initial: nn.Module, unlearned: Unlearned, measured: Measured, *, classes: int, leaves_weights: bool = False
) -> list[RunWarning]:
    """One for each thing that makes the numbers of a run doubtful; [] for none.

    diverged: a weight is not finite, or a loss (of the method's history, or measured on forget or retain) is not or is over 1e4
    gives probabilities: every row of a model's outputs is a distribution, which a softmax inside the model makes
    destroyed the model: retain_score below twice chance, 2 x 100 / classes percent
    lost accuracy: short of that, see `_lost`
    changed nothing, changed no prediction: see `_unchanged`

    `leaves_weights`: the method is meant to leave them alone.
    """
    return [
        *_diverged(unlearned, measured),
        *_no_logits(measured),
        *(_destroyed(measured, classes) or _lost(measured)),
        *_unchanged(initial, unlearned.model, measured, leaves_weights),
    ]


def _diverged(unlearned: Unlearned, measured: Measured) -> Iterator[RunWarning]:
    signs = [*_broken_weights(unlearned.model), *_broken_steps(unlearned.history), *_broken_losses(measured)]
    if signs:
        yield RunWarning("diverged", f"diverged: {', '.join(signs)}")


def _no_logits(measured: Measured) -> Iterator[RunWarning]:
    """A softmax at a model's end is no error of any computation, but every loss and probability is another one than the model's."""
    for name, model in measured.outputs.items():
        outputs = torch.cat([own.logits for own in model.sets.values()]).double()
        if bool((outputs >= 0).all()) and bool(((outputs.sum(dim=1) - 1).abs() < 1e-4).all()):
            expected = "expected logits, got rows that are not negative and sum to 1. Leave out its softmax"
            yield RunWarning("probabilities", f"the {name} gives probabilities: {expected}")


def _broken_weights(model: nn.Module) -> Iterator[str]:
    broken = [name for name, value in _tensors(model).items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        yield f"weights that are not finite ({', '.join(broken[:SHOWN])}{', ...' if len(broken) > SHOWN else ''})"


def _broken_steps(history: list[dict[str, float]]) -> Iterator[str]:
    """The first step of each loss that is beyond the limit. What else a history holds has limits of its own."""
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
    """What was measured, or where that metric was not asked for, what the model's outputs say."""
    values = measured.initial if which == "initial" else measured.model
    return values[name] if name in values else measured.outputs[f"{which} model"].metric(name)


def _beyond(loss: float) -> bool:
    return not math.isfinite(loss) or abs(loss) > LARGEST_LOSS


def _destroyed(measured: Measured, classes: int) -> list[RunWarning]:
    """Where two classes make twice chance 100 %, chance itself is the limit."""
    chance = 100 / classes
    limit, words = (2 * chance, "twice chance") if classes > 2 else (chance, "chance")
    before, after = _before_and_after(measured, "retain_score")
    if after >= limit:
        return []
    if before < limit:
        own = f"the initial model's own retain_score, {before:.2f} %, is under {words} ({limit:.4g} %)"
        text = f"nothing to preserve: {own}, and the unlearned model's is {after:.2f} %. Train the initial model for more epochs"
        return [RunWarning("nothing to preserve", text)]
    text = f"retain_score {after:.2f} % is under {words} ({limit:.4g} %); the initial model has {before:.2f} %"
    return [RunWarning("destroyed", f"destroyed the model: {text}")]


def _lost(measured: Measured) -> list[RunWarning]:
    """Where the score of the retain set, or of the test images that are to be kept, fell by 5 percentage points or more.

    Both are named: a method may keep the images that it repairs the model with, and lose those that nobody showed it.
    """
    outputs = measured.outputs["unlearned model"]
    of_test, on_test = (outputs.test_retain, "test_retain_score") if outputs.forget_classes else (outputs.test, "test_score")
    kept = ("retain_score", on_test) if len(of_test) else ("retain_score",)
    falls = []
    for name in kept:
        before, after = _before_and_after(measured, name)
        # Scores are shares of counted images: 95 % less 90 % is 5 points, whatever binary fractions make of it.
        if round(before - after, 9) >= LARGEST_FALL:
            falls.append(f"{name} fell {before - after:.2f} points, from {before:.2f} % to {after:.2f} %")
    return [RunWarning("lost accuracy", f"lost accuracy: {'; '.join(falls)}")] if falls else []


def _before_and_after(measured: Measured, name: str) -> tuple[float, float]:
    return _value(measured, "initial", name), _value(measured, "unlearned", name)


def _unchanged(initial: nn.Module, unlearned: nn.Module, measured: Measured, leaves_weights: bool) -> Iterator[RunWarning]:
    """Not one forget, retain or test image is taken for another class than before; the weights say whether anything was done."""
    before, after = (measured.outputs[f"{name} model"].sets for name in ("initial", "unlearned"))
    if any(not torch.equal(before[name].logits.argmax(1), after[name].logits.argmax(1)) for name in COMPARED):
        return
    if _same_weights(initial, unlearned):
        if not leaves_weights:
            yield RunWarning("changed nothing", "changed nothing: every weight is what it was")
        return
    moved = max(float((before[name].true_probabilities - after[name].true_probabilities).abs().max()) for name in COMPARED)
    same = "every forget, retain and test image is taken for the class that it was taken for before"
    text = f"changed no prediction: {same} (largest change of a true class's probability: {moved:.2g})"
    yield RunWarning("changed no prediction", text)


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same parameters and buffers, by name and bit for bit. A wrapped model has other names."""
    first, second = _tensors(one), _tensors(other)
    return first.keys() == second.keys() and all(_same_bits(value, second[name]) for name, value in first.items())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
