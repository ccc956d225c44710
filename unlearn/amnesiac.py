"""amnesiac: fine-tune on all images, those of the forget set with fixed wrong labels."""

from __future__ import annotations

from torch import nn

from lethe.training.optimizers import Adam
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune
from lethe.unlearn.random_label import relabelled
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate
from lethe.unlearn.srl import check_classes


@register(
    "amnesiac",
    source="Graves, Nagisetty, Ganesh 2021, arXiv:2010.10981",
    resolve=(check_classes,),
    augments=("forget", "retain"),
    source_augments="nothing",
    parallel=True,
)
def amnesiac(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 3,
    unlearn_lr: LearningRate = 1e-4,
    batch_size: BatchSize = 128,
) -> Unlearned:
    """Fine-tune on forget and retain set mixed, the forget images with wrong labels that are drawn once.

        theta <- Adam(theta, grad CE(f_theta(x), y'))        y' = y in retain, another label in forget

    in train mode; an epoch is a pass over all training images. The source calls this "Unlearning"; its
    "Amnesiac Unlearning" subtracts updates recorded in training, which an initial model does not come with.

    Flags:
        unlearn_epochs: passes over all training images
        unlearn_lr: learning rate of Adam

    Raises ValueError for a single class, FloatingPointError if it diverges.
    """
    student = copy_of(model)
    wrong = relabelled(data.forget, data.classes, data.generator("amnesiac", "labels"))
    passes = [Pass("train", wrong.joined(data.retain).to(data.device))]
    optimizer = Adam(student.parameters(), lr=unlearn_lr)
    return fine_tune(student, data, "amnesiac", lambda _: passes, optimizer, unlearn_epochs, batch_size)
