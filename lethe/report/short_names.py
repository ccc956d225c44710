"""Names cut to where there is room for them, each still unlike the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

GONE = "…"


def shortened(names: Sequence[str], longest: int) -> list[str]:
    """Cut names to `longest` characters: at the end; in the middle if two would be alike; else numbered.

    The number is the name's index. Raises ValueError if `longest` has no room for it.
    """
    needed = len(str(len(names))) + 3
    if longest < needed:
        raise ValueError(
            f"expected room for {needed} characters of {len(names)} names, got {longest}. Give more"
        )
    short = [_cut_at_the_end(at, name, longest) for at, name in enumerate(names)]
    for way in (_cut_in_the_middle, _numbered):
        alike = Counter(short)
        short = [own if alike[own] == 1 else way(at, names[at], longest) for at, own in enumerate(short)]
    if len(set(short)) == len(short):
        return short
    return [_numbered(at, name, longest) for at, name in enumerate(names)]


def _cut_at_the_end(at: int, name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + GONE


def _cut_in_the_middle(at: int, name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return name[: longest - 1 - end] + GONE + name[-end:]


def _numbered(at: int, name: str, longest: int) -> str:
    number = f"{at}: "
    return number + _cut_at_the_end(at, name, longest - len(number))
