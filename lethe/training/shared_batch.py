"""A batch that several processes share: each computes the model's outputs for its part of the images.

All processes draw the same batch and have the outputs of all of it, so that a loss, and the random numbers
that it draws, are those of one process. Batch norm normalises by the statistics of the whole batch, and
dropout draws for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lethe.training.process_group import ProcessGroup


def outputs_of(model: nn.Module, x: Tensor, group: ProcessGroup) -> Tensor:
    """Return the model's outputs for a batch (N, ...), computed by all processes of the group together.

    The mean over the processes of a loss's gradients is then the gradient of one process. A batch of fewer
    images than processes is computed by each of them. Exact for models that mix the images of a batch by
    batch norm alone, and that draw random numbers by dropout alone (`F.dropout`, of a batch's rows).
    """
    outputs: Tensor
    if group.size == 1 or len(x) < group.size:
        outputs = model(x)
        return outputs
    with _WholeBatch(group, len(x)):
        own: Tensor = model(x[group.rank :: group.size])
    outputs = _Gathered.apply(own, len(x), group)
    return outputs


def mean_gradients(gradients: Sequence[Tensor], group: ProcessGroup) -> list[Tensor]:
    """Return the means of the gradients over the processes, which are sent in one message."""
    if group.size == 1 or not gradients:
        return list(gradients)
    flat = group.all_reduce(torch.cat([gradient.flatten() for gradient in gradients])) / group.size
    parts = flat.split([gradient.numel() for gradient in gradients])
    pairs = zip(parts, gradients, strict=True)
    return [part.view_as(gradient).to(gradient.dtype) for part, gradient in pairs]


def average_gradients(optimizer: torch.optim.Optimizer, group: ProcessGroup) -> None:
    """Replace the gradients of the optimiser's parameters by their means over the processes."""
    if group.size == 1:
        return
    parameters = [parameter for part in optimizer.param_groups for parameter in part["params"]]
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    means = mean_gradients([parameter.grad for parameter in with_gradient], group)
    for parameter, mean in zip(with_gradient, means, strict=True):
        parameter.grad = mean


class _Gathered(torch.autograd.Function):
    """The outputs of all processes, from each process's own.

    All processes compute the same loss of it. The gradient of a process's own outputs is `size` times the
    loss's: parameters then have the loss's gradient as the mean over the processes, also where a part of the
    loss, such as a penalty of the weights, is computed by all of them.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, count: int, group: ProcessGroup) -> Tensor:
        ctx.group = group
        rows = -(-count // group.size)
        padded = own.new_zeros(rows, *own.shape[1:])
        padded[: len(own)] = own
        # Row j of process r is image j * size + r. The padding comes last.
        every = torch.stack(group.all_gather(padded), 1)
        return every.flatten(0, 1)[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        group = ctx.group
        return gradients[0][group.rank :: group.size] * group.size, None, None


class _Sum(torch.autograd.Function):
    """The sum over the processes; each process's gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return group.all_reduce(own.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_reduce(gradients[0].clone()), None


class _WholeBatch(TorchFunctionMode):
    """Within it, batch norm and dropout are computed of a batch of `count` images, of which a share is here.

    It takes the place of these functions and not of modules: batch norm has modules of many libraries, and
    SyncBatchNorm computes on no CPU.
    """

    def __init__(self, group: ProcessGroup, count: int) -> None:
        super().__init__()
        self.group, self.count = group, count
        self.share = len(range(group.rank, count, group.size))
        self.instead: dict[Callable[..., Any], Callable[..., Tensor]] = {
            F.batch_norm: self._batch_norm,
            F.dropout: self._dropout,
        }

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return self.instead.get(function, function)(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalise by the mean and the variance of all processes' values, a channel at a time.

        y = (x - m) / sqrt(v + eps) weight + bias;  running <- running + momentum (batch's - running)

        The running variance is the unbiased one, as PyTorch's.
        """
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        others = [axis for axis in range(x.dim()) if axis != 1]
        of_channel = (1, -1, *[1] * (x.dim() - 2))
        count = self.group.all_reduce(x.new_tensor(x.numel() / x.shape[1]))
        mean = _Sum.apply(x.sum(others), self.group) / count
        centred = x - mean.view(of_channel)
        variance = _Sum.apply(centred.square().sum(others), self.group) / count
        scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
        y = centred * scale.view(of_channel)
        if bias is not None:
            y = y + bias.view(of_channel)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                unbiased = variance * count / (count - 1)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        return y.to(input.dtype)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Multiply by this process's share of the mask that one process draws for the batch."""
        if not training or input.dim() == 0 or len(input) != self.share:
            return F.dropout(input, p, training, inplace)
        mask = F.dropout(input.new_ones(self.count, *input.shape[1:]), p)
        return input * mask[self.group.rank :: self.group.size]
