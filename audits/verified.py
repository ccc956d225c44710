"""What a verification finds: checks, numbers, and what it did not look at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from training import checkpoint_digest

TOLERANCE = 1e-6
NO_REASONS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Check:
    """Something that a run names, and what was found: equal, different, or (found is None) not there any
    more.
    """

    what: str
    named: str
    found: str | None

    @property
    def holds(self) -> bool:
        return self.named == self.found


@dataclass(frozen=True)
class Number:
    """A metric as the run logged it and as its artifacts give it; None where it is missing on one side."""

    name: str
    logged: float | None
    recomputed: float | None

    @property
    def same(self) -> bool:
        """Within 1e-6, of 1 or of the value: another machine rounds otherwise."""
        if self.logged is None or self.recomputed is None:
            return False
        return math.isclose(self.logged, self.recomputed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


@dataclass
class Verification:
    """What was checked, which numbers were recomputed, and what was not looked at.

    `lost`: numbers that could be, were all still there, and why they could not; they are among the numbers.
    `left_out`: metrics of a kind that artifacts can't give. `gone`: what the run needed and is no longer
    there. `unchecked`: all else that nothing here speaks for.
    """

    checks: list[Check] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks) and all(number.same for number in self.numbers)

    def compare(
        self,
        logged: Mapping[str, float],
        recomputed: Mapping[str, float],
        reasons: Mapping[str, str] = NO_REASONS,
    ) -> None:
        """Take the numbers of both sides. What the run alone has is lost where there is a reason, and else
        left out.
        """
        for name in recomputed.keys() | logged.keys():
            if name in recomputed or name in reasons:
                self.numbers.append(Number(name, logged.get(name), recomputed.get(name)))
                self.lost |= {} if name in recomputed else {name: reasons[name]}
            else:
                self.left_out.append(name)
        self.numbers.sort(key=lambda number: number.name)
        self.left_out.sort()


def digest_at(path: Path, model: nn.Module | None = None) -> tuple[str | None, str]:
    """The digest of the model in a checkpoint, as it is loaded into such a `model` if one is given.

    Or None, and in words what is there instead, nothing where there is nothing.
    """
    try:
        return checkpoint_digest(path, model), ""
    except FileNotFoundError:
        return None, "" if not path.exists() else "something that is no file"
    except ValueError as error:
        return None, str(error)
