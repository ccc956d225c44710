"""RUM: split the forget set by memorisation, and forget each part by a method of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.data.image_scores import read_scores
from lethe.flag_error import FlagError
from lethe.models import evaluating
from lethe.nearest_name import did_you_mean
from lethe.signature import File, Help
from lethe.unlearn.attacks import norms, slopes
from lethe.unlearn.impl import METHODS, ForgetData, Unlearned, copy_of, register, unlearn, unwatched
from lethe.unlearn.needs import IMAGES_WITH_LABELS, NEEDS, Need
from lethe.unlearn.settings import Positive

PARTS = ("low", "mid", "high")
OF_A_PART: set[Need] = {*IMAGES_WITH_LABELS, "validation"}
AT_ONCE = 512  # images

MethodName = Annotated[str, "a method that returns the model itself", Help("method for a part")]


def check_parts(
    model: nn.Module,
    data: ForgetData,
    *,
    rum_low: str,
    rum_mid: str,
    rum_high: str,
    memorization: File | None,
) -> None:
    """Raise ValueError for a method that RUM can't call, and for scores that lack a forget image."""
    for part, name in zip(PARTS, (rum_low, rum_mid, rum_high), strict=True):
        check_method(f"rum_{part}", name, data.group.size)
    if memorization is not None:
        scores_from(memorization, data.forget)


def check_method(flag: str, name: str, processes: int) -> None:
    """Raise FlagError for an unknown method, RUM itself, and one that can't forget a part of the images.

    A part has images alone: its ideal model, oracles and training log would be those of the whole request.
    """
    if name not in METHODS:  # never looked up: that would run a user's file
        raise FlagError(flag, f"expected a registered method; {did_you_mean('method', name, METHODS.names)}")
    entry = METHODS[name]
    missing = [words for need, words in NEEDS.items() if need in {*entry.facts.needs} - OF_A_PART]
    refused = {
        f"one that needs more than images: {', '.join(missing)}": bool(missing),
        # A method that needs nothing is the same in every process.
        "one that computes in one process": processes > 1 and entry.facts.needs and not entry.facts.parallel,
        "RUM itself": entry.name == "RUM",
        "one for whole classes": entry.facts.whole_class,
        "one that puts a module around the model": entry.facts.wraps,
    }
    for what, is_so in refused.items():
        if is_so:
            raise FlagError(
                flag,
                f"expected a method that forgets any images and returns the model, got {entry.name}, {what}. "
                "Name another, such as FT, SalUn or default",
            )


@register(
    "RUM",
    source="Zhao et al. 2024, arXiv:2406.01257; the proxy: Zhao, Triantafillou 2024, arXiv:2410.16516",
    resolve=(check_parts,),
    augments=("forget", "retain"),
    parallel=True,
)
def rum(
    model: nn.Module,
    data: ForgetData,
    *,
    rum_low: MethodName = "default",
    rum_mid: MethodName = "FT",
    rum_high: MethodName = "SalUn",
    memorization: File | None = None,
    curvature_step: Positive = 1e-3,
) -> Unlearned:
    """Forget the least memorised third of the images first, then the others, each by a method of its own.

        m(x): memorisation of each forget image;  three parts of equal size by the rank of m
        for low, mid, high in turn:  theta <- method(theta, the part, retain)

        without a file of m:  m(x) = |grad_x CE(f_0(x + z), y) - grad_x CE(f_0(x), y)|
                              z = curvature_step sign(g) / |sign(g)|,  g = grad_x CE(f_0(x), y),  eval mode

    Each method runs with its own defaults. Retain is all of train but the whole forget set, for every part.
    The curvature of the loss is a proxy: memorised images lie where it is bent. Pixels are normalised ones.

    Flags:
        rum_low: method for the least memorised third
        rum_mid: method for the middle third
        rum_high: method for the most memorised third
        memorization: a CSV file with the columns index and memorisation, for the same images, such as
            memorisation.csv of an audit; none computes the proxy
        curvature_step: length of z

    Raises ValueError for a method that is for whole classes, wraps the model, needs more than images or is
    RUM, and for a file that lacks a forget image; and as these methods do.

    Departures: the source's FT and SalUn have a learning rate of .1; for the low part its retain set contains
    the parts that are still to be forgotten; and its middle part is nearest to the median, where a small
    request makes the parts overlap.
    """
    if memorization is None:
        scores = curvature(copy_of(model), data.forget, data.device, curvature_step)
    else:
        scores = scores_from(memorization, data.forget)
    facts: dict[str, int | float | str] = {}
    history: list[dict[str, float]] = []
    student = copy_of(model)
    quiet = replace(data, on_epoch=unwatched, whole=None)
    for part, name, rows in zip(PARTS, (rum_low, rum_mid, rum_high), thirds(scores), strict=True):
        facts[f"{part}_images"] = len(rows)
        if not len(rows):
            continue
        images = data.forget.subset(rows.to(data.forget.labels.device))
        done = unlearn(name, student, replace(quiet, forget=images))
        student = done.model
        history += [{f"{part}_{key}": value for key, value in step.items()} for step in done.history]
    if alike(student, model):
        facts["unchanged"] = "the methods of all parts left the weights as they were. Choose others"
    return Unlearned(student, history=history, facts=facts)


def thirds(scores: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of the images in three parts by the rank of their scores, the lowest first.

    The sizes differ by at most one; images of equal scores come in their order.
    """
    return scores.argsort(stable=True).tensor_split(len(PARTS))


def scores_from(path: File, images: ImageSet) -> Tensor:
    """Return the scores (N,) of these images. Raises FlagError for a file that lacks one."""
    known = read_scores(path, "memorization")
    indexes = images.indexes.tolist()
    missing = [index for index in indexes if index not in known]
    if missing:
        raise FlagError(
            "memorization",
            f"expected a score of each forget image, and {path} has none of index {missing[0]} "
            f"({len(missing)} are missing). Make it for this dataset and split",
        )
    return torch.tensor([known[index] for index in indexes], dtype=torch.float64)


def curvature(model: nn.Module, images: ImageSet, device: torch.device, step: float) -> Tensor:
    """Return the curvature (N,) of the loss at each image along the sign of its gradient, on the CPU."""
    found = []
    with evaluating(model):
        for x, y in images.batches(AT_ONCE, device=device):
            here, _ = slopes(model, x, y)
            sign = here.sign()
            there, _ = slopes(model, x + step * sign / norms(sign).clamp(min=1), y)
            found.append((there - here).flatten(1).norm(dim=1))
    return torch.cat(found).cpu()


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two models have the same weights and buffers."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
