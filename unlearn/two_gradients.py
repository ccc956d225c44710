"""Methods whose step combines a forget and a retain gradient, with or without an add-on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import ImageSet
from lethe.flag_error import FlagError
from lethe.registry import Entry
from lethe.signature import Help
from lethe.training.optimizers import Adam
from lethe.training.shared_batch import mean_gradients, outputs_of
from lethe.unlearn import passes
from lethe.unlearn.add_ons import ADD_ONS, AddOn, Gradients, Step, add_on_of
from lethe.unlearn.forget_and_retain import numbered
from lethe.unlearn.impl import METHODS, ForgetData, Resolve, Unlearned, copy_of
from lethe.unlearn.settings import BETA
from lethe.unlearn.streams import endless
from lethe.unlearn.teacher import Seen, seen
from lethe.unlearn.train_mode import train_mode, without_a_last_single

Objective = Callable[[Tensor, Seen], Tensor]  # the student's logits for a batch -> a scalar to descend


def cross_entropy_of(images: ImageSet, device: torch.device) -> Objective:
    """Return the mean cross-entropy of a batch of these images, with their labels."""
    labels = images.labels.to(device)
    return lambda logits, batch: F.cross_entropy(logits, labels[batch.positions])


def descend_both(
    model: nn.Module,
    data: ForgetData,
    name: str,
    *,
    forget: Objective,
    retain: Objective,
    add_on: AddOn,
    beta: float,
    unlearn_epochs: int,
    unlearn_lr: float,
    batch_size: int,
    keep_statistics: bool = False,
) -> Unlearned:
    """Descend two objectives by Adam on rule(g_u, g_c), the gradients on a forget and a retain batch.

    An epoch is a pass over forget. The retain set is reshuffled after each pass over it, whichever is longer.
    `keep_statistics` as in `passes.Pass`, for objectives with a minimum: by running statistics, one without
    would go further than retaining can repair. Raises FloatingPointError after an epoch whose losses or
    weights are not finite.
    """
    student = copy_of(model)
    parameters = list(student.parameters())

    def gradients(loss: Tensor, retain_graph: bool = False) -> Gradients:
        # A rule is no linear function: it gets the gradients of the whole batch.
        return mean_gradients(gradients_of(loss, parameters, retain_graph=retain_graph), data.group)

    optimizer = Adam(parameters, lr=unlearn_lr)
    size = batch_size_for((data.forget, data.retain), batch_size)
    order, noise, moves = (data.generator(name, purpose) for purpose in ("forget", "dropout", "augmentation"))
    retain_batches = seen(endless(data, numbered(data.retain), size, name, "retain"))
    images, true_labels = numbered(data.forget.to(data.device)), cross_entropy_of(data.forget, data.device)
    single = min(size, len(data.forget), len(data.retain)) == 1
    history = []
    for epoch in data.progress(range(unlearn_epochs), name):
        losses = []
        forget_batches = seen(data.training_batches(images, size, order, moves))
        with train_mode(student, noise, data.device, single_images=single or keep_statistics):
            for (x_f, of_forget), (x_r, of_retain) in zip(forget_batches, retain_batches, strict=False):
                logits = outputs_of(student, x_f, data.group)
                forget_loss = forget(logits, of_forget)
                g_u = gradients(forget_loss, retain_graph=add_on.true_labels)
                retain_loss = retain(outputs_of(student, x_r, data.group), of_retain)
                g_c = gradients(retain_loss)

                def of_true_labels(logits: Tensor = logits, batch: Seen = of_forget) -> Gradients:
                    add_on.check_true_labels()
                    return gradients(true_labels(logits, batch))

                step = Step(g_u, g_c, beta, of_true_labels, retain_loss.detach())
                for parameter, direction in zip(parameters, add_on.direction(step), strict=True):
                    parameter.grad = direction
                optimizer.step()
                losses.append(torch.stack([forget_loss.detach(), retain_loss.detach()]))
        means = dict(zip(("forget_loss", "retain_loss"), torch.stack(losses).mean(0).tolist(), strict=True))
        passes.check_finite(student, means, f"{name} diverged in epoch {epoch + 1}")
        history.append(means)
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    return Unlearned(student, history=history)


def check_add_on(model: nn.Module, data: ForgetData, *, addon: str | None, **settings: Any) -> None:
    """Raise ValueError for an add-on that returns no rule, and for a beta that it does not use."""
    if addon is not None:
        beta = settings.get("beta")
        if not ADD_ONS[addon].facts.uses_beta and beta not in (None, BETA):
            raise FlagError(
                "beta", f"{ADD_ONS[addon].name} weighs the gradients itself, got {beta}. Leave the flag out"
            )
        flags = ADD_ONS[addon].hyperparameters
        add_on_of(addon, {flag: settings[flag] for flag in flags})


def batch_size_for(sets: Iterable[ImageSet], size: int) -> int:
    """Return `size`, or the next larger one that leaves no single image for the last batch of any set."""
    sets = list(sets)
    while any(without_a_last_single(images, size) > size for images in sets):
        size += 1
    return size


def gradients_of(loss: Tensor, parameters: list[nn.Parameter], *, retain_graph: bool = False) -> Gradients:
    """Return the loss's gradient, a tensor per parameter; 0 where it does not depend on one."""
    return list(
        torch.autograd.grad(
            loss, parameters, allow_unused=True, materialize_grads=True, retain_graph=retain_graph
        )
    )


def register_with_add_ons(
    method: Callable[..., Any], names: dict[str, str], without: Collection[str] = ()
) -> None:
    """Register `method` again under joint names, each with the add-on's own flags in place of `addon`.

    names: joint names with their add-ons. without: flags that the method does not have with an add-on.
    """
    base = METHODS.of(method)
    for name, addon in names.items():
        facts = vars(base.facts) | {"add_on": addon, "resolve": _with(addon, base.facts.resolve)}
        METHODS.register(name, **facts)(_joint(base, name, addon, without))


def _with(addon: str, resolve: Iterable[Resolve]) -> tuple[Resolve, ...]:
    """Fix the add-on of the functions that take one."""
    return tuple(
        functools.partial(each, addon=addon) if "addon" in inspect.signature(each).parameters else each
        for each in resolve
    )


def _joint(base: Entry[Any], name: str, addon: str, without: Collection[str]) -> Callable[..., Any]:
    @functools.wraps(base.function)
    def joint(model: nn.Module, data: ForgetData, **settings: Any) -> Unlearned:
        result: Unlearned = base.function(model, data, addon=addon, **settings)
        return result

    signature, hints = inspect.signature(base.function), get_type_hints(base.function, include_extras=True)
    left_out = {"addon", *without}
    own = [p for p in signature.parameters.values() if p.name not in left_out and p.kind is not p.VAR_KEYWORD]
    for flag in ADD_ONS[addon].hyperparameters.values():
        own.append(inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=flag.default))
        hints[flag.name] = Annotated[(flag.annotation, *flag.notes, Help(flag.help))]
    joint.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    joint.__annotations__ = hints
    joint.__doc__ = f"{base.name} with the add-on {addon}.\n\n{inspect.getdoc(base.function)}"
    joint.__name__ = joint.__qualname__ = name
    return joint
