"""JiT: smooth the function around the forget images, without labels and without a retain set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.unlearn.attacks import norms
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.settings import BatchSize, Count, Epochs, LearningRate, Positive


@register(
    "JiT",
    "just_in_time",
    "lipschitz",
    source="Foster et al. 2025, arXiv:2402.01401",
    needs=("forget",),
    augments=(),
    source_augments="",
)
def jit(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 1,
    unlearn_lr: LearningRate = 0.1,
    batch_size: BatchSize = 128,
    noise_std: Positive = 0.5,
    noise_copies: Count = 25,
) -> Unlearned:
    """Make the output at each forget image that of noisy copies of the image, by SGD.

        x'_j = clamp(x + noise_std e_j)        e_j ~ N(0, I), j = 1, ..., noise_copies
        L = mean over images and j of |f_theta(x) - sg f_theta(x'_j)| / |x - x'_j|
        theta <- theta - unlearn_lr grad L

    Norms are Euclidean, over logits and over normalised pixels; no gradient flows through f_theta(x'), sg.
    Pixels are clamped to the lowest and the highest of the batch. Where an image was learned by heart the
    function is steep: there it becomes smooth, and the boundary moves off. A model whose training was stopped
    early is smooth already, and does not respond.

    L is 0 for a constant function: too large a rate erases everything, and looks like success on forget.
    Watch the retain score.

    Flags:
        unlearn_epochs: passes over the forget set, in its order
        unlearn_lr: learning rate of SGD, without momentum
        noise_std: standard deviation of the noise, in normalised pixels
        noise_copies: noisy copies of each image

    Raises FloatingPointError if it diverges.

    The default rate is of digits, by training and validation images of the tuning seeds 101 and 102; it goes
    with the root of the number of pixels over the scale of the logits.

    Departures: published code sums over the batch, so that its rate times the batch size is the one here (.04
    for VGG on CIFAR-100, from 3e-4 and 128); it never resets its gradients, which is a momentum of 1; and its
    model is in train mode, so that batch norm takes the statistics of noisy images and dropout alone makes
    f(x) and f(x') differ. Here the model is in eval mode.
    """
    student = copy_of(model)
    forget, noise = data.forget.to(data.device), data.generator("JiT", "noise")
    optimizer = sgd(student, unlearn_lr, 0.0, 0.0)
    history = []
    for epoch in data.progress(range(unlearn_epochs), "JiT"):
        losses = []
        for x, _ in forget.batches(batch_size, device=data.device):
            loss = steepness(student, x, noise_std, noise_copies, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        history.append({"steepness": torch.stack(losses).mean().item()})
        check_finite(student, history[-1], f"JiT diverged in epoch {epoch + 1}")
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    return Unlearned(student, history=history)


def steepness(
    model: nn.Module, x: Tensor, noise_std: float, noise_copies: int, generator: torch.Generator
) -> Tensor:
    """Return the mean over images and noisy copies of |f(x) - sg f(x')| / |x - x'|.

    A copy that the clamp makes the image itself counts as 0.
    """
    copies = [noisy(x, noise_std, generator) for _ in range(noise_copies)]
    with torch.no_grad():  # before f(x): layers that write in place must not touch what its gradient needs
        outputs = [model(copy.clone()) for copy in copies]
    logits = model(x.clone())
    ratios = []
    for copy, output in zip(copies, outputs, strict=True):
        distance = norms(x - copy).flatten()
        change = norms(logits - output).flatten()
        ratios.append(torch.where(distance > 0, change / distance.clamp(min=1e-12), 0.0))
    return torch.stack(ratios).mean()


def noisy(x: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
    """Return the images with Gaussian noise, clamped to the lowest and the highest pixel of the batch."""
    noise = torch.randn(x.shape, generator=generator).to(x)
    return (x + noise_std * noise).clamp(x.min(), x.max())
