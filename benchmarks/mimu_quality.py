"""What a mask forgets and what it costs: every class as forget class, on test images.

    python benchmarks/mimu_quality.py --dataset digits

For each method, over the classes: the forget score (percent of the forgotten class's test images still predicted right) and
the retain drop (initial minus masked score on the other classes' test images, points), mean and worst. The bound is a mask
optimised for each class by itself, on training images; no network can be expected to do better.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import command_line

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "no mask": ("default", {}),
    "random_mask": ("random_mask", {"kappa": None}),
    "SFT": ("SFT", {}),
    "logit_attribution": ("logit_attribution", {"kappa": None}),
    "MIMU, contrast 0 (the paper's objective)": ("MIMU", {"topk": None, "kappa": None, "contrast": 0.0}),
    "MIMU": ("MIMU", {"topk": None, "kappa": None}),
    "MIMU, refined by 20 steps": ("MIMU", {"topk": None, "kappa": None, "refine_steps": 20}),
}
BOUND = "mask optimised for each class (the bound)"
BOUND_STEPS, BOUND_LR = 300, 0.1


@command_line.command
def main(argv: Any = None) -> int:
    """Print one table over the classes, and write the same numbers per class with --json."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip())
    parser.add_argument("--topk", default="50", help="default: %(default)s")
    parser.add_argument("--kappa", default="0.1", help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    command_line.add_shared_flags(parser, several_seeds=True)
    command_line.add_signature_flags(parser, command_line.architecture_named(argv), "architecture")
    options = command_line.parsed(parser, argv)

    from benchmarks.machine import describe, write_json

    rows = [row for seed in options.seed for row in measured(options, seed)]
    print(f"{options.dataset}, seeds {options.seed}, topk {options.topk}, kappa {options.kappa}, test images")
    print(table(rows))
    print(describe())
    write_json(options.json, {"command": f"benchmarks/mimu_quality.py {' '.join(argv or sys.argv[1:])}", "rows": rows})
    return 0


def measured(options: Any, seed: int) -> list[dict[str, Any]]:
    """One row per method and class."""
    from base_models import BaseModels
    from training import DiskCache
    from unlearn import METHODS as REGISTRY
    from unlearn import ForgetData, unlearn
    from vision_data import ForgetRequest

    architecture = command_line.architecture_of(options.arch, options.dataset)
    base = BaseModels(command_line.base_config(options, architecture, seed), progress=command_line.progress_bar)
    model = base.initial().model
    test = base.splits.test
    before = correct(model, test, base.device)
    cache = DiskCache(base.save_dir / "cache")
    amounts = {name: REGISTRY["MIMU"].hyperparameters[name].parse(getattr(options, name)) for name in ("topk", "kappa")}
    rows = []
    for label in range(base.splits.classes):
        world = {"seed": seed, "device": base.device, "cache": cache, "progress": command_line.progress_bar}
        data = ForgetData.of(base.splits, ForgetRequest((label,)), **world)

        def row(method: str, make: Callable[[], Any], label: int = label) -> None:
            started = time.perf_counter()
            unlearned = make()
            seconds = time.perf_counter() - started
            after = correct(unlearned, test, base.device)
            of_class = test.labels == label
            drop = 100 * (before[~of_class].float().mean() - after[~of_class].float().mean()).item()
            rows.append(
                {"method": method, "seed": seed, "class": label, "forget_score": 100 * after[of_class].float().mean().item()}
                | {"retain_score": 100 * after[~of_class].float().mean().item(), "retain_drop": drop, "seconds": seconds}
            )

        for method, (name, settings) in METHODS.items():
            given = {key: amounts[key] if value is None else value for key, value in settings.items()}
            row(method, lambda name=name, given=given, data=data: unlearn(name, model, data, **given).model)  # type: ignore[misc]
        row(BOUND, lambda data=data: bound(model, data, amounts["kappa"]))  # type: ignore[misc]
    return rows


def bound(model: Any, data: Any, kappa: Any) -> Any:
    """The model under a mask optimised for this request alone, from nothing."""
    import torch

    from models import Mask, switched_off
    from unlearn import copy_of, count_of, masked_layer
    from unlearn.mimu.ranking import keep_largest_out
    from unlearn.mimu.refine import refined

    student = copy_of(model)
    layer = masked_layer(student, data, None)
    count = count_of(kappa, layer.size, "kappa")
    nothing = torch.randn(layer.size, generator=data.generator("bound")).to(data.device)
    scores = refined(nothing, layer, data, count, steps=BOUND_STEPS, lr=BOUND_LR, retain_weight=4.0, tau=1.0, batch=1024)
    switched_off(student, Mask(layer.name, keep_largest_out(scores, count, layer.shape)))
    return student


def correct(model: Any, images: Any, device: Any) -> Any:
    """Whether the model predicts each image's class, (N,) bool on the CPU."""
    from evaluation import outputs_of

    return outputs_of(model, images.batches(1024, device=device)).correct


def table(rows: list[dict[str, Any]]) -> str:
    from statistics import mean, median

    from reporter.text_table import number, text_table

    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        column = {name: [row[name] for row in own] for name in ("forget_score", "retain_score", "retain_drop", "seconds")}
        values = [mean(column["forget_score"]), max(column["forget_score"]), mean(column["retain_score"])]
        values += [mean(column["retain_drop"]), max(column["retain_drop"])]
        lines.append([method, *map(number, values), number(median(column["seconds"]), 3), number(max(column["seconds"]), 1)])
    header = ["method", "forget %", "worst", "retain %", "retain drop", "worst", "median s", "first s"]
    return text_table(header, lines)


if __name__ == "__main__":
    sys.exit(main())
