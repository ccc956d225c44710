"""A linear probe on the features of a model: do they still separate the forgotten class?"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from lethe.data import ImageSet, forward_batch
from lethe.models import linear_layers, split_at
from lethe.training import generator_for

MAX_ITER = 1000


def probe_score(
    forget: Tensor, forget_labels: Tensor, retain: Tensor, retain_labels: Tensor, *, seed: int = 1
) -> float:
    """Return the percentage of held-out forget images that a linear probe on the features classifies right.

        P = argmax_c (V s(h) + a)_c
        V, a = argmin sum_i CE(V s(h_i) + a, y_i) + |V|^2 / 2    over retain and half of forget
        probe_score = 100 x share of P(h) = y over the other half of forget

    forget (n, d) and retain (N, d) are features of one model, of any float type, with labels (n,) and (N,)
    int64. s standardises each feature by the mean and deviation of what the probe is trained on; a constant
    feature becomes 0. `seed` draws the halves, within each class (see `halves`).

    The probe is scikit-learn's multinomial LogisticRegression in float64: C=1, Newton steps (newton-cg; about
    ten are usual, 1,000 allowed) until no partial derivative of the mean objective is above tol=1e-4.
    Newton's last step reaches the optimum; lbfgs, the default, is faster, but at this tolerance its score can
    be off by a point.

    A model that never saw the class separates it to a degree: compare with the ideal's. Where a retained
    class has the same features, the larger of the two wins.

    Raises ValueError for fewer than 2 forget images, a single forget image of a class absent from retain,
    fewer than 2 classes, wrong shapes or types, features that are not finite, and a probe that does not
    converge.
    Source: Alain and Bengio 2016, arXiv:1610.01644 (linear probes).
    """
    _check_features("forget", forget, forget_labels)
    _check_features("retain", retain, retain_labels)
    if forget.shape[1] != retain.shape[1]:
        raise ValueError(
            f"expected as many features in forget as in retain, got {forget.shape[1]} and {retain.shape[1]}. "
            "Take both from the same layer of one model."
        )
    forget, retain = (features.detach().cpu().double() for features in (forget, retain))
    forget_labels, retain_labels = forget_labels.cpu(), retain_labels.cpu()
    _check_classes(forget_labels, retain_labels)
    known, held_out = halves(forget_labels, seed)
    features, labels = torch.cat([retain, forget[known]]), torch.cat([retain_labels, forget_labels[known]])
    return _percent_found(features, labels, forget[held_out], forget_labels[held_out])


def halves(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Split the rows of forget into those that the probe is trained on and the held-out ones.

    labels (n,) -> int64 indexes, ceil(n / 2) and floor(n / 2) of them. The images are shuffled, sorted by
    class and assigned alternately, so that the parts differ by at most 1 in every class and in total.
    """
    shuffled = torch.randperm(len(labels), generator=generator_for(seed, "evaluation", "probe"))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return by_class[::2], by_class[1::2]


def penultimate_features(model: nn.Module, images: ImageSet, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the input of the model's last linear layer, (N, d) on the CPU, in the order of `images`.

        model(x) = head(W h + b)    h = the features of x

    The model is on `device`, runs in eval mode, and gets the mode of each module back. The last layer is the
    one that runs last, as -1 of --mask_layer; an applied mask stays on. Raises ValueError for an empty set,
    or a model whose last linear layer does not take one vector per image.
    """
    if not len(images):
        raise ValueError("expected at least 1 image, got 0. Take the features of a set that is not empty.")
    few = _few(images, device)
    body = split_at(model, _last_linear(model, few), few).body
    with torch.no_grad():
        return torch.cat([body(x).cpu() for x, _ in images.batches(forward_batch(device), device=device)])


def last_linear_layer(model: nn.Module, images: ImageSet, *, device: torch.device | str = "cpu") -> nn.Module:
    """The linear layer that runs last, whose inputs are the penultimate features. ValueError as of
    penultimate_features.
    """
    return model.get_submodule(_last_linear(model, _few(images, device)))


def _few(images: ImageSet, device: torch.device | str) -> Tensor:
    few, _ = next(images.subset(torch.arange(min(2, len(images)))).batches(2, device=device))
    return few


def _last_linear(model: nn.Module, images: Tensor) -> str:
    inputs = linear_layers(model, images)
    name, seen = list(inputs.items())[-1] if inputs else ("", torch.empty(0))
    if seen.ndim != 2 or len(seen) != len(images):
        got = (
            f"{name!r}, which sees {tuple(seen.shape)} for {len(images)} images"
            if inputs
            else f"a {type(model).__name__} without one"
        )
        raise ValueError(
            f"expected a model whose last linear layer sees one vector an image, got {got}. Give the probe "
            "features of your own."
        )
    return name


def _percent_found(features: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(
        StandardScaler(copy=False), LogisticRegression(C=1.0, solver="newton-cg", tol=1e-4, max_iter=MAX_ITER)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            probe.fit(features.numpy(), labels.numpy())
        except ConvergenceWarning as warning:
            raise ValueError(
                f"expected a probe that converges within {MAX_ITER} iterations, got one that did not. Give "
                "features of a smaller range."
            ) from warning
    return 100 * float(probe.score(held_out.numpy(), held_out_labels.numpy()))


def _check_features(name: str, features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or not features.shape[1] or not features.is_floating_point():
        raise ValueError(
            f"expected floating-point {name} features (N, d), got {features.dtype} of shape "
            f"{tuple(features.shape)}. Give a row of features per image."
        )
    if labels.dtype != torch.int64 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected int64 {name} labels of shape ({len(features)},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Give one class index per row of features."
        )
    broken = len(features) - int(features.isfinite().all(dim=1).sum())
    if broken:
        raise ValueError(
            f"expected finite {name} features, got NaN or infinity for {broken} of {len(features)} images. "
            "Lower the learning rate: the model diverged."
        )


def _check_classes(forget_labels: Tensor, retain_labels: Tensor) -> None:
    if len(forget_labels) < 2:
        raise ValueError(
            f"expected at least 2 forget images, got {len(forget_labels)}. Probe a larger forget request."
        )
    classes, counts = forget_labels.unique(return_counts=True)
    retained = retain_labels.unique()
    alone = classes[(counts == 1) & ~torch.isin(classes, retained)].tolist()
    if alone:
        raise ValueError(
            f"expected at least 2 forget images of a class that retain has not, got 1 of {alone}. "
            "Leave these images out: half of one image is no image."
        )
    if len(torch.cat([classes, retained]).unique()) < 2:
        raise ValueError(
            f"expected images of at least 2 classes, got class {int(classes[0])} alone. Give a retain set "
            "with another class."
        )
