"""Score masks on tasks of 20, 40 and 60 classes, with many images a class and with few.

    python benchmarks/mimu_many_classes.py --seed 1 2 3

MNIST and FashionMNIST joined are 20 classes; mirrored copies make 40, and transposed ones 60 classes of their
own. The seed draws the images, the model and the methods' streams. With few images the models know theirs by
heart. For each task: the model's scores, and for each method the forget score (percent of the forgotten
class's test images still predicted right) and the retain drop (points that the other classes lost), mean and
worst of all classes and seeds, the median number of masked weights, and the median seconds of a request. Slow
methods forget only --few of the classes, evenly chosen; `classes` says how many requests a row has. SSD and
SalUn are the better of several settings, chosen for each task by validation images of the first of these
classes. Finished cells are kept in <folder>/mimu_many_classes.jsonl.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

BOTH = ("MNIST", "FashionMNIST")
SOURCES = {10: (("MNIST",), 1), 20: (BOTH, 1), 40: (BOTH, 2), 60: (BOTH, 3)}  # datasets, views
IMAGES_SEEN = 300_000  # of training, so that every task's model has enough steps
FEWEST_EPOCHS, MOST_EPOCHS = 3, 30
BOUND = "mask optimised for each class (the bound)"
NO_NETWORK = "MIMU without its network: random scores, refined"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MIMU": ("MIMU", {}),
    "logit_attribution, kappa auto": ("logit_attribution", {"kappa": "auto"}),
}
TUNED: dict[str, tuple[str, Sequence[dict[str, Any]]]] = {
    "SSD, tuned": ("SSD", [{"selection_alpha": alpha} for alpha in (2.0, 5.0, 10.0, 20.0, 50.0)]),
    "SalUn, tuned": (
        "SalUn",
        [{"unlearn_epochs": epochs, "unlearn_lr": lr} for epochs in (1, 3) for lr in (1e-3, 1e-2)],
    ),
}


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each task, and write the numbers of every class with --json."""
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 40, 60], choices=SOURCES, metavar="N")
    parser.add_argument("--per_class", type=int, nargs="+", default=[600, 6000], metavar="N")
    parser.add_argument("--arch", nargs="+", default=["mlp"], metavar="ARCH")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--folder", default="results/many_classes", help="where finished cells are kept")
    parser.add_number("few", 5, "classes that slow methods forget", least=0)
    parser.add_place("data")
    options = parser.options(argv)

    from benchmarks.cells import Cells
    from benchmarks.machine import describe, write_json

    cells = Cells(Path(options.folder) / "mimu_many_classes.jsonl", __file__)
    rows: list[dict[str, Any]] = []
    for arch, classes, per_class in product(options.arch, options.classes, options.per_class):
        own: list[dict[str, Any]] = []
        for seed in options.seed:
            own += measured(Task(arch, classes, per_class, seed, options.data), options.few, cells)
        print(table(own), flush=True)
        rows += own
    print(cells.note(), describe(), sep="\n")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


class Task:
    """A model of many classes, trained when it is first asked for."""

    def __init__(self, arch: str, classes: int, per_class: int, seed: int, folder: str) -> None:
        self.arch, self.classes, self.per_class, self.seed = arch, classes, per_class, seed
        self.folder = folder
        self.cache: dict[str, Any] = {}

    @property
    def key(self) -> dict[str, Any]:
        return {"arch": self.arch, "classes": self.classes, "per_class": self.per_class, "seed": self.seed}

    @cached_property
    def splits(self) -> Any:
        from benchmarks.joined_images import joined
        from lethe.data.splits import split

        datasets, views = SOURCES[self.classes]
        found = joined(datasets, views, self.per_class, self.seed, self.folder)
        return split(found.raw, f"joined{self.classes}", 0)

    @cached_property
    def model(self) -> Any:
        return self.trained_on(self.splits.train)

    def trained_on(self, images: Any) -> Any:
        """A model of this seed, trained on some of the training images."""
        from lethe.models import build
        from lethe.training import Recipe, fit, generator_for

        train = self.splits.train
        epochs = min(max(round(IMAGES_SEEN / len(train)), FEWEST_EPOCHS), MOST_EPOCHS)
        model = build(self.arch, train.image_shape, self.classes, seed=self.seed)
        recipe = Recipe(epochs, "adamw", lr=3e-3, batch_size=128, weight_decay=1e-2)
        fit(model, images, recipe, generator=generator_for(self.seed, "train"))
        return model

    def data(self, *forgotten: int) -> Any:
        from lethe.data import ForgetRequest

        return self.asked(ForgetRequest(forgotten))

    def asked(self, request: Any) -> Any:
        from lethe.unlearn import ForgetData

        return ForgetData.of(self.splits, request, seed=self.seed, cache=self.cache)

    @cached_property
    def before(self) -> dict[str, Any]:
        """Whether the model predicts each image right, by part."""
        import torch

        from benchmarks.mimu_quality import correct

        parts = {name: getattr(self.splits, name) for name in ("train", "validation", "test")}
        return {name: correct(self.model, images, torch.device("cpu")) for name, images in parts.items()}

    def few(self, count: int) -> list[int]:
        return sorted({at * self.classes // count for at in range(count)}) if count else []


def measured(task: Task, few: int, cells: Any) -> Iterator[dict[str, Any]]:
    """One row per method and class."""

    def scores() -> dict[str, float]:
        return {name: 100 * right.double().mean().item() for name, right in task.before.items()}

    yield {**task.key, "method": "", **cells.measured({**task.key, "method": ""}, scores)}
    for method, (name, settings) in METHODS.items():
        for label in range(task.classes):
            yield row_of(task, method, label, partial(forgetting, task, name, settings, label), cells)
    if not few:
        return
    for label in task.few(few):
        yield row_of(task, NO_NETWORK, label, partial(without_network, task, label), cells)
        yield row_of(task, BOUND, label, partial(bound_of, task, label), cells)
    for method, (name, grid) in TUNED.items():
        first, *others = task.few(few)
        key = {**task.key, "method": method, "tuned on": first}
        best = cells.measured(key, partial(tuned, task, name, grid, first))["settings"]
        for label in (first, *others):
            yield row_of(task, method, label, partial(forgetting, task, name, best, label), cells)


def row_of(task: Task, method: str, label: int, make: Callable[[], Any], cells: Any) -> dict[str, Any]:
    """What a method does to test images."""
    from benchmarks.mimu_quality import forgotten

    def numbers() -> dict[str, Any]:
        if not task.cache:  # the network's answers and the layer's inputs, which later requests share
            forgetting(task, "MIMU", {}, label)
        return forgotten(make, task.splits.test, task.before["test"], task.data(label))[1]

    key = {**task.key, "method": method, "class": label}
    return {**key, **cells.measured(key, numbers)}


def forgetting(task: Task, method: str, settings: dict[str, Any], label: int) -> Any:
    from lethe.unlearn import unlearn

    return unlearn(method, task.model, task.data(label), **settings)


def without_network(task: Task, label: int) -> Any:
    """The mask that --kappa auto chooses and refines as for MIMU, from random scores."""
    import torch

    from lethe.models import Mask, switched_off
    from lethe.unlearn import Unlearned, copy_of, masked_layer
    from lethe.unlearn.mimu.kappa import chosen
    from lethe.unlearn.mimu.ranking import keep_largest_out
    from lethe.unlearn.mimu.refine import RefineSettings

    data, student = task.data(label), copy_of(task.model)
    layer = masked_layer(student, data, None)
    scores = torch.randn(layer.size, generator=data.generator("no network"))
    best = chosen(student, layer, data, scores, {}, RefineSettings(4.0, 0.1, 0.1, 1024)).best
    mask = Mask(layer.name, keep_largest_out(best.scores, best.kappa, layer.shape))
    switched_off(student, mask)
    return Unlearned(student, mask)


def bound_of(task: Task, label: int) -> Any:
    from benchmarks.mimu_quality import bound

    return bound(task.model, task.data(label), 0.05)


def tuned(task: Task, method: str, grid: Sequence[dict[str, Any]], label: int) -> dict[str, Any]:
    """The settings that forget a class at the least cost on validation images."""
    from benchmarks.mimu_quality import forgotten

    costs = []
    for settings in grid:
        make = partial(forgetting, task, method, settings, label)
        _, row = forgotten(make, task.splits.validation, task.before["validation"], task.data(label))
        costs.append(row["forget_score"] + 2 * row["retain_drop"])
    return {"settings": grid[costs.index(min(costs))]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A heading with the model's scores, and a line for each method."""
    from lethe.report.text_table import number, text_table

    first = rows[0]
    models = [row for row in rows if not row["method"]]
    scores = ", ".join(f"{part} {mean(row[part] for row in models):.1f} %" for part in ("train", "test"))
    heading = f"\n{first['classes']} classes, {first['per_class']} images a class, {first['arch']}: {scores}"
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"]):
        own = [row for row in rows if row["method"] == method]
        forget, drop = ([row[name] for row in own] for name in ("forget_score", "retain_drop"))
        masked = [row["masked"] for row in own if row["masked"] is not None]
        values = [mean(forget), max(forget), mean(drop), max(drop)]
        shown = [number(value, 2) for value in values]
        size = number(median(masked), 0) if masked else ""
        seconds = number(median(row["seconds"] for row in own), 2)
        lines.append([method, str(len(own)), size, *shown, seconds])
    header = ["method", "classes", "masked", "forget %", "worst", "retain drop", "worst", "median s"]
    return f"{heading}\n{text_table(header, lines)}"


if __name__ == "__main__":
    sys.exit(main())
