"""A warning of a run: its kind, for programs, and its text, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Kind = Literal[
    "diverged",
    "probabilities",  # the model ends in a softmax
    "destroyed",
    "nothing to preserve",
    "lost accuracy",
    "changed nothing",
    "changed no prediction",
    "fewer masked",
    "missed its targets",
    "not singled out",  # a mask for a part of a class takes the rest of it along
    "not evaluated",
    "not checked",
    "unreliable",  # memorisation scores of too few shadow models
]
OVERRIDING: frozenset[Kind] = frozenset(get_args(Kind)) - {
    "lost accuracy",
    "fewer masked",
    "missed its targets",
    "not singled out",
    "not evaluated",
    "not checked",
    "unreliable",
}


@dataclass(frozen=True)
class RunWarning:
    kind: Kind
    text: str

    @property
    def overrides(self) -> bool:
        """Whether this warning makes every other claim about the run doubtful."""
        return self.kind in OVERRIDING

    def as_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> RunWarning:
        """Read a warning. Raises KeyError or ValueError for anything else."""
        if not isinstance(found, Mapping):
            raise ValueError("expected warnings with a kind, got text alone, as in an earlier format")
        if found["kind"] not in get_args(Kind):
            raise ValueError(f"expected a kind of warning, got {found['kind']!r}")
        return cls(found["kind"], str(found["text"]))


def in_one_line(warnings: list[RunWarning] | tuple[RunWarning, ...]) -> str:
    """Return the texts on one line, as the tag `warning` holds them."""
    return "; ".join(warning.text for warning in warnings)
