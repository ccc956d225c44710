"""Several ideal models that differ in seed, for methods that learn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Oracles:
    """Oracles by their seeds. `judges` are the seeds of those that the unlearned model is held against: no
    method may have them.

    `load(seeds)` looks whether all are there, and raises FileNotFoundError with the command that makes them
    where they are not, before it gives the first.
    """

    load: Callable[[Sequence[int]], Iterable[nn.Module]]
    judges: tuple[int, ...]

    def seeds(self, count: int) -> range:
        """The first `count` seeds after those of the judges."""
        return range(max(self.judges) + 1, max(self.judges) + 1 + count)

    def apart(self, seeds: Sequence[int]) -> Iterable[nn.Module]:
        """The oracles of these seeds. ValueError for one that is a judge, FileNotFoundError as `load`."""
        both = sorted(set(seeds) & set(self.judges))
        if both:
            raise ValueError(
                f"expected oracles that the unlearned model is not judged by, got seed {both[0]}, which is "
                "one of the reference set "
                f"(seeds {_span(self.judges)}). Name another, e.g. {max(self.judges) + 1}"
            )
        return self.load(seeds)


def _span(seeds: tuple[int, ...]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
