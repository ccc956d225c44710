"""Score masks for several classes at once, and for a tenth of a class.

    python benchmarks/mimu_several_and_parts.py --classes 10 20 --seed 1

The tasks are those of mimu_many_classes.py; 10 classes are MNIST. Several classes: --sets sets of each size,
drawn by the seed; over them, the forget score of test images (percent of the forgotten classes' images still
predicted right: the mean, and the worst class), the points that the other classes lost (mean and worst), and
how many of the requests a run would warn of. A tenth of a class: every class in turn, and a tenth of all
images; how many points the images to forget lost, the retained images of their classes, and the test images
of these, and how many of the requests a run would warn of. `ideal` is retrained without the images. Finished
cells are kept in <folder>/mimu_several_and_parts.jsonl.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from benchmarks.mimu_many_classes import SOURCES, Task
from lethe import command_line

IDEAL = "ideal"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MIMU": ("MIMU", {}),
    "logit_attribution, kappa auto": ("logit_attribution", {"kappa": "auto"}),
    "SalUn": ("SalUn", {}),
}
PART = 0.1
Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print two tables for each task, and write the numbers of every request with --json."""
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 20], choices=SOURCES, metavar="N")
    parser.add_argument("--per_class", type=int, nargs="+", default=[600], metavar="N")
    parser.add_argument("--arch", default="mlp", metavar="ARCH")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--folder", default="results/many_classes", help="where finished cells are kept")
    parser.add_number("sets", 5, "sets of classes of each size")
    parser.add_place("data")
    options = parser.options(argv)

    from benchmarks.cells import Cells
    from benchmarks.machine import describe, write_json

    cells = Cells(Path(options.folder) / "mimu_several_and_parts.jsonl", __file__)
    rows: list[Row] = []
    for classes, per_class in product(options.classes, options.per_class):
        own: list[Row] = []
        for seed in options.seed:
            task = Task(options.arch, classes, per_class, seed, options.data)
            own += several(task, options.sets, cells) + parts(task, cells)
        print(f"\n{classes} classes, {per_class} images a class, {options.arch}")
        print(table_of_several(own), table_of_parts(own), sep="\n\n", flush=True)
        rows += own
    print(cells.note(), describe(), sep="\n")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def several(task: Task, sets: int, cells: Any) -> list[Row]:
    """Rows of requests for two, three and five classes, for half of them, and for all but one."""
    import torch

    draws = torch.Generator().manual_seed(task.seed)
    rows = []
    for count in sorted({2, 3, 5, task.classes // 2, task.classes - 1}):
        for _ in range(sets):
            forgotten = sorted(torch.randperm(task.classes, generator=draws)[:count].tolist())
            rows += of_request(task, f"{count} classes", forgotten, None, cells)
    return rows


def parts(task: Task, cells: Any) -> list[Row]:
    """Rows of requests for a tenth of each class, and for a tenth of all images."""
    rows = []
    for label in range(task.classes):
        count = round(PART * len(task.splits.train.of_classes(label)))
        rows += of_request(task, "10 % of a class", [label], count, cells)
    everywhere = round(PART * len(task.splits.train))
    return rows + of_request(task, "10 % of all images", [-1], everywhere, cells)


def of_request(task: Task, kind: str, classes: list[int], number: int | None, cells: Any) -> list[Row]:
    """A row for each method."""
    from lethe.data import ForgetRequest
    from lethe.unlearn import unlearn

    request = ForgetRequest(tuple(classes), number=number)
    rows = []
    for method in (*METHODS, IDEAL):
        key = {**task.key, "method": method, "request": request.slug}

        def numbers(method: str = method) -> Row:
            data = task.asked(request)
            if method == IDEAL:
                return measured(task, partial(retrained, task, data), data)
            name, settings = METHODS[method]
            return measured(task, partial(unlearn, name, task.model, data, **settings), data)

        rows.append({**key, "kind": kind, **cells.measured(key, numbers)})
    return rows


def retrained(task: Task, data: Any) -> Any:
    from lethe.unlearn import Unlearned

    return Unlearned(task.trained_on(data.retain))


def measured(task: Task, make: Callable[[], Any], data: Any) -> Row:
    """What was lost, and whether a run would warn of it."""
    from lethe.experiment.singled_out import not_singled_out

    started = time.perf_counter()
    unlearned = make()
    seconds = time.perf_counter() - started
    before, after = (outputs(model, data, task.splits.test) for model in (task.model, unlearned.model))
    classes = data.forget.classes
    by_class = [100 * right_of(after, "test", (label,)).mean().item() for label in classes]
    others = tuple(label for label in range(task.classes) if label not in classes)
    row = {
        "masked": None if unlearned.mask is None else unlearned.mask.kappa_count,
        "seconds": seconds,
        "missed": bool(unlearned.misses),
        "not_singled_out": bool(not_singled_out(before, after)),
        "forget_score": 100 * right_of(after, "test", classes).mean().item(),
        "worst_class": max(by_class),
    }
    for name in ("forget", "retain", "test"):
        row[f"{name}_lost"] = lost(before, after, name, classes)
    return row | {"others_lost": lost(before, after, "test", others)}


def outputs(model: Any, data: Any, test: Any) -> Any:
    from lethe.experiment.measure import model_outputs

    return model_outputs(model, data, test)


def right_of(outputs: Any, name: str, classes: Sequence[int]) -> Any:
    import torch

    own = outputs.sets[name]
    return own.correct.double()[torch.isin(own.labels, torch.tensor(classes))]


def lost(before: Any, after: Any, name: str, classes: Sequence[int]) -> float | None:
    """Points that the images of these classes lost; None if there are none."""
    was, is_now = (right_of(outputs, name, classes) for outputs in (before, after))
    return 100 * (was.mean() - is_now.mean()).item() if len(was) else None


def table_of_several(rows: Sequence[Row]) -> str:
    lines = []
    for kind, method in kinds_and_methods(rows, "classes"):
        own = [row for row in rows if (row["kind"], row["method"]) == (kind, method)]
        forget, drop = ([row[name] for row in own] for name in ("forget_score", "others_lost"))
        worst = max(row["worst_class"] for row in own)
        values = [mean(forget), worst, mean(drop), max(drop)]
        warned = sum(row["missed"] for row in own)
        lines.append(line(kind, method, own, values, warned))
    header = ["forgotten", "method", "requests", "masked", "forget %", "worst class", "retain drop", "worst"]
    return text_of(header, lines)


def table_of_parts(rows: Sequence[Row]) -> str:
    lines = []
    for kind, method in kinds_and_methods(rows, "10 %"):
        own = [row for row in rows if (row["kind"], row["method"]) == (kind, method)]
        values = [mean(row[f"{name}_lost"] for row in own) for name in ("forget", "retain", "test")]
        warned = sum(row["not_singled_out"] or row["missed"] for row in own)
        lines.append(line(kind, method, own, values, warned))
    lost = ["to forget lost", "retained of class lost", "test of class lost"]
    return text_of(["forgotten", "method", "requests", "masked", *lost], lines)


def kinds_and_methods(rows: Sequence[Row], word: str) -> list[tuple[str, str]]:
    pairs = ((row["kind"], row["method"]) for row in rows if word in row["kind"])
    return list(dict.fromkeys(pairs))


def line(kind: str, method: str, own: Sequence[Row], values: Sequence[float], warned: int) -> list[str]:
    from lethe.report.text_table import number

    masked = [row["masked"] for row in own if row["masked"] is not None]
    shown = [number(value, 2) for value in values]
    warnings = str(warned) if masked else ""  # the others are not judged
    seconds = number(median(row["seconds"] for row in own), 2)
    size = number(median(masked), 0) if masked else ""
    return [kind, method, str(len(own)), size, *shown, warnings, seconds]


def text_of(header: Sequence[str], lines: Sequence[list[str]]) -> str:
    from lethe.report.text_table import text_table

    return text_table([*header, "warned", "median s"], lines)


if __name__ == "__main__":
    sys.exit(main())
