"""DUCK: move each forget image's features to the nearest centroid of another class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.training.optimizers import Adam
from lethe.training.shared_batch import average_gradients, outputs_of
from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.features import Features, check_classifier, features_of
from lethe.unlearn.forget_and_retain import numbered
from lethe.unlearn.impl import Batch, ForgetData, Unlearned, copy_of, register
from lethe.unlearn.lotus import accuracy, accuracy_unseen
from lethe.unlearn.passes import check_finite
from lethe.unlearn.settings import BatchSize, Count, Epochs, LearningRate, Temperature, Weight
from lethe.unlearn.streams import endless
from lethe.unlearn.train_mode import train_mode
from lethe.unlearn.two_gradients import batch_size_for

FORGOTTEN = 1.0  # percent; a forget score below it ends the run


def check_other_class(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError if a forgotten class has no other class among the retained images."""
    if len(data.retain.classes) == 1 and data.retain.classes[0] in data.forget.classes:
        raise ValueError(
            "DUCK: expected retained images of a class other than the forgotten one, got images of class "
            f"{data.retain.classes[0]} alone. Use a method that needs no other class"
        )


@register(
    "DUCK",
    source="Cotogni et al. 2023, arXiv:2312.02052",
    resolve=(check_classifier, check_other_class),
    augments=("forget", "retain"),
    parallel=True,
)
def duck(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 256,
    retain_steps: Count = 6,
    distance_weight: Weight = 1.0,
    retain_weight: Weight = 1.4,
    temperature: Temperature = 2.0,
) -> Unlearned:
    """Move the features of each forget image to the nearest centroid of another class; rehearse retain.

        c_k = mean of h_0(x) over the retain images of class k        h_0: features of the initial model
        k(x) = argmin over k != y of 1 - cos(h_0(x), c_k)             fixed for the run
        per forget batch, retain_steps times, each with a new retain batch:
            L = distance_weight mean(1 - cos(h(x_f), c_k(x_f))) + retain_weight CE(f_theta(x_r) / temperature)
            theta <- Adam(theta, grad L)

    h (d,) are the features that the classifier takes. The run ends after the epoch in which less than 1 % of
    the forget images is classified right; where their classes stay, in which the share is not above that of
    validation images. Without validation images only the former ends it.

    Flags:
        unlearn_epochs: passes over the forget set, at most
        unlearn_lr: learning rate of Adam
        batch_size: images of each kind a step
        retain_steps: number of steps, each with a new retain batch, for a forget batch
        distance_weight: weight of the distance to the centroids
        retain_weight: weight of the cross-entropy on retain
        temperature: divisor of the retain images' logits

    Raises ValueError for a model whose logits do not come from a linear layer, and where all retained images
    are of the forgotten class; FloatingPointError if it diverges.

    Departures: classes without a retained image have no centroid, and the nearest is remembered by image; in
    the source a removed class shifts the others' numbers, and the nearest is remembered by step. Its second
    phase, of two epochs at a lower rate, and its label smoothing are left out.
    """
    student = copy_of(model)
    body = Features(student, classifier_of(student, data))
    centroids = nearest_centroids(
        features_of(model, data.forget, data), data.forget.labels, centroids_of(model, data)
    )
    optimizer = Adam(student.parameters(), lr=unlearn_lr)
    size = batch_size_for((data.forget, data.retain), batch_size)
    order, noise, moves = (data.generator("DUCK", what) for what in ("forget", "dropout", "augmentation"))
    forget, retain = numbered(data.forget.to(data.device)), endless(data, data.retain, size, "DUCK", "retain")
    single = min(size, len(data.forget), len(data.retain)) == 1
    unseen = 100 * accuracy_unseen(model, data) if len(data.validation) else 0.0
    history = []
    for epoch in data.progress(range(unlearn_epochs), "DUCK"):
        losses = []
        pairs = repeated(data.training_batches(forget, size, order, moves), retain_steps)
        with train_mode(student, noise, data.device, single_images=single):
            for (x_f, positions), (x_r, y_r) in zip(pairs, retain, strict=False):
                h = outputs_of(body, x_f, data.group)
                away = (1 - F.cosine_similarity(h, centroids[positions])).mean()
                stay = F.cross_entropy(outputs_of(student, x_r, data.group) / temperature, y_r)
                optimizer.zero_grad(set_to_none=True)
                (distance_weight * away + retain_weight * stay).backward()
                average_gradients(optimizer, data.group)
                optimizer.step()
                losses.append(torch.stack([away.detach(), stay.detach()]))
        means = dict(zip(("distance", "retain_loss"), torch.stack(losses).mean(0).tolist(), strict=True))
        check_finite(student, means, f"DUCK diverged in epoch {epoch + 1}")
        score = 100 * accuracy(student, data.forget, data)
        history.append({**means, "forget_score": score})
        data.on_epoch(student, epoch + 1)
        if score < FORGOTTEN or score <= unseen:
            break
    optimizer.zero_grad(set_to_none=True)
    return Unlearned(student, history=history, facts={"epochs_run": len(history)})


def centroids_of(model: nn.Module, data: ForgetData) -> Tensor:
    """Return the mean features (classes, d) of each class's retain images; NaN for a class without any."""
    h, labels = features_of(model, data.retain, data), data.retain.labels.to(data.device)
    members = F.one_hot(labels, data.classes).to(h)
    return members.T @ h / members.sum(0)[:, None]


def nearest_centroids(h: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """Return for each image (N, d) the centroid (N, d) of another class at the least cosine distance."""
    labels = labels.to(h.device)
    closeness = F.normalize(h) @ F.normalize(centroids).T
    none = centroids.isnan().any(1)
    own = F.one_hot(labels, len(centroids)).bool()
    return centroids[closeness.masked_fill(own | none, -torch.inf).argmax(1)]


def repeated(batches: Iterator[Batch], times: int) -> Iterator[Batch]:
    """Yield each batch so many times."""
    for batch in batches:
        for _ in range(times):
            yield batch
