"""boundary_expanding: assign the forget set to an extra class, which is removed afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.boundary_shrink import default_rate
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import RESOLVED, BatchSize, Epochs, LearningRate, Momentum


def resolve(model: nn.Module, data: ForgetData, *, unlearn_lr: float | None) -> dict[str, float]:
    """Return the learning rate. Raises ValueError for a model without a linear classifier."""
    classifier_of(model, data)
    return {"unlearn_lr": default_rate(data, unlearn_lr, whole=1e-4, part=3e-7)}


@register(
    "boundary_expanding",
    source="Chen et al. 2023, arXiv:2303.11570",
    resolve=(resolve,),
    needs=("forget",),
    augments=("forget",),
    source_augments="nothing",
    parallel=True,
)
def boundary_expanding(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = RESOLVED,
    batch_size: BatchSize = 64,
    momentum: Momentum = 0.9,
) -> Unlearned:
    """Fine-tune on the forget images, labelled by an extra class whose weights are removed afterwards.

        f+ = (f_theta, w.h + b), h the classifier's input, w and b drawn as a new linear layer's
        (theta, w, b) <- SGD((theta, w, b), grad CE(f+(x), the extra class)),    then w and b are dropped

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of SGD (1e-4; 3e-7 for images of classes that stay)

    Raises ValueError for a model whose logits do not come from a linear layer,
    FloatingPointError if it diverges.

    The method is made for classes: the model learns the same of retained images of a class as of the
    forgotten ones, and at the learning rate that forgets a class it breaks.

    Departures: batch norm keeps its running statistics, see NegGrad; the source's learning rate, 1e-5, is
    meant for hundreds of steps, here it is 1e-4 for classes.
    """
    draw = data.generator("boundary_expanding", "extra class")
    widened = Widened(copy_of(model), classifier_of(model, data), draw).to(data.device)

    def as_extra(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, torch.full_like(labels, logits.shape[1] - 1))

    plan = [Pass("forget", data.forget.to(data.device), as_extra, keep_statistics=True)]
    optimizer = sgd(widened, unlearn_lr, momentum, 0.0)
    watched = replace(data, on_epoch=lambda _, epoch: data.on_epoch(widened.model, epoch))
    name = "boundary_expanding"
    done = fine_tune(widened, watched, name, lambda _: plan, optimizer, unlearn_epochs, batch_size)
    return replace(done, model=widened.model)


class Widened(nn.Module):
    """A classifier with one more class, in train mode; in eval mode the logits are the model's own.

    The extra logit is w.h + b (without b where the classifier has none), h the input of the layer
    `classifier`, w and b uniform in +-1 / sqrt(n), as PyTorch draws a linear layer. The model itself is not
    rebuilt.
    """

    def __init__(self, model: nn.Module, classifier: str, generator: torch.Generator) -> None:
        super().__init__()
        self.model, self.classifier = model, classifier
        layer = _linear(model, classifier)
        extra = nn.Linear(layer.in_features, 1, bias=layer.bias is not None, device="meta")
        self.extra = extra.to_empty(device="cpu").to(dtype=layer.weight.dtype)
        bound = layer.in_features**-0.5
        for parameter in self.extra.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            narrow: Tensor = self.model(x)
            return narrow
        seen: list[Tensor] = []
        classifier = _linear(self.model, self.classifier)
        handle = classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            return torch.cat([self.model(x), self.extra(seen[-1])], 1)
        finally:
            handle.remove()


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer: nn.Linear = model.get_submodule(name)  # type: ignore[assignment]
    return layer
