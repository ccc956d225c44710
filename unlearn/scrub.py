"""SCRUB: move away from the teacher on the forget set, stay with it on the retain set."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.flag_error import FlagError
from lethe.training.optimizers import Adam
from lethe.unlearn import rewinding
from lethe.unlearn.add_ons import AddOnName, add_on_of
from lethe.unlearn.dual_optimizer import DualOptimizer, forget_optimizer
from lethe.unlearn.forget_and_retain import numbered
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import (
    RESOLVED,
    BatchSize,
    Beta,
    CountFromZero,
    Epochs,
    LearningRate,
    Momentum,
    Temperature,
    Weight,
    WeightDecay,
)
from lethe.unlearn.teacher import Seen, Teacher
from lethe.unlearn.two_gradients import check_add_on, cross_entropy_of, descend_both, register_with_add_ons

Settings = dict[str, Any]

SHARED = ("unlearn_epochs", "unlearn_lr", "batch_size", "gamma", "kl_alpha", "temperature")
IN_TURNS = (*SHARED, "forget_batch_size", "ascent_epochs", "weight_decay")
RECIPES: dict[str, Settings] = {
    "own": dict(zip(IN_TURNS, (5, 5e-4, 64, 1.0, 0.5, 1.0, None, 3, 5e-4), strict=True)),
    "small": dict(zip(IN_TURNS, (10, 5e-4, 32, 1.0, 0.5, 2.0, 64, 3, 0.1), strict=True)),
    "large": dict(zip(IN_TURNS, (3, 5e-4, 256, 0.99, 1e-3, 4.0, 512, 2, 5e-4), strict=True)),
    "with an add-on": dict(zip((*SHARED, "beta"), (30, 1e-4, 256, 1.0, 1.0, 1.0, 0.95), strict=True)),
}
RECIPES["large"]["momentum"] = 0.9
DECAYS = {"own": (), "large": (3, 5, 9), "small": (5, 8, 9)}  # the learning rate is a tenth after each epoch
ONLY_IN_TURNS = (
    "scrub_recipe",
    "rewind",
    "dual_optimizer",
    "forget_batch_size",
    "ascent_epochs",
    "momentum",
    "weight_decay",
)
IN_ONE_STEP = (
    "with the add-on {}, which takes both sets in one step, by its own recipe. Leave out one of the two"
)
IN_TURNS_LACKS = {
    "beta": "without an --addon: no step has two gradients. Leave it out, or give an --addon",
    "momentum": "except with --scrub_recipe large: the optimiser is Adam. Leave it out, or give that recipe",
}
CLIMBS = 8  # steps of a pass over forget


def resolve(
    model: nn.Module,
    data: ForgetData,
    *,
    scrub_recipe: str | None = None,
    addon: str | None = None,
    **flags: Any,
) -> Settings:
    """Return the recipe's settings, updated by the given ones. Raises ValueError for flags it lacks."""
    name = scrub_recipe or "own" if addon is None else "with an add-on"
    recipe = RECIPES[name]
    flags |= {"scrub_recipe": scrub_recipe}
    known = set(recipe) if addon is not None else {*recipe, "scrub_recipe", "rewind", "dual_optimizer"}
    given = {flag: value for flag, value in flags.items() if value is not None and value is not False}
    foreign = sorted((given.keys() & {*ONLY_IN_TURNS, "beta"}) - known)
    if foreign:
        flag = foreign[0]
        why = IN_TURNS_LACKS[flag] if addon is None else IN_ONE_STEP.format(addon)
        raise FlagError(flag, f"SCRUB has no such flag {why}")
    if given.get("rewind"):
        rewinding.check(data)
    settings = {flag: given.get(flag, value) for flag, value in recipe.items()}
    if settings.get("forget_batch_size", 1) is None:
        settings["forget_batch_size"] = forget_batch(len(data.forget))
    return settings


def forget_batch(count: int) -> int:
    """Return the forget images of a step for eight steps a pass; at least 2, at most 512 images."""
    return min(max(2, -(-count // CLIMBS)), 512)


@register(
    "SCRUB",
    source="Kurmanji et al. 2023, arXiv:2302.09880; with an add-on Dine, Furon, Faure 2025, arXiv:2511.02435",
    resolve=(resolve, check_add_on),
    augments=("forget", "retain"),
    source_augments="nothing",
    parallel=True,
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
    dual_optimizer: DualOptimizer | None = None,
    beta: Beta = RESOLVED,
    addon: AddOnName | None = None,
    **of_add_on: Any,
) -> Unlearned:
    """Climb the KL divergence from the initial model on forget, descend it and the cross-entropy on retain.

        KL_T(x) = T^2 KL(softmax(t(x) / T) || softmax(f_theta(x) / T))    t: the teacher, the initial model
        first ascent_epochs epochs: a pass over forget that climbs mean KL_T
        every epoch: then a pass over retain that descends gamma CE(f_theta(x), y) + kl_alpha KL_T

    With an add-on both go into one step, Adam on rule(g_u, g_c): g_u the gradient of -mean KL_T on a forget
    batch, g_c that of the retain objective, d = beta g_c + (1 - beta) g_u, an epoch a pass over forget. OPT
    and FocusOPT make d a descent direction of both objectives; what Adam makes of d need not be one.

    At the start the student is the teacher and KL_T has no gradient: without dropout the first step that
    moves it is a retain step, or weight decay's. A pass over forget of a single step therefore does nothing
    in the first epoch. Batch norm takes the statistics of each batch: the climb has no end, and by the
    running ones it goes further than retaining repairs.

    The number and the length of the steps decide how far the climb goes. Adam's steps have one length
    whatever the slope, and a pass over forget has eight of them, or more for steps of at most 512 images.
    Kurmanji et al.'s two recipes are here unchanged: large (SGD) for a class of CIFAR-10, small (Adam) for a
    few hundred images. On a class of digits large has one step a pass and forgets nothing, on one of MNIST it
    goes too far.

    With `rewind` (SCRUB+R) the model of an earlier epoch may be returned: the one whose error on forget is
    nearest to the last epoch's error on validation images, each class as often as in forget. Main memory
    holds the weights of each epoch, once where several have the same error.

    Flags:
        scrub_recipe: Kurmanji et al.'s values of all flags that are not given, and their optimiser: large or
            small
        unlearn_epochs: epochs (5; large 3, small 10, with an add-on 30)
        unlearn_lr: learning rate (5e-4, with an add-on 1e-4); a tenth after epochs 3, 5, 9 (large) or 5, 8, 9
            (small)
        batch_size: retain images a step (64; large 256, small 32); images of each kind with an add-on (256)
        forget_batch_size: forget images a step (an eighth of them, from 2 to 512; large 512, small 64)
        ascent_epochs: number of first epochs that climb on forget (3; large 2); msteps in the source
        gamma: weight of the cross-entropy (1; large .99)
        kl_alpha: weight of the distance from the teacher on retain (.5; large 1e-3, with an add-on 1)
        temperature: T (1; large 4, small 2)
        momentum: momentum of SGD (large .9); Adam has none
        weight_decay: weight decay of the optimiser (5e-4; small .1)
        rewind: return the epoch whose forget error is that of images never trained on
        beta: weight of the retain gradient, between 0 and 1, with an add-on (.95)

    Raises ValueError for flags that the recipe or the add-on does not have, and for `rewind` where validation
    has no image of a class that is forgotten; FloatingPointError if it diverges.

    Departure: the default, which is neither of the source's recipes.
    """
    of_forget, of_retain = (Teacher(model, images, data) for images in (data.forget, data.retain))
    cross_entropy = cross_entropy_of(data.retain, data.device)

    def away(logits: Tensor, batch: Seen) -> Tensor:
        return distance(of_forget(batch), logits, temperature)

    def near(logits: Tensor, batch: Seen) -> Tensor:
        from_teacher = distance(of_retain(batch), logits, temperature)
        return gamma * cross_entropy(logits, batch) + kl_alpha * from_teacher

    if addon is not None:
        return descend_both(
            model,
            data,
            "SCRUB",
            forget=lambda logits, batch: -away(logits, batch),
            retain=near,
            add_on=add_on_of(addon, of_add_on),
            beta=beta,
            unlearn_epochs=unlearn_epochs,
            unlearn_lr=unlearn_lr,
            batch_size=batch_size,
        )
    student = copy_of(model)
    forget, retain = numbered(data.forget.to(data.device)), numbered(data.retain.to(data.device))
    of_climb = forget_optimizer(student, dual_optimizer)
    climb = Pass(
        "forget",
        forget,
        away,
        climb=True,
        batch_size=forget_batch_size,
        numbered=True,
        optimizer=of_climb,
    )
    stay = Pass("retain", retain, near, numbered=True)
    if scrub_recipe == "large":
        optimizer: torch.optim.Optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    else:
        optimizer = Adam(student.parameters(), lr=unlearn_lr, weight_decay=weight_decay)

    def plan(epoch: int) -> list[Pass]:
        for group in optimizer.param_groups:
            group["lr"] = unlearn_lr * decay(epoch, scrub_recipe)
        return [climb, stay] if epoch < ascent_epochs else [stay]

    checkpoints = rewinding.Checkpoints(data)
    seen = checkpoints.watching() if rewind else data
    done = fine_tune(student, seen, "SCRUB", plan, optimizer, unlearn_epochs, batch_size)
    return checkpoints.rewound(done) if rewind else done


def decay(epoch: int, recipe: str | None) -> float:
    """Return the learning rate's factor in an epoch, counted from 0: a tenth after each of DECAYS' epochs."""
    return 0.1 ** sum(epoch >= after for after in DECAYS[recipe or "own"])


def distance(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch's mean KL(softmax(teacher / T) || softmax(student / T)), nats."""
    taught, learned = ((logits / temperature).log_softmax(1) for logits in (teacher_logits, student_logits))
    return temperature**2 * F.kl_div(learned, taught, reduction="batchmean", log_target=True)


register_with_add_ons(
    scrub,
    {"SCRUBGradMask": "GradMask", "SCRUBFocus": "GradFocus", "SCRUBSalUn": "SalUn"},
    without=ONLY_IN_TURNS,
)
