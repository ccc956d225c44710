"""The result of a verification: checks, recomputed numbers, and what was not checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from lethe.training import checkpoint_digest

TOLERANCE = 1e-6
NO_REASONS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Check:
    """A value that a run names, and the value that was found; None if there is nothing to find any more."""

    what: str
    named: str
    found: str | None

    @property
    def holds(self) -> bool:
        return self.named == self.found


@dataclass(frozen=True)
class Number:
    """A metric as the run logged it, and as recomputed; None if it is missing there."""

    name: str
    logged: float | None
    recomputed: float | None

    @property
    def same(self) -> bool:
        """Equal within 1e-6, absolute or relative: another machine rounds otherwise."""
        if self.logged is None or self.recomputed is None:
            return False
        return math.isclose(self.logged, self.recomputed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


@dataclass
class Verification:
    """Collects checks, recomputed numbers, and what was not checked.

    `lost`: why numbers could not be recomputed, by name, as a needed file is gone; they are in `numbers` too.
    `left_out`: metrics that no artifacts give. `gone`: files that the run needed. `only_logged`: what can't
    be recomputed, so that the manifest alone shows a change. `unchecked`: what was not checked though it
    could be. `outside`: what no run can show.
    """

    checks: list[Check] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    only_logged: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks) and all(number.same for number in self.numbers)

    @property
    def complete(self) -> bool:
        """Whether everything was checked that a run can show."""
        return not self.unchecked and not self.gone and not self.lost

    def check(self, what: str, named: str, found: str | None) -> None:
        self.checks.append(Check(what, named, found))

    def compare(
        self,
        logged: Mapping[str, float],
        recomputed: Mapping[str, float],
        reasons: Mapping[str, str] = NO_REASONS,
    ) -> None:
        """Compare the numbers. One that was not recomputed is lost if there is a reason, else left out."""
        for name in recomputed.keys() | logged.keys():
            if name in recomputed or name in reasons:
                self.numbers.append(Number(name, logged.get(name), recomputed.get(name)))
                self.lost |= {} if name in recomputed else {name: reasons[name]}
            else:
                self.left_out.append(name)
        self.numbers.sort(key=lambda number: number.name)
        self.left_out.sort()


def digest_at(path: Path, model: nn.Module | None = None) -> tuple[str | None, str]:
    """Return the digest of a checkpoint's weights, as loaded into `model` if given, and "".

    Returns None and what is wrong with the file, or None and "" if there is none.
    """
    try:
        return checkpoint_digest(path, model), ""
    except FileNotFoundError:
        return None, "" if not path.exists() else "not a regular file"
    except ValueError as error:
        return None, str(error)
