"""PGU: ascend on the forget set in directions that no retain image's activations use."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor, nn

from lethe.training import descend
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.input_moments import input_moments, layers_of
from lethe.unlearn.kgltop4 import entropy
from lethe.unlearn.lotus import accuracy
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.settings import BatchSize, BetweenZeroAndOne, Epochs, LearningRate, Positive, Weight
from lethe.unlearn.train_mode import train_mode

LOST = 5  # points of the validation score (or the retain score), at which it ends


def check_layers(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a model without linear layers and convolutions, or with grouped ones."""
    if not layers_of(model):
        raise ValueError(
            "PGU: expected a model with linear layers or convolutions, got one without. Use another method"
        )


@register(
    "PGU",
    "gradient_projection",
    source="Hoang et al. 2024, WACV, arXiv:2312.04095",
    resolve=(check_layers,),
    augments=("forget",),
    parallel=True,
)
def projected_gradient(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 100,
    unlearn_lr: LearningRate = 0.1,
    last_lr: LearningRate = 0.01,
    batch_size: BatchSize = 100,
    retained_var: BetweenZeroAndOne = 0.8,
    log_offset: Positive = 0.05,
    entropy_weight: Weight = 0.2,
) -> Unlearned:
    """Ascend on the forget set by steps that cannot move what the retain images get in any layer.

        per linear layer and convolution: C (a, a) = sum of h h' over the retain images' inputs h of the layer
            (patches of a convolution), initial model in eval mode;  C = U S^2 U'
            k = #{j: (S_1 + .. + S_j) / sum S <= retained_var} + 1;   M = U_1..k
        L = mean_i - log(1 - p_{y_i} + log_offset) - entropy_weight mean_i H(p_i)        on forget
        G = grad_W L;   W <- W - lr (G - G M M')

    by plain SGD on the weights of those layers: biases, batch norm and its statistics stay. H is the entropy
    of a prediction, nats. The learning rate falls exponentially from unlearn_lr to last_lr. It ends after the
    epoch in which the validation score has fallen by 5 points (without validation images, the retain score).
    Momentum and weight decay would leave the directions, so there are none.

    Flags:
        unlearn_epochs: passes over the forget set, at most
        unlearn_lr: learning rate in the first epoch
        last_lr: learning rate in the last epoch
        retained_var: share of the spectrum of the retain images' inputs that is protected
        log_offset: addition that bounds the logarithm
        entropy_weight: weight of the entropy

    Raises ValueError for a model without linear layers and convolutions, and for a convolution in groups or
    padded by no zeros; FloatingPointError if it diverges.

    Departures: C is computed over retain itself, where the source subtracts the forget part from C of all
    images, by the same weights or not; convolutions have their own stride. Its retained_var, .9, leaves no
    room in an mlp on digits: here it is .8, chosen there by validation images of seeds 101 and 102.
    """
    student = copy_of(model)
    layers = layers_of(student)
    moments = input_moments(student, data.retain, data)
    protected = {name: main_directions(moment, retained_var) for name, moment in moments.items()}
    watched = data.validation if len(data.validation) else data.retain
    least = 100 * accuracy(student, watched, data) - LOST
    student.requires_grad_(False)
    for name in protected:
        layers[name].weight.requires_grad_(True)
    trained = {layers[name].weight: m.to(layers[name].weight) for name, m in protected.items()}
    optimizer = sgd(student, unlearn_lr, 0.0, 0.0)
    project_steps(optimizer, trained)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return away_from(logits, y, log_offset) - entropy_weight * entropy(logits).mean()

    order, noise, moves = (data.generator("PGU", what) for what in ("order", "dropout", "augmentation"))
    history: list[dict[str, float]] = []
    for epoch in data.progress(range(unlearn_epochs), "PGU"):
        for group in optimizer.param_groups:
            group["lr"] = unlearn_lr * (last_lr / unlearn_lr) ** (epoch / max(1, unlearn_epochs - 1))
        batches = data.training_batches(data.forget.to(data.device), batch_size, order, moves)
        with train_mode(student, noise, data.device, single_images=True):
            losses = descend(student, batches, optimizer=optimizer, loss=loss, group=data.group)
        score = 100 * accuracy(student, watched, data)
        check_finite(student, {"forget_loss": fmean(losses)}, f"PGU diverged in epoch {epoch + 1}")
        history.append({"forget_loss": fmean(losses), "watched_score": score})
        data.on_epoch(student, epoch + 1)
        if score <= least:
            break
    optimizer.zero_grad(set_to_none=True)
    shares = [m.shape[1] / m.shape[0] for m in protected.values()]
    facts: dict[str, int | float | str] = {
        "epochs_run": len(history),
        "protected_percent": 100 * fmean(shares),
    }
    if min(shares) == 1:
        facts["unchanged"] = (
            "the retain images use every direction of every layer's inputs. Lower --retained_var"
        )
    return Unlearned(student.requires_grad_(True), history=history, facts=facts)


def main_directions(moment: Tensor, retained_var: float) -> Tensor:
    """Return M (a, k): the first eigenvectors of C (a, a), by their share of the sum of all S.

    S are the roots of the eigenvalues: as many as have at most this share together, and one more.
    """
    values, vectors = torch.linalg.eigh(moment.cpu())
    sizes = values.flip(0).clamp(min=0).sqrt()
    shares = sizes.cumsum(0) / sizes.sum()
    count = int((shares <= retained_var).sum()) + 1
    return vectors.flip(1)[:, :count]


def project_steps(optimizer: torch.optim.Optimizer, directions: Mapping[Tensor, Tensor]) -> None:
    """Before each step, take the part along the directions M (a, k) out of the gradients, G - G M M'."""

    def project(*_: object) -> None:
        for weight, m in directions.items():
            if weight.grad is not None:
                rows = weight.grad.flatten(1)
                weight.grad.copy_((rows - rows @ m @ m.T).view_as(weight.grad))

    optimizer.register_step_pre_hook(project)


def away_from(logits: Tensor, labels: Tensor, offset: float) -> Tensor:
    """Return the mean of - log(1 - p_y + offset), nats."""
    p = logits.softmax(1).gather(1, labels[:, None])
    return -(1 - p + offset).log().mean()
