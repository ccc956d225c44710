"""Fit the weights in a file to a model: match names, shapes and types, and check that they are finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lethe.training.foreign_names import Named, is_count, named
from lethe.training.state_dicts import Unfit, Weights, chosen, listed, state_dicts
from lethe.training.stated_normalisation import Stated, normalising_names, stated_normalisation

ITS_OWN: Stated = ((), ())
CHOOSE_ARCH = "Choose the --arch it was made with"


@dataclass(frozen=True)
class Fitted:
    """Weights under a model's own names.

    notes: what was changed to fit them, a phrase each
    normalisation: mean and standard deviation of each channel from the file; ITS_OWN if a layer of the model
        normalises images in [0, 1]; None if the file has neither
    """

    weights: Weights
    notes: tuple[str, ...] = ()
    normalisation: Stated | None = None


def fitted(content: Any, wanted: Mapping[str, Tensor], *, normalisation_known: bool = False) -> Fitted:
    """Fit the weights in another program's file to the model with the state dict `wanted`.

    `normalisation_known`: don't look for a normalisation in the file. Raises Unfit if no state dict in the
    file fits, or several do.
    """
    found = dict(state_dicts(content))
    if not found:
        raise Unfit(
            "no tensors: neither a state dict nor one under 'state_dict'. Save the model's state_dict"
        )
    fits = {place: one for place, weights in found.items() if (one := named(weights, wanted)) is not None}
    if not fits:
        raise _unlike(max(found.values(), key=len), wanted)
    place, also = chosen({place: one.weights for place, one in fits.items()})
    one = fits[place]
    check_weights(one.weights, wanted)
    normalisation = None if normalisation_known else _normalisation(one)
    notes = [*_where(place, also), *one.notes, *_left_out(one), *_rounded(one.weights, wanted)]
    return Fitted(_complete(one.weights, wanted), tuple(notes), normalisation)


def as_they_are(weights: Weights, wanted: Mapping[str, Tensor]) -> Fitted:
    """Check the weights of a Lethe file, which have the model's own names. Raises Unfit as `fitted`."""
    if weights.keys() != wanted.keys():
        raise _unlike(weights, wanted)
    check_weights(weights, wanted)
    return Fitted(weights)


def check_weights(weights: Weights, wanted: Mapping[str, Tensor]) -> None:
    """Raise Unfit if a weight has another shape or kind of number than the model's, or is not finite."""
    _check_shapes(weights, wanted)
    for name, value in weights.items():
        if (
            value.layout != torch.strided
            or value.is_quantized
            or value.is_meta
            or _kind(value) != _kind(wanted[name])
        ):
            expected = str(wanted[name].dtype).removeprefix("torch.")
            got = str(value.dtype).removeprefix("torch.")
            if value.layout != torch.strided:
                got = str(value.layout)
            raise Unfit(f"{got} for {name!r}, where it has {expected}. Save the model in {expected}")
    counts = {name: int(_not_finite(value, wanted[name]).sum()) for name, value in weights.items()}
    broken = {name: count for name, count in counts.items() if count}
    if broken:
        numbers = sum(broken.values())
        raise Unfit(
            f"{numbers} number{'s' if numbers > 1 else ''} that {'are' if numbers > 1 else 'is'} not finite, "
            f"in {listed(broken)}. "
            "The training that made it diverged, or the file is damaged: name other weights"
        )


def _kind(value: Tensor) -> str:
    """Return the kind of a tensor's numbers; loading converts the precision within a kind."""
    if value.is_complex():
        return "complex"
    if value.is_floating_point():
        return "float"
    return "bool" if value.dtype == torch.bool else "integer"


def _not_finite(value: Tensor, own: Tensor) -> Tensor:
    """Return which numbers are not finite, but are in the untrained model (attention masks hold -inf)."""
    eight_bits = value.is_floating_point() and value.dtype.itemsize == 1  # these have no isfinite
    floats = value.float() if eight_bits else value
    return ~floats.isfinite() & own.detach().to(value.device).isfinite()


def _check_shapes(weights: Weights, wanted: Mapping[str, Tensor]) -> None:
    differ = [name for name, value in weights.items() if value.shape != wanted[name].shape]
    if not differ:
        return
    first = differ[0]
    got, here = tuple(weights[first].shape), tuple(wanted[first].shape)
    if _is_head(differ, weights, wanted):
        raise Unfit(
            f"a last layer of {got[0]} outputs instead of {here[0]} ({first!r} is {got}, here {here}): it "
            "was trained on other classes. Name weights that were trained on the classes of this --dataset"
        )
    more = f", and {len(differ) - 1} more" if len(differ) > 1 else ""
    raise Unfit(
        f"others ({first!r} is {got}, here {here}{more}). {CHOOSE_ARCH}, and its options, and a --dataset of "
        "such images"
    )


def _is_head(differ: list[str], weights: Weights, wanted: Mapping[str, Tensor]) -> bool:
    """Return whether only the number of outputs of the last layer differs."""
    layers = {name.rpartition(".")[0] for name in differ}
    last = [name.rpartition(".")[0] for name in wanted][-1]
    outputs = all(
        weights[name].ndim > 0 and weights[name].shape[1:] == wanted[name].shape[1:] for name in differ
    )
    return layers == {last} and outputs


def _unlike(weights: Weights, wanted: Mapping[str, Tensor]) -> Unfit:
    computed = [
        name
        for name in weights
        if ".parametrizations." in f".{name}" or name.endswith(("_g", "_v", "weight_u"))
    ]
    if computed and not set(computed) <= wanted.keys():
        return Unfit(
            "layers whose weight is computed, by weight_norm, spectral_norm or another parametrization "
            f"({listed(computed)}). Remove that from the model "
            "(torch.nn.utils.parametrize.remove_parametrizations), and save its state_dict again"
        )
    lacks, has = (
        [name for name in wanted if name not in weights],
        [name for name in weights if name not in wanted],
    )
    parts = [f"without {listed(lacks)}"] * bool(lacks) + [
        f"with {listed(has)}, for which this one has no place"
    ] * bool(has)
    return Unfit(f"others ({'; '.join(parts)}). {CHOOSE_ARCH}")


def _normalisation(one: Named) -> Stated | None:
    """Return the normalisation of images that the file has, in the model or beside it."""
    if stated_normalisation(one.weights) is not None:
        return ITS_OWN
    return stated_normalisation(one.others)


def _left_out(one: Named) -> list[str]:
    """Note the file's other tensors. Raises Unfit if they may belong to the model: it has no prefix."""
    images = normalising_names(one.others)
    others = [name for name in one.others if name not in images and not is_count(name)]
    if others and not one.prefix:
        raise Unfit(f"others (with {listed(others)}, for which this one has no place). {CHOOSE_ARCH}")
    return [f"without {listed(others)}, which the names of the model don't begin like"] * bool(others)


def _where(place: str, also: list[str]) -> list[str]:
    if place in ("", "state_dict") and not also:
        return []
    others = f", not those under {listed(also)}" if also else ""
    return [f"the weights under {place!r}{others}" if place else f"the weights outside of {listed(also)}"]


def _rounded(weights: Weights, wanted: Mapping[str, Tensor]) -> list[str]:
    """Note the weights that lose precision."""
    longer = [
        name
        for name, value in weights.items()
        if value.is_floating_point() and value.dtype.itemsize > wanted[name].dtype.itemsize
    ]
    return (
        [f"{listed(longer)} rounded to {str(wanted[longer[0]].dtype).removeprefix('torch.')}"]
        if longer
        else []
    )


def _complete(weights: Weights, wanted: Mapping[str, Tensor]) -> Weights:
    """Add the counts that older files lack, with their values in a new model."""
    return {name: weights.get(name, value) for name, value in wanted.items()}
