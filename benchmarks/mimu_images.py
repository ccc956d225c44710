"""Score masks for images of classes that stay, beside the initial and the ideal model.

    python benchmarks/mimu_images.py --dataset MNIST --share 0.1

A share of the training images, of any class, is the forget set. The ideal model is as sure of it as of test
images: it never saw either. forget, retain: percent of these training images predicted right; test: of all
test images; mia: percent of the forget images that an attack on the confidence takes for never seen; auc: a
loss threshold's, forget against test images; margins: medians, nats. gap: avg_gap_without_mia, the mean
distance from the ideal in UA, RA and TA, points. Finished cells are kept in <save_dir>/benchmarks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.experiment import shared_flags

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random_mask": ("random_mask", {"kappa": None}),
    "logit_attribution": ("logit_attribution", {"kappa": None}),
    "MIMU": ("MIMU", {"kappa": None}),
    "MIMU, refined by 20 steps": ("MIMU", {"kappa": None, "refine_steps": 20}),
    "MIMU, refined by 300 steps": ("MIMU", {"kappa": None, "refine_steps": 300}),
}
METRICS = ("forget_score", "retain_score", "test_score", "mia", "mia_auc", "avg_gap_without_mia")


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one table, a line per model, method and kappa; the same numbers with --json."""
    options = options_of(argv)

    from benchmarks.cells import Cells
    from benchmarks.machine import describe, write_json
    from lethe.data.impl import results_folder
    from lethe.report.text_table import number, text_table

    folder = shared_flags.path_or_none(options.save_dir) or results_folder(options.dataset)
    cells = Cells(folder / "benchmarks" / "mimu_images.jsonl", __file__, command_line.__file__)
    rows = [row for seed in options.seed for row in measured(options, seed, cells)]
    columns = (*METRICS, "forget_margin", "test_margin", "seconds")
    lines = []
    for model, kappa in dict.fromkeys((row["model"], row["kappa"]) for row in rows):
        own = [row for row in rows if (row["model"], row["kappa"]) == (model, kappa)]
        means = {name: mean_of(row.get(name) for row in own) for name in columns}
        lines.append(
            [model, kappa, *(number(means[name], 3 if name == "mia_auc" else 2) for name in columns)]
        )
    print(
        f"{options.dataset}, {options.share} of the training images forgotten, means over seeds "
        f"{options.seed}"
    )
    names = ["forget %", "retain %", "test %", "mia %", "auc", "gap", "forget margin", "test margin", "s"]
    print(text_table(["model", "kappa", *names], lines))
    print(cells.note(), describe(), sep="\n")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def options_of(argv: Sequence[str] | None) -> Any:
    parser = BenchmarkParser(__doc__)
    share_help = "share of the training images to forget (default: %(default)s)"
    parser.add_argument("--share", type=float, default=0.1, help=share_help)
    parser.add_argument("--kappa", default=["0.01", "0.1", "0.3"], nargs="+", help="default: 0.01 0.1 0.3")
    parser.add_experiment(argv, several_seeds=True)
    options = parser.options(argv)
    if not 0 < options.share < 1:
        raise ValueError(f"--share: expected a number between 0 and 1, got {options.share}. Give e.g. 0.1")
    if options.class_to_replace or options.num_indexes_to_replace or options.forget_indexes:
        raise ValueError(
            "expected --share alone to say what is forgotten, got a forget request too. Leave it out"
        )
    return options


def measured(options: Any, seed: int, cells: Any) -> Iterator[dict[str, Any]]:
    """One row per model, method and kappa."""
    from dataclasses import replace

    from lethe.data import ForgetRequest, load_splits
    from lethe.experiment.base_models import BaseModels
    from lethe.experiment.measure import model_outputs
    from lethe.training import DiskCache, model_digest
    from lethe.unlearn import METHODS as REGISTRY
    from lethe.unlearn import ForgetData, Unlearned, resolved, unlearn

    splits = load_splits(options.dataset, options.data, options.split_seed)
    request = ForgetRequest((-1,), number=max(1, round(options.share * len(splits.train))))
    architecture = shared_flags.architecture_of(options.arch, options.dataset)
    config = replace(shared_flags.base_config(options, architecture, seed), request=request)
    base = BaseModels(config, progress=command_line.progress_bar, splits=splits)
    some = ForgetData.of(splits, request, device=base.device)
    amounts = {kappa: REGISTRY["MIMU"].hyperparameters["kappa"].parse(kappa) for kappa in options.kappa}
    for amount in amounts.values():  # ValueError, before anything is trained, for what the layer has not
        resolved("random_mask", base.untrained(), some, REGISTRY["random_mask"].settings({"kappa": amount}))
    initial, ideal = base.initial().model, base.ideal().model
    cache = DiskCache(base.save_dir / "cache")
    data = ForgetData.of(
        splits, request, seed=seed, device=base.device, cache=cache, progress=command_line.progress_bar
    )
    of_ideal = model_outputs(ideal, data, splits.test)
    makers: dict[tuple[str, str], Callable[[], Any]] = {
        ("initial", ""): lambda: Unlearned(initial),
        ("ideal", ""): lambda: Unlearned(ideal),
    }
    for method, (name, settings) in METHODS.items():
        for kappa, amount in amounts.items():
            makers[method, kappa] = partial(unlearn, name, initial, data, **{**settings, "kappa": amount})
    common = {
        "initial": model_digest(initial),
        "ideal": model_digest(ideal),
        "request": request.identity,
        "split": splits.digest,
        "seed": seed,
    }
    common["device"] = str(base.device)
    for (method, kappa), make in makers.items():
        key = {**common, "model": method, "kappa": kappa}
        row = cells.measured(key, partial(numbers, make, of_ideal, data, splits.test))
        yield {"model": method, "kappa": kappa, "seed": seed} | row


def numbers(make: Callable[[], Any], of_ideal: Any, data: Any, test: Any) -> dict[str, Any]:
    """The metrics of one unlearned model, with the seconds that it took to make it."""
    from lethe.evaluation import evaluate
    from lethe.experiment.measure import model_outputs

    started = time.perf_counter()
    model = make().model
    seconds = time.perf_counter() - started
    outputs = model_outputs(model, data, test)
    values, undefined = evaluate(names=METRICS, model=outputs, ideal=of_ideal)
    margins = {
        f"{name}_margin": getattr(outputs, name).margins.median().item() for name in ("forget", "test")
    }
    reasons = {name: str(why) for name, why in undefined.items()}
    return values | reasons | margins | {"seconds": seconds}


def mean_of(values: Any) -> float | None:
    from statistics import mean

    known = [value for value in values if isinstance(value, float)]
    return mean(known) if known else None


if __name__ == "__main__":
    sys.exit(main())
