"""Which of the state dicts that a file holds is a model's: found wherever they lie, chosen where it is plain which is meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

USUAL = ("", "state_dict")  # where most programs keep the weights, beside copies of them: an average, those of the start
DEEPEST = 4  # mappings inside of mappings
SHOWN = 3  # names in one line


class Unfit(ValueError):
    """Why weights don't fit a model, as the end of a sentence "expected the weights of this architecture, got"."""


def state_dicts(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Weights]]:
    """Every mapping of names to tensors in a file's content, by where it lies: "" for the content itself, "ema.model" for a nested one."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if own:
        yield place, own
    for name, value in content.items():
        yield from state_dicts(value, f"{place}.{name}" if place else str(name), depth + 1)


def chosen(places: Mapping[str, Weights]) -> tuple[str, list[str]]:
    """Where the weights that are meant lie, and where others are that would fit too.

    Raises Unfit where several would do, differ, and none lies where programs keep the weights.
    """
    usual = [place for place in USUAL if place in places]
    first, *others = [*usual, *(place for place in places if place not in usual)]
    if not usual and any(not same(places[first], places[other]) for other in others):
        raise Unfit(
            f"several that fit, under {listed(places)}. Save the one that is meant alone: "
            f"torch.save(torch.load(FILE)[{first.partition('.')[0]!r}], NEW_FILE)"
        )
    return first, others


def same(one: Weights, other: Weights) -> bool:
    """Whether the names and the values are equal."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def listed(names: Iterable[str]) -> str:
    """The first names in quotes, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(repr(name) for name in every[:SHOWN]) + more
