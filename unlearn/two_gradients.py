"""Methods whose step combines a forget and a retain gradient, with or without an add-on: the one loop of them
all.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flag_error import FlagError
from nearest_name import did_you_mean
from unlearn import passes
from unlearn.add_ons import ADD_ONS, Gradients, Rule, Step, plain
from unlearn.forget_and_retain import numbered
from unlearn.impl import METHODS, ForgetData, Resolve, Unlearned, copy_of
from unlearn.streams import endless
from unlearn.teacher import Seen, seen
from unlearn.train_mode import train_mode, without_a_last_single

Objective = Callable[
    [Tensor, Seen], Tensor
]  # the student's logits, and of which images they are -> a scalar to descend

OF_ADD_ONS = {"quantile", "memory", "memory_start"}  # flags


class AddOn(NamedTuple):
    """A rule for one run, and whether it asks for the gradient of the forget batch's true labels."""

    rule: Rule = plain
    true_labels: bool = False


def add_on_of(
    addon: str | None, *, quantile: float | None, memory: float | None, memory_start: float | None
) -> AddOn:
    """The add-on for one run. ValueError for an unknown add-on, or a flag that it does not have."""
    flags = {"quantile": quantile, "memory": memory, "memory_start": memory_start}
    given = {name: value for name, value in flags.items() if value is not None}
    if addon is None:
        if given:
            expected = f"--{' and --'.join(given)}: expected an --addon that has it"
            message = f"{expected}, got none. Name one of {', '.join(ADD_ONS.names)}"
            raise FlagError(next(iter(given)), message, named=False)
        return AddOn()
    if addon not in ADD_ONS:
        raise FlagError("addon", did_you_mean("add-on", addon, ADD_ONS.names))
    entry = ADD_ONS[addon]
    return AddOn(entry(**entry.settings(given)), entry.facts.true_labels)


def check_add_on(
    model: nn.Module,
    data: ForgetData,
    *,
    addon: str | None = None,
    quantile: float | None = None,
    memory: float | None = None,
    memory_start: float | None = None,
) -> None:
    """ValueError for an unknown add-on, and for flags of one that is not asked for."""
    add_on_of(addon, quantile=quantile, memory=memory, memory_start=memory_start)


def descend_both(
    model: nn.Module,
    data: ForgetData,
    name: str,
    forget: Objective,
    retain: Objective,
    add_on: AddOn,
    beta: float,
    unlearn_epochs: int,
    unlearn_lr: float,
    batch_size: int,
    *,
    keep_statistics: bool = False,
) -> Unlearned:
    """Adam on rule(g_u, g_c), the gradients of the two objectives on a forget and a retain batch; an epoch is
    a pass over forget.

    The retain set is reshuffled and goes round again where it is shorter, and goes on in the next epoch where
    it is longer.
    `keep_statistics` as in `passes.fine_tune`: for objectives with a least value. One that climbs without end
    goes further in eval mode by running statistics than retaining can repair. Raises FloatingPointError at
    the end of an epoch after which a loss or a weight is not finite.
    """
    student = copy_of(model)
    parameters = list(student.parameters())
    optimizer = torch.optim.Adam(parameters, lr=unlearn_lr)
    size = batch_size
    while any(without_a_last_single(images, size) > size for images in (data.forget, data.retain)):
        size += 1
    order, noise, moves = (data.generator(name, purpose) for purpose in ("forget", "dropout", "augmentation"))
    others = seen(endless(data, numbered(data.retain), size, name, "retain"))
    alone = min(size, len(data.forget), len(data.retain)) == 1
    images, labels, history = numbered(data.forget.to(data.device)), data.forget.labels.to(data.device), []
    for epoch in data.progress(range(unlearn_epochs), name):
        with train_mode(student, noise, data.device, single_images=alone or keep_statistics):
            losses = []
            forget_batches = seen(data.training_batches(images, size, order, moves))
            for (x_f, of_forget), (x_r, of_retain) in zip(forget_batches, others, strict=False):
                logits = student(x_f)
                forget_loss = forget(logits, of_forget)
                g_u = _gradients(forget_loss, parameters, retain_graph=add_on.true_labels)
                true = functools.partial(_of_true_labels, logits, labels[of_forget.positions], parameters)
                retain_loss = retain(student(x_r), of_retain)
                g_c = _gradients(retain_loss, parameters)
                for parameter, direction in zip(
                    parameters, add_on.rule(Step(g_u, g_c, beta, true)), strict=True
                ):
                    parameter.grad = direction
                optimizer.step()
                losses.append(torch.stack([forget_loss.detach(), retain_loss.detach()]))
        means = dict(zip(("forget_loss", "retain_loss"), torch.stack(losses).mean(0).tolist(), strict=True))
        passes.check_finite(student, means, f"{name} diverged in epoch {epoch + 1}")
        history.append(means)
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    return Unlearned(student, history=history)


def _gradients(loss: Tensor, parameters: list[nn.Parameter], *, retain_graph: bool = False) -> Gradients:
    return list(
        torch.autograd.grad(
            loss, parameters, allow_unused=True, materialize_grads=True, retain_graph=retain_graph
        )
    )


def _of_true_labels(logits: Tensor, labels: Tensor, parameters: list[nn.Parameter]) -> Gradients:
    """From the forward pass that the forget gradient came from: one more backward pass."""
    return _gradients(F.cross_entropy(logits, labels), parameters)


def register_with_add_ons(
    method: Callable[..., Any],
    names: dict[str, str],
    *,
    resolve: Sequence[Resolve],
    without: Collection[str] = (),
    **facts: Any,
) -> None:
    """Register `method` under each of the names as well, with the add-on of that name fixed: it is no flag
    there.

    Neither are the flags that other add-ons have, nor those `without` which the method does where it has an
    add-on.
    """
    for name, addon in names.items():
        foreign = OF_ADD_ONS - set(ADD_ONS[addon].hyperparameters)
        function = _with_add_on(method, name, addon, {"addon", *foreign, *without})
        with_it = tuple(
            functools.partial(one, addon=addon) if "addon" in inspect.signature(one).parameters else one
            for one in resolve
        )
        METHODS.register(name, resolve=with_it, **facts)(function)


def _with_add_on(
    method: Callable[..., Any], name: str, addon: str, without: Collection[str]
) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(model: nn.Module, data: ForgetData, **settings: Any) -> Unlearned:
        result: Unlearned = method(model, data, addon=addon, **settings)
        return result

    signature = inspect.signature(method)
    base = next(entry.name for entry in METHODS if entry.function is method)
    kept = [p for p in signature.parameters.values() if p.name not in without]
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    run.__doc__ = f"{base} with the add-on {addon}.\n\n{inspect.getdoc(method)}"
    run.__name__ = run.__qualname__ = name
    run.addon = addon  # type: ignore[attr-defined]
    return run
