"""Forget every class by a mask of each linear layer, and of the layer that --mask_layer auto chooses.

    python benchmarks/mimu_mask_layer.py --dataset digits --hidden 128,64

For MIMU and logit_attribution with kappa auto, by layer: how many of the classes were masked there, the
forget score (percent of the forgotten class's test images still predicted right) and the retain drop (points
that the other classes' test images lost), mean and worst, and the median seconds of a request. Nothing is
chosen by test images. All requests share one cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

METHODS = {"MIMU": {"kappa": "auto"}, "logit_attribution": {"kappa": "auto"}}
COLUMNS = (
    "method",
    "--mask_layer",
    "masked",
    "classes",
    "forget %",
    "worst",
    "retain drop",
    "worst",
    "median s",
)
Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each method and layer, and write the numbers of every class with --json."""
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    architecture = parser.add_experiment(argv)
    options = parser.options(argv)

    from benchmarks.machine import describe, write_json
    from lethe.experiment import shared_flags

    config = shared_flags.base_config(options, architecture, options.seed)
    rows = list(measured(config, options.methods))
    print(table(rows), describe(), sep="\n")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def measured(config: Any, methods: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each method, layer and class."""
    from benchmarks.mimu_quality import correct, forgotten
    from lethe.data import ForgetRequest
    from lethe.experiment.base_models import BaseModels
    from lethe.models import linear_layers
    from lethe.unlearn import ForgetData, unlearn

    base = BaseModels(config, progress=command_line.progress_bar)
    model, splits = base.initial().model, base.splits
    cache: dict[str, Any] = {}
    before = correct(model, splits.test, base.device)
    data = ForgetData.of(splits, ForgetRequest((0,)), device=base.device)
    layers = list(linear_layers(model, data.some_images))
    for method in methods:
        settings = METHODS[method]
        for layer in (*layers, "auto"):
            for label in range(splits.classes):
                request = ForgetRequest((label,))
                data = ForgetData.of(splits, request, seed=config.seed, device=base.device, cache=cache)

                def make() -> Any:
                    return unlearn(method, model, data, mask_layer=layer, **settings)  # noqa: B023

                result, row = forgotten(make, splits.test, before, data)
                own = {
                    "method": method,
                    "mask_layer": layer,
                    "class": label,
                    "masked_layer": result.mask.layer,
                }
                yield own | row


def table(rows: Sequence[Row]) -> str:
    from lethe.report.text_table import number, text_table

    lines = []
    for method, layer in dict.fromkeys((row["method"], row["mask_layer"]) for row in rows):
        own = [row for row in rows if (row["method"], row["mask_layer"]) == (method, layer)]
        chosen = [row["masked_layer"] for row in own]
        found = ", ".join(f"{name} {chosen.count(name)}" for name in sorted(set(chosen)))
        forget, drop = ([row[name] for row in own] for name in ("forget_score", "retain_drop"))
        values = [mean(forget), max(forget), mean(drop), max(drop)]
        seconds = number(median(row["seconds"] for row in own), 2)
        masked = number(median(row["masked"] for row in own), 0)
        lines.append([method, layer, masked, found, *(number(value, 2) for value in values), seconds])
    return text_table(list(COLUMNS), lines)


if __name__ == "__main__":
    sys.exit(main())
