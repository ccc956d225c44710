"""SCRUB: move away from the teacher on what is forgotten, stay with it on what is retained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flag_error import FlagError
from training.loop import Loss
from unlearn import rewinding
from unlearn.forget_and_retain import numbered
from unlearn.impl import ForgetData, Unlearned, copy_of, register
from unlearn.passes import Pass, fine_tune, sgd
from unlearn.settings import (
    RESOLVED,
    AddOnName,
    BatchSize,
    Beta,
    CountFromZero,
    Epochs,
    LearningRate,
    Memory,
    MemoryStart,
    Momentum,
    Quantile,
    Temperature,
    Weight,
    WeightDecay,
)
from unlearn.teacher import Seen, Teacher
from unlearn.two_gradients import OF_ADD_ONS, add_on_of, check_add_on, descend_both, register_with_add_ons

SOURCE = "Kurmanji et al. 2023, arXiv:2302.09880; with an add-on Dine, Furon, Faure 2025, arXiv:2511.02435"

Settings = dict[str, Any]

_LARGE: Settings = {
    "unlearn_epochs": 3,
    "unlearn_lr": 5e-4,
    "batch_size": 256,
    "forget_batch_size": 512,
    "ascent_epochs": 2,
    "gamma": 0.99,
}
_LARGE |= {"kl_alpha": 1e-3, "temperature": 4.0, "momentum": 0.9, "weight_decay": 5e-4, "rewind": False}
_SMALL: Settings = {
    "unlearn_epochs": 10,
    "unlearn_lr": 5e-4,
    "batch_size": 32,
    "forget_batch_size": 64,
    "ascent_epochs": 3,
    "gamma": 1.0,
}
_SMALL |= {"kl_alpha": 0.5, "temperature": 2.0, "weight_decay": 0.1, "rewind": False}
_OWN = _SMALL | {
    "unlearn_epochs": 5,
    "batch_size": 64,
    "forget_batch_size": None,
    "temperature": 1.0,
    "weight_decay": 5e-4,
}
_JOINTLY = {
    "unlearn_epochs": 30,
    "unlearn_lr": 1e-4,
    "batch_size": 256,
    "gamma": 1.0,
    "kl_alpha": 1.0,
    "temperature": 1.0,
    "beta": 0.95,
}
RECIPES: dict[str, Settings] = {"own": _OWN, "large": _LARGE, "small": _SMALL, "jointly": _JOINTLY}
DECAYS = {
    "own": (),
    "large": (3, 5, 9),
    "small": (5, 8, 9),
}  # epochs after which the learning rate is a tenth of what it was
CLIMBS = 8  # steps of a pass over forget


def resolve(
    model: nn.Module,
    data: ForgetData,
    *,
    scrub_recipe: str | None = None,
    addon: str | None = None,
    **flags: Any,
) -> Settings:
    """The settings of the recipe, those that were given put in their place. ValueError for what is not of the
    recipe.
    """
    if addon is not None and scrub_recipe is not None:
        raise FlagError(
            "scrub_recipe",
            f"expected none with an --addon, which has its own, got {scrub_recipe!r}. Leave out one of them",
        )
    recipe = RECIPES["jointly" if addon is not None else scrub_recipe or "own"]
    given = {
        flag: value
        for flag, value in flags.items()
        if value is not None and value is not False and flag not in OF_ADD_ONS
    }
    foreign = sorted(set(given) - set(recipe))
    if foreign:
        names = " and --".join(foreign)
        message = f"--{names}: SCRUB has no such flag {_when(addon, foreign)}. Leave it out"
        raise FlagError(foreign[0], message, named=False)
    if given.get("rewind"):
        rewinding.check(data)
    settings = recipe | given
    if settings.get("forget_batch_size", 1) is None:
        settings["forget_batch_size"] = forget_batch(len(data.forget))
    return settings


def forget_batch(count: int) -> int:
    """Forget images a step: a pass has eight steps; more where they would be of over 512 images, fewer where
    they would be of one.
    """
    return min(max(2, -(-count // CLIMBS)), int(_LARGE["forget_batch_size"]))


def _when(addon: str | None, foreign: list[str]) -> str:
    """When SCRUB does not have the flags that it is given."""
    if addon is not None:
        return f"with the add-on {addon}, which takes both sets in one step"
    if foreign == ["momentum"]:
        return "but with --scrub_recipe large: the optimiser is Adam"
    return "without an --addon"


@register(
    "SCRUB",
    source=SOURCE,
    resolve=(check_add_on, resolve),
    augments=("forget", "retain"),
    source_augments="nothing",
)
def scrub(
    model: nn.Module,
    data: ForgetData,
    *,
    scrub_recipe: Literal["large", "small"] | None = None,
    unlearn_epochs: Epochs = RESOLVED,
    unlearn_lr: LearningRate = RESOLVED,
    batch_size: BatchSize = RESOLVED,
    forget_batch_size: BatchSize = RESOLVED,
    ascent_epochs: CountFromZero = RESOLVED,
    gamma: Weight = RESOLVED,
    kl_alpha: Weight = RESOLVED,
    temperature: Temperature = RESOLVED,
    momentum: Momentum = RESOLVED,
    weight_decay: WeightDecay = RESOLVED,
    rewind: bool = False,
    beta: Beta = RESOLVED,
    addon: AddOnName | None = None,
    quantile: Quantile | None = None,
    memory: Memory | None = None,
    memory_start: MemoryStart | None = None,
) -> Unlearned:
    """Climb the distance from the teacher, which is the initial model, on forget; then descend it on retain,
    with the cross-entropy.

        KL_T(x) = T^2 KL(softmax(t(x) / T) || softmax(f_theta(x) / T))        t: the initial model, never changed
        first ascent_epochs epochs: a pass over forget that climbs mean KL_T
        every epoch: then a pass over retain that descends gamma CE(f_theta(x), y) + kl_alpha KL_T

    With an add-on both go into one step, Adam on rule(g_u, g_c): g_u the gradient of -mean KL_T on a forget
    batch, g_c that of the retain objective, d = beta g_c + (1 - beta) g_u, an epoch a pass over forget.

    OPT and FocusOPT make d a descent direction of both objectives; what Adam makes of d need not be one.

    Where the student is the teacher, at the start, KL_T has no gradient: on a model without dropout the first
    step that moves it is a retain step, or weight decay's. A pass over forget of a single step therefore does
    nothing in the first epoch.

    Batch norm takes the statistics of each batch: the climb has no end, and by the running ones it goes
    further than retaining repairs.

    How far the climb goes is a matter of its steps and of their length. Adam's are of one length whatever the
    distance's slope, and a pass over forget has eight of them, or more where they would be of more than 512
    images. Kurmanji et al.'s two recipes are here
    as they are: large (SGD) for a class of CIFAR-10, small (Adam) for a few hundred images. On a class of
    digits large has one step a pass and forgets nothing, on one of MNIST it goes too far.

    With `rewind` (SCRUB+R) the model of an earlier epoch may be given back: the one whose error on forget is
    nearest to the last epoch's error on validation images, each class as often as in forget. The weights of
    each epoch are kept in main memory, once where several have the same error.

    Flags:
        scrub_recipe: Kurmanji et al.'s values of all flags that are not given, and their optimiser: large or
            small
        unlearn_epochs: epochs (5; large 3, small 10, with an add-on 30)
        unlearn_lr: learning rate (5e-4, with an add-on 1e-4); a tenth after epochs 3, 5, 9 (large) or 5, 8, 9
            (small)
        batch_size: retain images a step (64; large 256, small 32); images of each kind with an add-on (256)
        forget_batch_size: forget images a step (an eighth of them, from 2 to 512; large 512, small 64)
        ascent_epochs: the first epochs, which climb on forget (3; large 2), called msteps there
        gamma: weight of the cross-entropy (1; large .99)
        kl_alpha: weight of the distance from the teacher on retain (.5; large 1e-3, with an add-on 1)
        temperature: T (1; large 4, small 2)
        momentum: momentum of SGD (large .9); Adam has none
        weight_decay: weight decay of the optimiser (5e-4; small .1)
        rewind: give back the epoch whose forget error is that of images never trained on
        beta: weight of the retain gradient, between 0 and 1, with an add-on (.95)
        addon: rule that combines the two gradients of one step: GradMask, ANDMask, VarGrad, GradFocus, OPT,
            FocusOPT, SalUn

    Raises ValueError for flags that make no sense or that the recipe does not have, and for `rewind` where
    validation has no image of a class that is forgotten; FloatingPointError if it diverges.

    Departure: the default, which is neither of the source's recipes.
    """
    away, near = _objectives(model, data, gamma, kl_alpha, temperature)
    if addon is not None:
        add_on = add_on_of(addon, quantile=quantile, memory=memory, memory_start=memory_start)

        def climb_away(logits: Tensor, batch: Seen) -> Tensor:
            return -away(logits, batch)

        return descend_both(
            model, data, "SCRUB", climb_away, near, add_on, beta, unlearn_epochs, unlearn_lr, batch_size
        )
    student = copy_of(model)
    forget, retain = numbered(data.forget.to(data.device)), numbered(data.retain.to(data.device))
    climb = Pass("forget", forget, away, climb=True, batch_size=forget_batch_size, numbered=True)
    stay = Pass("retain", retain, near, numbered=True)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(
        student.parameters(), lr=unlearn_lr, weight_decay=weight_decay
    )
    if scrub_recipe == "large":
        optimizer = sgd(student, unlearn_lr, momentum, weight_decay)

    def plan(epoch: int) -> list[Pass]:
        for group in optimizer.param_groups:
            group["lr"] = unlearn_lr * decayed(epoch, DECAYS[scrub_recipe or "own"])
        return [climb, stay] if epoch < ascent_epochs else [stay]

    checkpoints = rewinding.Checkpoints(data)
    seen = checkpoints.watching() if rewind else data
    done = fine_tune(student, seen, "SCRUB", plan, optimizer, unlearn_epochs, batch_size)
    return checkpoints.rewound(done) if rewind else done


def decayed(epoch: int, after: Sequence[int]) -> float:
    """What the learning rate is multiplied by in an epoch, counted from 0: a tenth for each of the numbers of
    epochs that are over.
    """
    over = sum(epoch >= count for count in after)
    return 0.1**over


def distance(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over the batch of KL(softmax(teacher / T) || softmax(student / T)), nats."""
    taught, learned = ((logits / temperature).log_softmax(1) for logits in (teacher_logits, student_logits))
    return temperature**2 * F.kl_div(learned, taught, reduction="batchmean", log_target=True)


def _objectives(
    model: nn.Module, data: ForgetData, gamma: float, kl_alpha: float, temperature: float
) -> tuple[Loss, Loss]:
    """What is climbed on forget and what is descended on retain, by what was seen of these sets."""
    of_forget, of_retain = (Teacher(model, images, data) for images in (data.forget, data.retain))
    labels = data.retain.labels.to(data.device)

    def away(logits: Tensor, batch: Seen) -> Tensor:
        return distance(of_forget(batch), logits, temperature)

    def near(logits: Tensor, batch: Seen) -> Tensor:
        from_teacher = distance(of_retain(batch), logits, temperature)
        return gamma * F.cross_entropy(logits, labels[batch.positions]) + kl_alpha * from_teacher

    return away, near


register_with_add_ons(
    scrub,
    {"SCRUBGradMask": "GradMask", "SCRUBFocus": "GradFocus", "SCRUBSalUn": "SalUn"},
    without=("scrub_recipe", "forget_batch_size", "ascent_epochs", "momentum", "weight_decay", "rewind"),
    source=SOURCE,
    augments=("forget", "retain"),
    resolve=(check_add_on, resolve),
)
