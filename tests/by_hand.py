"""Optimisers by their formulas, from rest: what a method's steps are checked against."""

import torch


def slope(loss):
    """The gradient per parameter of a loss; both are functions of the model."""
    return lambda model: torch.autograd.grad(loss(model), list(model.parameters()))


def each(lr, gradients):
    """The learning rates of the steps: those, or one for all."""
    return lr if isinstance(lr, list) else [lr] * len(gradients)


def sgd(model, gradients, lr, momentum=0.0, decay=0.0):
    """A step on each of the gradients, in place: b <- momentum b + g + decay theta; theta <- theta - lr b;
    lr: one for all, or each.
    """
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for gradient, rate in zip(gradients, each(lr, gradients), strict=True):
        now = gradient(model)
        with torch.no_grad():
            for p, b, g in zip(model.parameters(), velocity, now, strict=True):
                b.mul_(momentum).add_(g + decay * p)
                p.sub_(rate * b)


def adam(model, gradients, lr, decay=0.0, decoupled=0.0):
    """A step on each of the gradients, in place; `decay` goes into the gradient (Adam's), `decoupled` does
    not (AdamW's).

    m <- .9 m + .1 g; v <- .999 v + .001 g^2; theta <- (1 - lr decoupled) theta - lr m / (1 - .9^k) / (sqrt(v
    / (1 - .999^k)) + 1e-8)

    lr: one for all steps, or each. From rest the first step is lr g / |g|, whatever the scale and the betas:
    a check needs two, on gradients that differ.
    """
    first, second = ([torch.zeros_like(p) for p in model.parameters()] for _ in range(2))
    for step, (gradient, rate) in enumerate(zip(gradients, each(lr, gradients), strict=True), 1):
        now = gradient(model)
        with torch.no_grad():
            for p, m, v, g in zip(model.parameters(), first, second, now, strict=True):
                g = g + decay * p
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                p.mul_(1 - rate * decoupled).sub_(
                    rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
                )
