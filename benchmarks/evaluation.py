"""Time the evaluation of a model, beside a bare forward pass over the same images.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --dataset CIFAR10 --arch resnet18 --width 16 --epochs 1
    python benchmarks/evaluation.py --dataset benchmarks/drawn_images.py:drawn --arch resnet18 --width 16
        --epochs 1

bare      the model on every image of the four sets, in the evaluation's batches, nothing kept
forward   the same pass by the evaluation: outputs checked and kept
metrics   every default metric that is no attack, with the outputs of the ideal model given
attacks   each metric that trains a classifier; with --libsvm beside scikit-learn's SVC on the same features

The drawn images need no download. Medians of calls in turns, in one process; processor seconds are those of
all its threads, and say what a call costs on a machine that does other work too (of what a GPU does they say
nothing). The whole is what `measure` spends on one model where nothing is cached; a run measures the
unlearned model so, and the initial and the ideal model once. The model is the initial one of the flags,
trained if need be.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.experiment import shared_flags

ATTACKS = ("mia_correctness", "mia_confidence", "mia_entropy", "mia_m_entropy", "mia_prob", "mia_lr")
LIBSVM = "by libsvm"

Step = Callable[[], object]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one table, and write the same numbers with --json."""
    options = options_of(argv)

    from benchmarks.machine import describe, write_json

    world = world_of(options)
    seconds = in_turns(steps_of(options, world), world, options.repeats)
    print(heading(options, world), table(seconds), describe(), sep="\n")
    numbers = {"images": world["images"], "seconds": seconds, "shares": shares(seconds)}
    write_json(options.json, __file__, argv, **numbers)
    return 0


def options_of(argv: Sequence[str] | None) -> Namespace:
    parser = BenchmarkParser(__doc__)
    parser.add_number("repeats", 5, "counted calls of each")
    parser.add_argument(
        "--libsvm",
        action="store_true",
        help="the SVC attacks by scikit-learn too (minutes, where the sides overlap)",
    )
    parser.add_experiment(argv, dataset="MNIST")
    return parser.options(argv)


def world_of(options: Namespace) -> dict[str, Any]:
    """Return the model, the images, and the outputs of the ideal and the incompetent model."""
    from lethe.experiment.base_models import BaseModels
    from lethe.experiment.measure import model_outputs, outputs_on_forget
    from lethe.unlearn import ForgetData

    architecture = shared_flags.architecture_of(options.arch, options.dataset)
    base = BaseModels(
        shared_flags.base_config(options, architecture, options.seed), progress=command_line.progress_bar
    )
    model = base.initial().model
    data = ForgetData.of_division(base.splits, base.division, seed=options.seed, device=base.device)
    test = base.splits.test
    sets = [images for images in (data.forget, data.retain, data.validation, test) if len(images)]
    known = model_outputs(model, data, test)
    others = {"initial": known, "ideal": known, "incompetent": outputs_on_forget(base.untrained(), data)}
    about = {"base": base, "model": model, "data": data, "test": test, "sets": sets, "others": others}
    return about | {"images": sum(map(len, sets)), "kept": {}}


def steps_of(options: Namespace, world: dict[str, Any]) -> dict[str, Step]:
    """Return the timed calls by name. Each evaluation starts from outputs without derived values."""
    import torch

    from lethe.data import forward_batch
    from lethe.evaluation import DEFAULT, chosen, evaluate, needs_of
    from lethe.experiment.measure import TIMES, model_outputs
    from lethe.models import evaluating

    model, data, kept = world["model"], world["data"], world["kept"]
    plain = [
        entry
        for entry in chosen([DEFAULT])
        if entry.name not in (*ATTACKS, "mia", "avg_gap") and TIMES not in needs_of(entry.function)
    ]

    def bare() -> None:
        with evaluating(model), torch.inference_mode():
            for images in world["sets"]:
                for x, _ in images.batches(forward_batch(data.device), device=data.device):
                    model(x)

    def forward() -> None:
        kept["outputs"] = model_outputs(model, data, world["test"])

    def metrics() -> None:
        values, reasons = evaluate(names=plain, model=kept["outputs"], **world["others"])
        if not values:
            raise ValueError(next(iter(reasons.values())))

    steps: dict[str, Step] = {"bare": bare, "forward": forward, "metrics": metrics}
    return (
        steps
        | {name: attack(name, kept) for name in ATTACKS}
        | (libsvm_steps(kept) if options.libsvm else {})
    )


def attack(name: str, kept: dict[str, Any]) -> Step:
    from lethe.evaluation import evaluate

    return lambda: evaluate(names=(name,), model=kept["outputs"])


def libsvm_steps(kept: dict[str, Any]) -> dict[str, Step]:
    """The same attacks by scikit-learn's classifier."""
    from unittest.mock import patch

    from lethe.evaluation import evaluate
    from lethe.evaluation.interior_point import NotSolved
    from lethe.evaluation.kernel_svm import Trainer

    def step(name: str) -> Step:
        def run() -> None:
            with patch.object(Trainer, "fit", side_effect=NotSolved("libsvm is next")):
                evaluate(names=(name,), model=replace(kept["outputs"]))

        return run

    return {f"{name} {LIBSVM}": step(name) for name in ATTACKS if name != "mia_lr"}


def in_turns(
    steps: dict[str, Step], world: dict[str, Any], repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Wall and processor seconds of each call, all steps in turn, after one round that is not counted.

    What scikit-learn may take minutes for is run once, in the last round.
    """
    from benchmarks.meter import Meter

    meter = Meter(world["data"].device, 1, 0.0)
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "processor": []} for name in steps}
    for number in range(repeats + 1):
        for name, step in steps.items():
            if LIBSVM in name and number < repeats:
                continue
            busy, wall = time.process_time(), meter.once(step) / 1000
            if number:
                seconds[name]["wall"].append(wall)
                seconds[name]["processor"].append(time.process_time() - busy)
    return seconds


def shares(seconds: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Return the cost in bare passes, without and with the attacks: medians over the rounds, by clock."""
    parts = {"without_attacks": ("forward", "metrics"), "whole": ("forward", "metrics", *ATTACKS)}
    return {
        clock: {
            name: median(
                sum(seconds[part][clock][n] for part in own) / seconds["bare"][clock][n]
                for n in range(len(seconds["bare"][clock]))
            )
            for name, own in parts.items()
        }
        for clock in ("wall", "processor")
    }


def heading(options: Namespace, world: dict[str, Any]) -> str:
    base = world["base"]
    sizes = ", ".join(
        f"{len(getattr(world['data'], name))} {name}" for name in ("forget", "retain", "validation")
    )
    of = f"{base.request_slug}, {world['images']} images ({sizes}, {len(world['test'])} test)"
    where = f"{world['data'].device.type}, medians of {options.repeats}"
    return f"{base.splits.dataset}, {base.architecture.name}, {of}, {where}"


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Return a line for each part and for their sums: seconds and bare passes, by either clock."""
    from lethe.report.text_table import text_table

    found = shares(seconds)
    own = {name: {clock: median(values) for clock, values in both.items()} for name, both in seconds.items()}
    rows = [
        row(name, both, {clock: both[clock] / own["bare"][clock] for clock in both})
        for name, both in own.items()
    ]
    for name, label, parts in (
        ("without_attacks", "forward + metrics", ("forward", "metrics")),
        ("whole", "the whole", ("forward", "metrics", *ATTACKS)),
    ):
        both = {clock: sum(own[part][clock] for part in parts) for clock in ("wall", "processor")}
        rows.append(row(label, both, {clock: found[clock][name] for clock in both}))
    return text_table(["part", "seconds", "bare passes", "processor seconds", "bare passes"], rows)


def row(name: str, seconds: dict[str, float], passes: dict[str, float]) -> list[str]:
    cells = [name]
    for clock in ("wall", "processor"):
        cells += [f"{seconds[clock]:.3f}", f"{passes[clock]:.2f}"]
    return cells


if __name__ == "__main__":
    sys.exit(main())
