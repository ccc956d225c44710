"""Every method, add-on and metric, in a line each."""

from __future__ import annotations

from collections.abc import Sequence

from lethe import command_line


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the registries."""
    command_line.parsed(command_line.OneLineParser(__doc__ or ""), argv)
    print(f"{methods()}\n\n{metrics()}")
    return 0


def methods() -> str:
    """Return a line for every method and add-on."""
    from lethe.report.methods_page import listing
    from lethe.unlearn import METHODS
    from lethe.unlearn.add_ons import ADD_ONS

    return listing(METHODS, ADD_ONS)


def metrics() -> str:
    """Return a line for every metric."""
    from lethe.evaluation import METRICS
    from lethe.report.metrics_page import listing

    return listing(METRICS)
