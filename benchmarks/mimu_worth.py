"""Seconds and quality of MIMU's network beside optimising each mask by itself, over the number of classes.

    python benchmarks/mimu_worth.py --picture docs/mimu_worth.svg

A layer m x n reads made-up features: relu of a class's mean plus noise, the means drawn around a few centres,
so that classes have near neighbours. The model after it, z = W h, relu, logits = V relu(z), is trained on 40
images a class. Compared, for masks of 10 % of the layer, by --few of the classes on left-out images:

network        the answers of the network that comes with Lethe for all classes, tuned together
each by itself a mask optimised for one class, from random scores, with its best early stop: the fewest of
               20, 40, ..., 300 steps whose mask costs as little on left-out images as any. The seconds are
               those of the --few classes, multiplied

`seconds` are of the processor, for the masks of all classes; `step ms` one step of the tuning, ten classes at
once, and `floor` its three products of masked weights and features alone. The last line is another layer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.data import ImageSet
from lethe.models import MaskedLayer
from lethe.unlearn import ForgetData, masked_layer
from lethe.unlearn.mimu.inputs import LayerInputs, inputs_of
from lethe.unlearn.mimu.network import DEFAULT_OBJECTIVE, learned_network
from lethe.unlearn.mimu.objective import Objective, masked_logits
from lethe.unlearn.mimu.ranking import every_class
from lethe.unlearn.mimu.refine import RefineSettings, refined_on
from lethe.unlearn.mimu.topk import hard_topk
from lethe.unlearn.mimu.tuning import CLASSES_A_STEP, PASSES

CPU = torch.device("cpu")
IMAGES_A_CLASS, UNSEEN_A_CLASS, NOISE, CLASSES_A_CENTRE = 40, 100, 1.5, 5
TRAINING_STEPS, BATCH = 1500, 256
SHARE = 0.1
SETTINGS = RefineSettings(retain_weight=4.0, tau=0.1, lr=0.1, batch=1024)
STEPS_A_LOOK, LOOKS = 20, 15
ALIKE = 0.2
MOST_OTHERS = 4_000  # left-out images of the other classes by which a mask is judged
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A trained model's layer, the data of a request, and left-out inputs of the layer."""

    model: nn.Module
    layer: MaskedLayer
    data: ForgetData
    unseen: LayerInputs
    classes: int


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each number of classes, and draw the picture."""
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 20, 50, 100, 300, 1000], metavar="N")
    parser.add_number("few", 4, "classes whose masks are judged, and optimised by themselves")
    parser.add_number("seed", 1, "of the features, the model and the draws", least=0)
    parser.add_argument("--picture", metavar="FILE", help="draw seconds and costs there, as SVG")
    options = parser.options(argv)

    from benchmarks.machine import describe, write_json

    rows = []
    for classes in options.classes:
        rows.append(measured(task_of(classes, 64, 128, options.seed), options.few))
        print(line(rows[-1]), file=sys.stderr, flush=True)
    larger = measured(task_of(min(options.classes), 128, 256, options.seed), options.few)
    print(table([*rows, larger]), describe(), sep="\n")
    if options.picture:
        draw(Path(options.picture), rows)
    write_json(options.json, __file__, argv, rows=[*rows, larger])
    return 0


def task_of(classes: int, m: int, n: int, seed: int) -> Task:
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(-(-classes // CLASSES_A_CENTRE), n, generator=draws)
    means = centres.repeat_interleave(CLASSES_A_CENTRE, 0)[:classes]
    means = means + 0.7 * torch.randn(classes, n, generator=draws)
    parts = []
    for count in (IMAGES_A_CLASS, UNSEEN_A_CLASS):
        labels = torch.arange(classes).repeat_interleave(count)
        h = (means[labels] + NOISE * torch.randn(len(labels), n, generator=draws)).relu()
        parts.append(ImageSet.of_tensors(h, labels))
    train, unseen = parts
    model = trained(train, classes, m, n, seed)
    data = ForgetData(train.of_classes(0), train.without_classes(0), unseen, classes, seed=seed, whole=train)
    layer = masked_layer(model, data, None)
    return Task(model, layer, data, inputs_of(layer, unseen, CPU), classes)


def trained(images: ImageSet, classes: int, m: int, n: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(n, m, bias=False), nn.ReLU(), nn.Linear(m, classes, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    h, labels = images.images[:], images.labels
    for _ in range(TRAINING_STEPS):
        rows = torch.randint(len(labels), (BATCH,))
        loss = F.cross_entropy(model(h[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def measured(task: Task, few: int) -> Row:
    kappa = round(SHARE * task.layer.size)
    objective = Objective(**{**vars(DEFAULT_OBJECTIVE), "kappa": kappa})
    started = time.process_time()
    untuned = learned_network(task.model, task.layer, task.data)
    answers = time.process_time() - started
    started = time.process_time()
    network = learned_network(task.model, task.layer, task.data, objective)
    seconds = time.process_time() - started
    steps = PASSES * -(-task.classes // CLASSES_A_STEP)
    chosen = [at * task.classes // few for at in range(few)]
    nothing = torch.ones(1, *task.layer.shape)
    row = {
        "layer": f"{task.layer.shape[0]} x {task.layer.shape[1]}",
        "classes": task.classes,
        "model": 100 * right(task, nothing, task.unseen)[0].double().mean().item(),
        "network_seconds": seconds,
        "answers_seconds": answers,
        "step_ms": 1000 * (seconds - answers) / steps,
        "floor_ms": 1000 * floor(task),
    }
    for name, found in (("untuned", untuned), ("network", network)):
        scores = every_class(torch.stack([found.by_class[c] for c in range(task.classes)]))
        row[f"{name}_cost"] = mean(cost(task, scores[label], kappa, label) for label in chosen)
    alone = [by_itself(task, kappa, label) for label in chosen]
    row["alone_seconds"] = mean(seconds for seconds, _ in alone) * task.classes
    row["alone_cost"] = mean(found for _, found in alone)
    return row


def floor(task: Task) -> float:
    """Seconds of the products of a step: masked weights and features, forward, and back to the masks."""
    h = task.unseen.h[torch.arange(DEFAULT_BATCH) % len(task.unseen)]
    masks = torch.ones(min(CLASSES_A_STEP, task.classes), *task.layer.shape)
    head = torch.ones(task.classes, task.layer.shape[0])
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        z = h @ masks.transpose(-1, -2)
        logits = z @ head.T
        back = logits @ head
        back.transpose(-1, -2) @ h
        best = min(best, time.process_time() - started)
    return best


DEFAULT_BATCH = 1024  # MIMU's --gcn_batch


def by_itself(task: Task, kappa: int, label: int) -> tuple[float, float]:
    """Return the seconds up to the best of the looks, and the cost there."""
    train = inputs_of(task.layer, task.data.train, CPU)
    none = train.of_classes(())
    inputs = {"gone": train.of_classes((label,)), "images": none, "unseen": none}
    inputs["retain"] = train.without_classes((label,))
    scores = torch.randn(task.layer.size, generator=task.data.generator("alone", label))
    seconds, found = 0.0, []
    for look in range(LOOKS):
        draws = task.data.generator("alone", label, look)
        started = time.process_time()
        scores = refined_on(inputs, scores, task.layer, kappa, SETTINGS, steps=STEPS_A_LOOK, generator=draws)
        seconds += time.process_time() - started
        found.append((cost(task, scores, kappa, label), seconds))
    least = min(cost for cost, _ in found)
    best, spent = next(look for look in found if look[0] <= least + ALIKE)
    return spent, best


def cost(task: Task, scores: Tensor, kappa: int, label: int) -> float:
    """Return the forget score plus twice the points that the others lost, on left-out images."""
    mask = (1 - hard_topk(scores, kappa)).view(1, *task.layer.shape)
    others = task.unseen.without_classes((label,)).some(MOST_OTHERS)
    before, after = (right(task, masks, others)[0].double() for masks in (torch.ones_like(mask), mask))
    forgotten = right(task, mask, task.unseen.of_classes((label,)))[0].double()
    return 100 * (forgotten.mean() + 2 * (before.mean() - after.mean())).item()


@torch.no_grad()
def right(task: Task, masks: Tensor, images: LayerInputs) -> Tensor:
    return masked_logits(task.layer, masks, images.h, None).argmax(-1) == images.labels


COLUMNS = {
    "layer": "layer",
    "classes": "classes",
    "model": "model, %",
    "network_seconds": "network, s",
    "alone_seconds": "each by itself, s",
    "untuned_cost": "answers, cost",
    "network_cost": "network, cost",
    "alone_cost": "each by itself, cost",
    "step_ms": "step, ms",
    "floor_ms": "floor, ms",
}


def line(row: Row) -> list[str]:
    return [f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS]


def table(rows: Sequence[Row]) -> str:
    from lethe.report.text_table import text_table

    return text_table(list(COLUMNS.values()), [line(row) for row in rows])


def draw(file: Path, rows: Sequence[Row]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    classes = [row["classes"] for row in rows]
    figure, (left, right_side) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    kinds = {"network": "the network, tuned", "alone": "each mask by itself"}
    for name, label in kinds.items():
        left.plot(classes, [row[f"{name}_seconds"] for row in rows], "o-", label=label)
        right_side.plot(classes, [row[f"{name}_cost"] for row in rows], "o-", label=label)
    left.set(xscale="log", yscale="log", xlabel="classes", ylabel="seconds for all masks")
    right_side.set(xscale="log", xlabel="classes", ylabel="forget % + 2 x points lost, left-out images")
    left.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
