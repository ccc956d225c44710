"""kgltop7: redraw the classifier, train a few noisy tensors on retain, then everything."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.end_layers import add_noise, redraw
from lethe.unlearn.features import check_classifier
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import (
    BatchSize,
    Count,
    CountFromZero,
    Epochs,
    LearningRate,
    Momentum,
    Weight,
    WeightDecay,
)

SOURCE = "Cadet et al. 2024, arXiv:2410.01276; seventh of the NeurIPS 2023 challenge there, arXiv:2406.09073"


@register(
    "kgltop7",
    source=SOURCE,
    needs=("retain", "labels"),
    resolve=(check_classifier,),
    augments=("retain",),
    parallel=True,
)
def kgltop7(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 9,
    part_epochs: CountFromZero = 5,
    unlearn_lr: LearningRate = 0.01,
    last_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 64,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    trained_tensors: Count = 9,
    noisy_tensors: CountFromZero = 6,
    noise_std: Weight = 0.04,
) -> Unlearned:
    """Draw the classifier anew; train on the retain set, at first a few random tensors with noise.

        each of the first part_epochs: trained_tensors random tensors and all of batch norm's are trained
            before it, but for the first: w <- w + e, e ~ N(0, noise_std^2), in noisy_tensors of the former
        then: all tensors are trained

    by SGD on CE in train mode, a new optimiser each epoch; the last epoch's learning rate is last_lr. A
    tensor is a layer's weights, or its biases. Of a model with fewer tensors all are trained.

    Flags:
        unlearn_epochs: passes over the retain set
        part_epochs: number of first epochs in which a part of the tensors is trained
        unlearn_lr: learning rate of SGD
        last_lr: learning rate in the last epoch
        trained_tensors: tensors that are trained in such an epoch, beside batch norm's
        noisy_tensors: those of them that get noise
        noise_std: standard deviation of the noise

    Raises ValueError for a model whose logits do not come from a linear layer, FloatingPointError if it
    diverges.

    Departures: a learning rate of .01, where the source has 2e-4 for faces: on digits that does not teach the
    new classifier (chosen by validation images of seeds 101 and 102); batch norm is known by its type, not by
    the letters bn in its name.
    """
    student = copy_of(model)
    redraw(student, [classifier_of(student, data)], data, "kgltop7", "initial weights")
    draws, noise = data.generator("kgltop7", "tensors"), data.generator("kgltop7", "noise")
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    passes = [Pass("retain", data.retain.to(data.device))]
    statistics, others = tensors_of(student)

    def plan(epoch: int) -> list[Pass]:
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] = last_lr if epoch == unlearn_epochs - 1 else unlearn_lr
        student.requires_grad_(epoch >= part_epochs)
        if epoch < part_epochs:
            order = torch.randperm(len(others), generator=draws)[:trained_tensors]
            chosen = [others[number] for number in order.tolist()]
            for parameter in (*statistics, *chosen):
                parameter.requires_grad_(True)
            if epoch > 0:
                add_noise(chosen[:noisy_tensors], noise_std, noise)
        return passes

    done = fine_tune(student, data, "kgltop7", plan, optimizer, unlearn_epochs, batch_size)
    student.requires_grad_(True)
    return done


def tensors_of(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return batch norm's parameters, and all others."""
    of_batch_norm = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    statistics = [p for m in of_batch_norm for p in m.parameters()]
    known = {id(p) for p in statistics}
    return statistics, [p for p in model.parameters() if id(p) not in known]
