"""bad_teacher: imitate an untrained teacher on the forget set, the initial model on the retain set."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.training.optimizers import Adam
from lethe.unlearn.blocks import redraw_of
from lethe.unlearn.forget_and_retain import with_share_of_retain
from lethe.unlearn.fresh_weights import redrawn
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Share, Temperature
from lethe.unlearn.teacher import Seen, Teacher


def check_drawable(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a model with weights that can't be drawn anew."""
    for name, module in model.named_modules():
        own = [parameter for parameter, _ in module.named_parameters(recurse=False)]
        if own and redraw_of(module) is None:
            place = f"{type(module).__name__} ({name or 'the model itself'})"
            raise ValueError(
                f"bad_teacher: expected modules that can draw their weights anew, got {place} with "
                f"{', '.join(own)} and no reset_parameters(). Give it one"
            )


@register(
    "bad_teacher",
    "bad_teaching",
    source="Chundawat et al. 2023, arXiv:2205.08096",
    resolve=(check_drawable,),
    needs=("forget", "retain"),
    augments=("forget", "retain"),
    source_augments="nothing",
    parallel=True,
)
def bad_teacher(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 1,
    unlearn_lr: LearningRate = 1e-4,
    batch_size: BatchSize = 256,
    retain_share: Share = 0.3,
    teacher_temperature: Temperature = 1.0,
) -> Unlearned:
    """Imitate an incompetent teacher on forget, the initial model on a part of retain, by Adam.

        theta <- theta - unlearn_lr Adam(grad mean KL(softmax(t(x) / T) || softmax(f_theta(x) / T)))
        t = the same architecture with new random weights on forget, the initial model on retain
        T = teacher_temperature

    Flags:
        unlearn_epochs: passes over the forget images and the drawn retain images together
        unlearn_lr: learning rate of Adam
        batch_size: images a step; where batch norm would be left with a single image, a few more
        retain_share: part of the retain set that is drawn, once
        teacher_temperature: divides the logits of teachers and student

    Raises ValueError for a model with weights that can't be drawn anew, and
    FloatingPointError as soon as a loss is not finite.

    Departures: the published loop divides the KL by the number of classes as well; Adam does not see the
    factor. Its teacher's initial weights are the architecture's own; here they are the layers'.
    """
    student = copy_of(model)
    images, forgets = with_share_of_retain(data, retain_share, "bad_teacher")
    forgets = forgets.to(data.device)
    ignorant, knowing = (Teacher(teacher, images, data) for teacher in (incompetent(model, data), model))

    def divergence(student_logits: Tensor, batch: Seen) -> Tensor:
        taught = torch.where(forgets[batch.positions, None], ignorant(batch), knowing(batch))
        learned, taught = ((z / teacher_temperature).log_softmax(1) for z in (student_logits, taught))
        return F.kl_div(learned, taught, reduction="batchmean", log_target=True)

    plan = [Pass("imitation", images, divergence, numbered=True)]
    optimizer = Adam(student.parameters(), lr=unlearn_lr)
    return fine_tune(student, data, "bad_teacher", lambda _: plan, optimizer, unlearn_epochs, batch_size)


def incompetent(model: nn.Module, data: ForgetData) -> nn.Module:
    """Return a copy whose layers draw their weights anew by `reset_parameters`, seeded by the data's seed.

    Raises ValueError if a module has parameters and no `reset_parameters`.
    """
    check_drawable(model, data)
    teacher = redrawn(model, data.generator("bad_teacher", "incompetent"))
    return teacher.to(data.device).eval().requires_grad_(False)
