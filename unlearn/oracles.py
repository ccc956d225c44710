"""Several ideal models that differ in seed, for methods that learn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Oracles:
    """Oracles by their seeds. No method may load the `judges`, the reference set of the result.

    `load(seeds)` raises FileNotFoundError, with the command that makes them, before the first model if any is
    missing.
    """

    load: Callable[[Sequence[int]], Iterable[nn.Module]]
    judges: tuple[int, ...]

    def seeds(self, count: int) -> range:
        """Return the first `count` seeds after those of the judges."""
        return range(max(self.judges) + 1, max(self.judges) + 1 + count)

    def apart(self, seeds: Sequence[int]) -> Iterable[nn.Module]:
        """Return the oracles of these seeds. Raises ValueError for a judge, and as `load`."""
        both = sorted(set(seeds) & set(self.judges))
        if both:
            raise ValueError(
                f"expected oracles that the unlearned model is not judged by, got seed {both[0]}, which is "
                f"one of the reference set (seeds {_span(self.judges)}). Name another, e.g. "
                f"{max(self.judges) + 1}"
            )
        return self.load(seeds)


def _span(seeds: tuple[int, ...]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
