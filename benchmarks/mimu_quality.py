"""Score masks on test images, beside rivals, the bound and the ideal model.

    python benchmarks/mimu_quality.py --dataset digits --seed 1 2 3

Every class in turn is the forget class (or those of --class_to_replace). For each method, over classes and
seeds: the forget score (percent of the forgotten class's test images still predicted right) and the retain
drop (initial minus masked score on the other classes' test images, points), mean and worst. The bound is a
mask optimised for each class by itself, on training images; no network can be expected to do better. What is
left: the score of a linear probe on the penultimate features of training images of the forgotten class, and
the optimiser steps that bring 95 % of its training score back (evaluation/probe.py, relearning.py).

Several values of --kappa give the table over kappa, and with --picture FILE its picture. Finished cells are
kept in <save_dir>/benchmarks and used again: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.experiment import shared_flags

AUTO = "MIMU, kappa auto (the default)"
NO_MASK, MIMU, IDEAL = "no mask (the initial model)", "MIMU", "ideal (retrained without the class)"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    NO_MASK: ("default", {}),
    "random_mask": ("random_mask", {"kappa": None}),
    "SFT": ("SFT", {"sft_lr": 1e-2}),  # its source's
    "logit_attribution": ("logit_attribution", {"kappa": None}),
    "MIMU, contrast 0 (the paper's objective)": ("MIMU", {"topk": None, "kappa": None, "contrast": 0.0}),
    MIMU: ("MIMU", {"topk": None, "kappa": None}),
    "MIMU, binary ranking": ("MIMU", {"topk": None, "kappa": None, "ranking": "binary"}),
    "MIMU, set difference": ("MIMU", {"topk": None, "kappa": None, "ranking": "set_difference"}),
    "MIMU, refined by 20 steps": ("MIMU", {"topk": None, "kappa": None, "refine_steps": 20}),
    AUTO: ("MIMU", {}),
}
# Methods that train all weights, with their defaults: rows of --methods alone, as they take minutes.
RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name in ("SSD", "SCRUB", "SalUn", "NGPlus")
}
BOUND = "mask optimised for each class (the bound)"
BOUND_STEPS, BOUND_LR = 300, 0.1
OVER_KAPPA = ("random_mask", "logit_attribution", MIMU)
PROBED = (NO_MASK, MIMU, IDEAL)


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one table over the classes, or over kappa, and write the numbers of every class with --json."""
    options = options_of(argv)

    from benchmarks.cells import Cells
    from benchmarks.machine import describe, write_json
    from lethe.training import check_writable

    if options.picture:
        check_writable(Path(options.picture).absolute().parent, "Choose another --picture")
    cells = Cells(cells_file(options), __file__, command_line.__file__)
    rows: list[dict[str, Any]] = []
    for seed, kappa in product(options.seed, options.kappa):
        rows += measured(options, seed, kappa, cells)
    print(heading(options))
    print(table(rows) if len(options.kappa) == 1 else table_over_kappa(rows))
    print(cells.note(), describe(), sep="\n")
    if options.picture:
        draw(options.picture, rows, f"{options.dataset}: {MIMU}, test images, every class")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def options_of(argv: Sequence[str] | None) -> Any:
    """Return the flags' values. ValueError for a request of images, and for a picture of one kappa."""
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--topk", default="50", help="default: %(default)s")
    parser.add_argument("--kappa", default=["0.1"], nargs="+", help="default: 0.1")
    ideal, ideal_help = ("auto", "train", "skip"), "the ideal models (default: %(default)s)"
    parser.add_argument("--ideal", default="auto", choices=ideal, help=ideal_help)
    features_help = "run the layers before the masked one once; seconds leave it out"
    every = (*METHODS, *RIVALS, BOUND, IDEAL)
    few = ", ".join(RIVALS)
    methods_help = f"rows of the table (default: all but {few}; over kappa: those that have one)"
    parser.add_argument("--methods", nargs="+", choices=every, metavar="METHOD", help=methods_help)
    parser.add_argument("--on_features", action="store_true", help=features_help)
    picture_help = "draw forget and retain score over kappa there, as SVG"
    parser.add_argument("--picture", metavar="FILE", help=picture_help)
    parser.add_experiment(argv, several_seeds=True)
    options = parser.options(argv)
    if options.num_indexes_to_replace or options.forget_indexes or -1 in (options.class_to_replace or ()):
        raise ValueError(
            "expected whole classes, got a request for images. See benchmarks/mimu_images.py for these"
        )
    if options.picture and len(options.kappa) < 2:
        raise ValueError(
            f"--picture: expected several values of --kappa, got {options.kappa}. Give e.g. --kappa 0.01 "
            "0.05 0.1"
        )
    return options


def heading(options: Any) -> str:
    """Return the dataset, the architecture with the given flags, and the settings, in one line."""
    architecture = shared_flags.architecture_of(options.arch, options.dataset)
    settings = shared_flags.settings_from(options, architecture)
    given = "".join(f" {name} {value}" for name, value in settings.items())
    tail = ", on features" if options.on_features else ""
    kappas = " ".join(options.kappa)
    flags = f"seeds {options.seed}, topk {options.topk}, kappa {kappas}"
    return f"{options.dataset}, {architecture.name}{given}, {flags}, test images{tail}"


def cells_file(options: Any) -> Path:
    from lethe.data.impl import results_folder

    folder = shared_flags.path_or_none(options.save_dir) or results_folder(options.dataset)
    return folder / "benchmarks" / "mimu_quality.jsonl"


def measured(options: Any, seed: int, kappa: str, cells: Any) -> Iterator[dict[str, Any]]:
    """One row per method and class."""
    from lethe.data import ForgetRequest
    from lethe.experiment.base_models import BaseModels
    from lethe.training import DiskCache, model_digest
    from lethe.unlearn import METHODS as REGISTRY
    from lethe.unlearn import ForgetData, masked_layer, resolved, unlearn

    architecture = shared_flags.architecture_of(options.arch, options.dataset)
    config = replace(shared_flags.base_config(options, architecture, seed), request=ForgetRequest((0,)))
    base = BaseModels(config, progress=command_line.progress_bar)
    flags = REGISTRY["MIMU"].hyperparameters
    amounts = {"topk": flags["topk"].parse(options.topk), "kappa": flags["kappa"].parse(kappa)}
    some = ForgetData.of(base.splits, config.request, device=base.device)
    # Raises ValueError for amounts that the layer does not have, before anything is trained.
    resolved("MIMU", base.untrained(), some, REGISTRY["MIMU"].settings(amounts))
    whole = base.initial().model
    initial, splits = on_features(whole, base.splits, some) if options.on_features else (whole, base.splits)
    world = {
        "seed": seed,
        "device": base.device,
        "cache": DiskCache(base.save_dir / "cache"),
        "progress": command_line.progress_bar,
    }
    common = {"initial": model_digest(whole), "split": base.splits.digest, "seed": seed, **amounts}
    common |= {"device": str(base.device), "on_features": options.on_features}
    about = {"seed": seed, "kappa": kappa, "layer_size": masked_layer(whole, some, None).size}
    before = correct(initial, splits.test, base.device)
    asked = ForgetRequest(tuple(options.class_to_replace or range(splits.classes))).of_classes(
        splits.class_names
    )
    for label in asked.numbers:
        request = ForgetRequest((label,))
        data, images = (ForgetData.of(parts, request, **world) for parts in (splits, base.splits))
        of_class = BaseModels(
            replace(config, request=request), progress=command_line.progress_bar, splits=base.splits
        )
        makers: dict[str, Callable[[], Any]] = {}
        for method, (name, settings) in {**METHODS, **RIVALS}.items():
            given = {key: amounts[key] if value is None else value for key, value in settings.items()}
            makers[method] = partial(unlearn, name, initial, data, **given)
        makers[BOUND] = partial(bound, initial, data, amounts["kappa"])
        if options.ideal == "train" or (
            options.ideal == "auto" and (base.embedded or of_class.ideal_path.exists())
        ):
            makers[IDEAL] = partial(ideal, of_class)
        for method, make in makers.items():
            if method not in (options.methods or by_default(options.kappa)):
                continue
            parts, own = (base.splits, images) if method == IDEAL else (splits, data)
            back = partial(put_back, whole, images) if options.on_features and method != IDEAL else None
            key = {**common, "method": method, "class": label}
            row = cells.measured(
                key, partial(numbers, make, parts.test, before, own, method in PROBED, back, whole, images)
            )
            yield {**about, "method": method, "class": label} | row


def by_default(kappas: Sequence[str]) -> tuple[str, ...]:
    """Return the rows of the table, or those of the table over kappa."""
    return OVER_KAPPA if len(kappas) > 1 else (*METHODS, BOUND, IDEAL)


def numbers(
    make: Callable[[], Any],
    test: Any,
    before: Any,
    data: Any,
    is_probed: bool,
    back: Callable[[Any], Any] | None,
    whole: Any,
    images: Any,
) -> dict[str, Any]:
    """All of one row. `back` makes a whole model of a tail; `whole` is the initial model, on `images`."""
    unlearned, row = forgotten(make, test, before, data)
    if is_probed:
        row |= probed(unlearned.model, data)
        row |= relearned(back(unlearned.model) if back else unlearned.model, whole, images)
    return row


def on_features(model: Any, splits: Any, data: Any) -> tuple[Any, Any]:
    """Return the model from its masked layer on, and the splits with that layer's inputs as images."""
    import torch

    from lethe.data import Normalisation, forward_batch
    from lethe.models import tail_at
    from lethe.unlearn import masked_layer

    layer = masked_layer(model, data, None)

    def seen(images: Any) -> Any:
        with torch.no_grad():
            batches = images.batches(forward_batch(data.device), device=data.device)
            h = torch.cat([layer.body(x) for x, _ in batches])
        return replace(images, images=h.cpu(), normalisation=Normalisation((), ()))

    parts = {name: seen(getattr(splits, name)) for name in ("train", "validation", "test")}
    some = data.forget.normalisation(data.forget.images[:2].to(data.device))
    return tail_at(model, layer.name, some), replace(splits, **parts)


def ideal(base: Any) -> Any:
    """The ideal model, and the seconds that its training took, whether it was trained now or before."""
    from lethe.unlearn import Unlearned

    trained = base.ideal()
    facts = {"train_seconds": trained.metadata.train_seconds} if trained.loaded else {}
    return Unlearned(trained.model, facts=facts)


def bound(model: Any, data: Any, kappa: Any) -> Any:
    """The model under a mask optimised for this request alone, from nothing."""
    import torch

    from lethe.models import Mask, switched_off
    from lethe.unlearn import Unlearned, copy_of, count_of, masked_layer
    from lethe.unlearn.mimu.ranking import keep_largest_out
    from lethe.unlearn.mimu.refine import refined

    student = copy_of(model)
    layer = masked_layer(student, data, None)
    count = count_of(kappa, layer.size, "kappa")
    nothing = torch.randn(layer.size, generator=data.generator("bound")).to(data.device)
    scores = refined(
        nothing, layer, data, count, steps=BOUND_STEPS, lr=BOUND_LR, retain_weight=4.0, tau=1.0, batch=1024
    )
    mask = Mask(layer.name, keep_largest_out(scores, count, layer.shape))
    switched_off(student, mask)
    return Unlearned(student, mask)


def put_back(whole: Any, data: Any, tail: Any) -> Any:
    """A copy of the whole model with the tail's layer in it."""
    from lethe.unlearn import copy_of, masked_layer

    model = copy_of(whole)
    masked_layer(model, data, None).layer.load_state_dict(tail.layer.state_dict())
    return model


def correct(model: Any, images: Any, device: Any) -> Any:
    """Whether the model predicts each image's class, (N,) bool on the CPU."""
    from lethe.data import forward_batch
    from lethe.evaluation import outputs_of

    return outputs_of(model, images.batches(forward_batch(device), device=device)).correct


def forgotten(make: Callable[[], Any], test: Any, before: Any, data: Any) -> tuple[Any, dict[str, Any]]:
    """An unlearned model, and what it forgot and lost, in percent, points and seconds."""
    started = time.perf_counter()
    unlearned = make()
    seconds = time.perf_counter() - started
    after = correct(unlearned.model, test, data.device)
    of_class = test.labels == data.forget_classes[0]
    retain, retain_before = (100 * known[~of_class].double().mean().item() for known in (after, before))
    row = {
        "forget_score": 100 * after[of_class].double().mean().item(),
        "retain_score": retain,
        "retain_drop": retain_before - retain,
    }
    row |= {
        "seconds": unlearned.facts.get("train_seconds", seconds),
        "network_cached": unlearned.facts.get("network_cached", 0),
    }
    return unlearned, row | {"masked": None if unlearned.mask is None else unlearned.mask.kappa_count}


def probed(model: Any, data: Any) -> dict[str, Any]:
    """What a linear probe still finds."""
    from lethe.evaluation import penultimate_features, probe_score

    forget, retain = (
        penultimate_features(model, images, device=data.device) for images in (data.forget, data.retain)
    )
    return {
        "probe_score": probe_score(forget, data.forget.labels, retain, data.retain.labels, seed=data.seed)
    }


def relearned(model: Any, whole: Any, data: Any) -> dict[str, Any]:
    """How soon the class is learned again, by the whole model."""
    from lethe.evaluation import relearn_steps
    from lethe.experiment.base_models import score_of

    known = score_of(whole, data.forget, data.device)
    if known == 0:  # there is nothing to learn again
        return {}
    again = relearn_steps(model, data.forget, known, seed=data.seed, device=data.device)
    return {"relearn_steps": again.steps, "relearn_censored": again.censored}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line per method: means and worst values over classes and seeds, medians of the rest."""
    from statistics import mean, median

    from lethe.report.text_table import number, text_table

    lines = []
    counted = [row["method"] for row in rows]
    most = max(map(counted.count, counted))
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        name = method if len(own) == most else f"{method}, {len(own)} of {most}"
        column = {
            name: [row[name] for row in own if row.get(name) is not None] for name in own[0]
        }  # of one method, alike
        values = [
            mean(column["masked"]) if column["masked"] else None,
            mean(column["forget_score"]),
            max(column["forget_score"]),
        ]
        values += [mean(column["retain_score"]), mean(column["retain_drop"]), max(column["retain_drop"])]
        left = [number(mean(column["probe_score"])), steps(own)] if "probe_score" in column else ["", ""]
        digits = (0, 2, 2, 2, 2, 2)
        lines.append(
            [
                name,
                *map(number, values, digits),
                *left,
                number(median(column["seconds"]), 3),
                number(max(column["seconds"]), 1),
            ]
        )
    header = [
        "method",
        "masked",
        "forget %",
        "worst",
        "retain %",
        "retain drop",
        "worst",
        "probe %",
        "relearn",
        "median s",
        "longest s",
    ]
    return text_table(header, lines)


def steps(rows: Sequence[dict[str, Any]]) -> str:
    """The median of the relearning steps, and where some are censored, how many."""
    from statistics import median

    learned = [row for row in rows if "relearn_steps" in row]
    censored = sum(row["relearn_censored"] for row in learned)
    return f"{median(row['relearn_steps'] for row in learned):g}" * bool(
        learned
    ) + f" ({censored} censored)" * bool(censored)


def table_over_kappa(rows: Sequence[dict[str, Any]]) -> str:
    """A line per method and kappa."""
    from statistics import mean

    from lethe.report.text_table import number, text_table

    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for kappa in dict.fromkeys(row["kappa"] for row in rows):
            own = [row for row in rows if (row["method"], row["kappa"]) == (method, kappa)]
            forget, retain, drop = (
                [row[name] for row in own] for name in ("forget_score", "retain_score", "retain_drop")
            )
            values = [
                mean(row["masked"] for row in own),
                mean(forget),
                max(forget),
                mean(retain),
                mean(drop),
                max(drop),
            ]
            lines.append([method, kappa, *map(number, values, (0, 2, 2, 2, 2, 2))])
    return text_table(
        ["method", "kappa", "masked", "forget %", "worst", "retain %", "retain drop", "worst"], lines
    )


def draw(file: str, rows: Sequence[dict[str, Any]], title: str) -> None:
    """MIMU's forget and retain score over kappa, a point per class and seed."""
    from statistics import mean

    from lethe.report.kappa_chart import kappa_curve
    from lethe.report.svg_file import svg_file

    own = [row for row in rows if row["method"] == MIMU]
    points = [(row["masked"], row["forget_score"], row["retain_score"]) for row in own]
    before = mean(row["retain_score"] + row["retain_drop"] for row in own)
    picture = kappa_curve(points, (before, before), title=title, size=own[0]["layer_size"])
    Path(file).write_text(svg_file(picture, f"{len(own)} runs"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
