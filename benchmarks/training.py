"""Time training: a step of Lethe's loop beside a hand-written one, loading CIFAR-10, and a goal on a GPU.

    python benchmarks/training.py
    python benchmarks/training.py --part goal --data ./data          # on a GPU

steps    `fit` beside the bare forward, backward and step on the same batch size: the perceptron in float32,
         the convolutional nets with what --train_precision auto and --train_memory_format auto find. The
         perceptron's bare loop takes its batches from a tensor of normalised images in random order; the
         convolutional nets' has one batch, made before. `fit` draws, augments and normalises its own, watches
         the loss and counts. In turn, --repeats times, --steps steps each (the perceptron: 100 times as
         many). ms: on the clock; cpu ms: of all cores together, which says more on a busy machine. Medians.
load     CIFAR-10 from its files to the device, the split and the normalisation included.
goal     CIFAR-10 on a GPU: ResNet-18 and ResNet-9 by the RECIPES, test score, seconds, images a second, the
         share of the bf16 matrix rate (a product of two 8192 x 8192 matrices, measured here) that the
         training's products reach, peak memory. For comparison, an A100: 94 % in 2.6 s by airbench94's
         specialised network, a standard ResNet-18 to 96 % in 7 minutes. Not without a GPU.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

PARTS = ("steps", "load", "goal")
# The dataset, and the largest time of a step in bare steps.
MODELS = {"mlp": ("MNIST", 1.3), "resnet18": ("CIFAR10", 1.1), "resnet9": ("CIFAR10", 1.1)}
PERCEPTRON_STEPS = 100  # for one of a convolutional net
GOALS = {"resnet18": 94.0, "resnet9": 92.0}
RECIPES: dict[str, dict[str, Any]] = {
    "resnet18": {"epochs": 30, "lr": 0.2, "batch_size": 512, "label_smoothing": 0.1},
    "resnet9": {"epochs": 16, "lr": 0.5, "batch_size": 512, "label_smoothing": 0.1},
}
MATRIX = 8192

Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, and write the same numbers with --json."""
    options = options_of(argv)

    from benchmarks.machine import describe, write_json
    from lethe.report.text_table import text_table
    from lethe.system.device import device_named

    device = device_named(options.device)
    tables: dict[str, list[Row]] = {}
    for part in options.part:
        rows = tables[part] = {"steps": steps, "load": load, "goal": goal}[part](options, device)
        if rows:
            print(text_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
            print()
        else:
            print(f"{part}: not measured, there is no GPU here\n")
    print(describe())
    write_json(options.json, __file__, argv, **tables)
    return 0


def options_of(argv: Sequence[str] | None) -> Namespace:
    parser = BenchmarkParser(__doc__)
    for flag, choices, help in (
        ("part", PARTS, "what is measured (default: all)"),
        ("archs", tuple(MODELS), "whose steps are timed (default: all)"),
    ):
        parser.add_argument(f"--{flag}", nargs="+", default=list(choices), choices=choices, help=help)
    parser.add_number("batch_size", 128, "images of a timed step", least=2)
    parser.add_number("steps", 5, "timed steps of a repeat")
    parser.add_number("repeats", 5, "of everything timed")
    parser.add_place("data", "device")
    return parser.options(argv)


def steps(options: Namespace, device: Any) -> list[Row]:
    """Return a row for each model: milliseconds of a bare step, of one of `fit`, and their ratio."""
    return [row_of(arch, options, device) for arch in options.archs]


def row_of(arch: str, options: Namespace, device: Any) -> Row:
    import torch

    from lethe.data import DATASETS, load_splits
    from lethe.models import ARCHITECTURES, build
    from lethe.training.precision import precision_of
    from lethe.training.recipe import Recipe

    dataset, most = MODELS[arch]
    facts, count = ARCHITECTURES[arch].facts, options.steps * (PERCEPTRON_STEPS if arch == "mlp" else 1)
    train = load_splits(dataset, options.data).train
    train = train.subset(torch.arange(min(len(train), (count + 2) * options.batch_size))).to(device)
    epochs = -(-(count + 2) * options.batch_size // len(train))
    recipe = Recipe(
        epochs,
        facts.optimizer,
        facts.lr / 100,
        options.batch_size,
        facts.weight_decay,
        DATASETS[dataset].facts.augment,
    )
    if arch != "mlp":
        recipe = replace(recipe, precision="auto", memory_format="auto")
    model = build(arch, train.image_shape, 10, seed=1).to(device).train()
    drawn = torch.Generator().manual_seed(0)
    few = train.subset(torch.arange(options.batch_size))
    batches = few.batches(options.batch_size, generator=drawn, device=device, augment=recipe.augment)
    precision = precision_of(recipe, model, lambda: next(batches), 0)
    fixed = replace(
        recipe,
        precision="bf16" if precision.bf16 else "float32",
        memory_format="channels_last" if precision.channels_last else "contiguous",
    )
    bare, fitted = [], []
    for _ in range(options.repeats):
        bare.append(of_bare(arch, model, train, fixed, precision, count))
        fitted.append(of_fit(model, train, fixed, count))
    ms, cpu = ([median(one[k] for one in times) for times in (bare, fitted)] for k in (0, 1))
    return {
        "model": arch,
        "precision": str(precision),
        "bare ms": f"{ms[0]:.3g}",
        "fit ms": f"{ms[1]:.3g}",
        "fit / bare": f"{ms[1] / ms[0]:.2f}",
        "bare cpu ms": f"{cpu[0]:.3g}",
        "fit cpu ms": f"{cpu[1]:.3g}",
        "cpu fit / bare": f"{cpu[1] / cpu[0]:.2f}",
        "to be at most": most,
        "images/s": f"{1000 * options.batch_size / ms[1]:,.0f}",
    }


def moment(device: Any) -> tuple[float, float]:
    from lethe.system.device import synchronize

    synchronize(device)
    return time.perf_counter(), time.process_time()


def of_bare(
    arch: str, model: Any, images: Any, recipe: Any, precision: Any, count: int
) -> tuple[float, float]:
    """Return milliseconds of a hand-written step, by the clock and of all cores, without the first."""
    import copy
    from contextlib import nullcontext

    import torch
    from torch.nn import functional as F

    from lethe.training.recipe import optimizer_of

    device, size = images.labels.device, recipe.batch_size
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    model = copy.deepcopy(model).to(memory_format=layout)
    optimizer = optimizer_of(list(model.parameters()), recipe)
    y = images.labels[: len(images) // size * size]
    kept = len(y) if arch == "mlp" else size
    x = images.normalisation(images.images[:kept]).contiguous(memory_format=layout)
    one, done = (x[:size], y[:size]), 0
    started = ended = moment(device)
    while done <= count:
        for rows in torch.randperm(len(y)).to(device).split(size):
            inputs, labels = (x[rows], y[rows]) if arch == "mlp" else one
            with torch.autocast(device.type, torch.bfloat16) if precision.bf16 else nullcontext():
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == 1:
                started = moment(device)
            if done == count + 1:
                ended = moment(device)
                break
    return between(started, ended, count)


class Enough(Exception):
    """No more steps are wanted."""


def of_fit(model: Any, images: Any, recipe: Any, count: int) -> tuple[float, float]:
    """The same of the loop's own steps, as its progress sees them."""
    import copy

    from lethe.training import fit, generator_for

    device, moments = images.labels.device, []

    def watched(every: Iterable[Any], label: str) -> Iterator[Any]:
        for number, step in enumerate(every):
            if number in (1, count + 1):
                moments.append(moment(device))
            if number == count + 1:
                raise Enough
            yield step

    with suppress(Enough):
        fit(
            copy.deepcopy(model),
            images,
            recipe,
            generator=generator_for(1, "train"),
            device=device,
            progress=watched,
        )
    return between(moments[0], moments[1], count)


def between(started: tuple[float, float], ended: tuple[float, float], count: int) -> tuple[float, float]:
    """Milliseconds of each of so many, on the clock and of all cores."""
    clock, cores = (1000 * (last - first) / count for first, last in zip(started, ended, strict=True))
    return clock, cores


def load(options: Namespace, device: Any) -> list[Row]:
    """Return seconds, by the clock and of all cores, from CIFAR-10's files to the device, and bytes."""
    from lethe.data import load_splits

    load_splits("CIFAR10", options.data)  # what is imported, and the files in the system's cache
    seconds = []
    for _ in range(options.repeats):
        started = moment(device)
        splits = load_splits("CIFAR10", options.data)
        parts = [part.to(device) for part in (splits.train, splits.validation, splits.test)]
        seconds.append(between(started, moment(device), 1000))
    count, size = sum(map(len, parts)), sum(part.images[:].numel() for part in parts) / 1e6
    clock, cores = (f"{median(each):.2f}" for each in zip(*seconds, strict=True))
    return [
        {
            "CIFAR10": f"{count} images",
            "MB": f"{size:.0f}",
            "median s": clock,
            "cpu s": cores,
            "device": str(device),
        }
    ]


def goal(options: Namespace, device: Any) -> list[Row]:
    """CIFAR-10 on a GPU to a test score; [] without one."""
    if device.type == "cpu":
        return []
    rate = matrix_rate(device)
    return [to_goal(arch, options, device, rate) for arch in RECIPES]


def to_goal(arch: str, options: Namespace, device: Any, rate: float) -> Row:
    import torch

    from lethe.data import load_splits
    from lethe.experiment.base_models import score_of
    from lethe.models import build
    from lethe.training import fit, generator_for
    from lethe.training.recipe import Recipe

    splits = load_splits("CIFAR10", options.data).without_validation()
    train, scores, seconds = splits.train.to(device), [], []
    recipe = Recipe(
        augment=("crop", "flip"),
        precision="bf16",
        memory_format="channels_last",
        compile="auto",
        **RECIPES[arch],
    )
    torch.accelerator.reset_peak_memory_stats(device)
    for repeat in range(options.repeats):
        model = build(arch, train.image_shape, 10, seed=repeat + 1)
        started = moment(device)[0]
        fit(model, train, recipe, generator=generator_for(repeat + 1, "train"), device=device)
        seconds.append(moment(device)[0] - started)
        scores.append(score_of(model, splits.test, device))
    images = recipe.epochs * len(train) / median(seconds)
    return {
        "model": arch,
        "epochs": recipe.epochs,
        "goal %": GOALS[arch],
        "test %": f"{median(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})",
        "s": f"{median(seconds):.1f}",
        "images/s": f"{images:,.0f}",
        "of the bf16 rate": f"{images * operations_of(model, train, device) / rate:.1%}",
        "peak MiB": f"{torch.accelerator.max_memory_allocated(device) / 2**20:,.0f}",
    }


def operations_of(model: Any, images: Any, device: Any) -> float:
    """Floating-point operations of a forward and a backward pass for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    x, _ = next(images.batches(8, device=device))
    with FlopCounterMode(display=False) as counter:
        model.train()(x).sum().backward()
    return counter.get_total_flops() / 8


def matrix_rate(device: Any) -> float:
    """Floating-point operations a second of a product of two bf16 matrices."""
    import torch

    one, other = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(12):
        started = moment(device)[0]
        one @ other
        times.append(moment(device)[0] - started)
    return 2 * MATRIX**3 / median(times[2:])


if __name__ == "__main__":
    sys.exit(main())
