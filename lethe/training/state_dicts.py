"""Find the state dicts in a file's content, and choose the model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

# The usual places of the weights; others are copies, such as an average or the initial weights.
USUAL = ("", "state_dict")
DEEPEST = 4  # nested mappings
SHOWN = 3  # names in one line


class Unfit(ValueError):
    """Weights that don't fit a model. The message follows "expected the weights of ..., got"."""


def state_dicts(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Weights]]:
    """Yield (place, state dict) of each in a file's content: "" for the content itself, or "ema.model"."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    own = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
    if own:
        yield place, own
    for name, value in content.items():
        yield from state_dicts(value, f"{place}.{name}" if place else str(name), depth + 1)


def chosen(places: Mapping[str, Weights]) -> tuple[str, list[str]]:
    """Choose a place; return it and the other places.

    Raises Unfit if several state dicts differ and none lies in a usual place.
    """
    usual = [place for place in USUAL if place in places]
    first, *others = [*usual, *(place for place in places if place not in usual)]
    if not usual and any(not same(places[first], places[other]) for other in others):
        raise Unfit(
            f"several that fit, under {listed(places)}. Save one of them alone: "
            f"torch.save(torch.load(FILE)[{first.partition('.')[0]!r}], NEW_FILE)"
        )
    return first, others


def same(one: Weights, other: Weights) -> bool:
    """Return whether names and values are equal."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def listed(names: Iterable[str]) -> str:
    """List the first names in quotes, and the number of further ones."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(repr(name) for name in every[:SHOWN]) + more
