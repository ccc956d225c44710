"""Train the network that comes with Lethe, on many models, and write it to a file.

    python benchmarks/mimu_network.py --out unlearn/mimu/learned.safetensors

A network reads standardised features of a layer, whatever its size, so that one that was trained on some
models serves others. It is trained on models of digits, MNIST, FashionMNIST and CIFAR10, joined so that there
are 10 to 60 classes, and with few images, so that many of the models know theirs by heart. A step draws a
model, some of its classes and a kappa, takes features of training images, and lowers MIMU's L_drop on
training images and on images that the model has not seen, relative to the model's own cross-entropy. Unseen
images are training images of the datasets that the model was not given. No test image is read. Prints, for
each model, the forget score and the retain drop on unseen images: mean and worst of all classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn import functional as F

from benchmarks.arguments import BenchmarkParser
from benchmarks.joined_images import Part, joined
from lethe import command_line
from lethe.data import ImageSet, Normalisation
from lethe.models import MaskedLayer, build
from lethe.training import Recipe, fit, generator_for
from lethe.training.storage import write_tensors
from lethe.unlearn import ForgetData, masked_layer
from lethe.unlearn.mimu.gcn import MaskingGCN
from lethe.unlearn.mimu.graph import Factors, averaged, averaged_by_class, drawn_by_class, factors_of
from lethe.unlearn.mimu.objective import Objective, drop_loss, keep_loss, log_prior, masked_logits
from lethe.unlearn.mimu.ranking import every_class
from lethe.unlearn.mimu.topk import hard_topk, sampled_topk

CPU = torch.device("cpu")
KAPPAS = (0.03, 0.2)  # shares of a layer, between which a step's kappa is drawn, uniform in its logarithm
REPRESENTATIVES = (32, 128, 256)
IMAGES_A_STEP = 512  # of them half unseen
CLASSES_A_STEP, LARGE_LAYER, CLASSES_OF_LARGE_LAYER = 10, 10_000, 5
CONTRAST = 100.0  # as MIMU's default
FLOOR = 0.3  # nats; added to a model's cross-entropy, by which its loss is divided


@dataclass(frozen=True)
class Task:
    """How a model is made: the datasets, views, images a class, seed, architecture and epochs."""

    datasets: tuple[str, ...]
    views: int
    per_class: int
    seed: int
    arch: str
    epochs: int
    options: tuple[tuple[str, Any], ...] = ()


BOTH = ("MNIST", "FashionMNIST")
TASKS = (
    Task(("digits",), 1, 200, 101, "mlp", 30),
    Task(("MNIST",), 1, 6000, 101, "mlp", 3),
    Task(("MNIST",), 1, 300, 102, "mlp", 30),
    Task(("FashionMNIST",), 1, 6000, 101, "mlp", 3),
    Task(("FashionMNIST",), 1, 600, 102, "mlp", 30),
    Task(BOTH, 1, 600, 101, "mlp", 30),
    Task(BOTH, 1, 300, 102, "mlp", 30),
    Task(BOTH, 1, 5000, 103, "mlp", 4),
    Task(BOTH, 2, 600, 101, "mlp", 20),
    Task(BOTH, 2, 1000, 104, "mlp", 12),
    Task(BOTH, 3, 300, 101, "mlp", 20),
    Task(("MNIST",), 1, 600, 101, "cnn", 6),
    Task(("FashionMNIST",), 1, 600, 101, "cnn", 8),
    Task(BOTH, 1, 300, 101, "cnn", 8),
    Task(("CIFAR10",), 1, 3000, 101, "cnn", 4),
    Task(("CIFAR10",), 1, 1000, 101, "mlp", 8),
    Task(("FashionMNIST",), 1, 1000, 105, "mlp", 10),
    Task(BOTH, 1, 600, 105, "mlp", 20, (("hidden", (256, 48)),)),
)


@dataclass(frozen=True)
class Example:
    """A model's masked layer with the factors of its training images and of unseen images."""

    task: Task
    layer: MaskedLayer
    classes: int
    train: Factors
    unseen: Factors


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train the models, then the network; write it and print what it does on each model."""
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--out", required=True, metavar="FILE", help="where the network goes")
    parser.add_number("steps", 3000, "optimiser steps")
    parser.add_number("seed", 1, "of the network's weights and draws", least=0)
    parser.add_number("tasks", len(TASKS), "how many of the models, the first ones")
    parser.add_place("data")
    options = parser.options(argv)

    examples = [example_of(task, options.data) for task in TASKS[: options.tasks]]
    gcn = trained(examples, options.steps, options.seed)
    header = {"what": "MIMU network", "steps": options.steps, "seed": options.seed, "models": len(examples)}
    write_tensors(
        Path(options.out), {name: value.detach() for name, value in gcn.state_dict().items()}, header
    )
    print(table(examples, gcn))
    return 0


def example_of(task: Task, folder: str) -> Example:
    """Train a model of this task and pass its images through it."""
    found = joined(task.datasets, task.views, task.per_class, task.seed, folder)
    normalisation = Normalisation.of(found.train.images, found.white)
    train, unseen = (_image_set(part, normalisation) for part in (found.train, found.unseen))
    classes = len(found.class_names)
    model = build(task.arch, train.image_shape, classes, seed=task.seed, options=dict(task.options))
    recipe = Recipe(task.epochs, "adamw", lr=3e-3, batch_size=128, weight_decay=1e-2)
    fit(model, train, recipe, generator=generator_for(task.seed, "train"))
    data = ForgetData(train.of_classes(0), train.without_classes(0), unseen, classes, seed=task.seed)
    layer = masked_layer(model, data, None)
    factors = [factors_of(layer, images, "margin", CPU) for images in (train, unseen)]
    return Example(task, layer, classes, *factors)


def _image_set(part: Part, normalisation: Normalisation) -> ImageSet:
    return ImageSet.of_tensors(part.images, part.labels, normalisation)


def trained(examples: Sequence[Example], steps: int, seed: int) -> MaskingGCN:
    """Return a network that lowers the loss on all examples, one drawn a step."""
    draws = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gcn = MaskingGCN()
    optimizer = torch.optim.AdamW(gcn.parameters(), lr=5e-3, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps, pct_start=0.1)
    for _ in command_line.progress_bar(range(steps), "network"):
        example = examples[int(torch.randint(len(examples), (1,), generator=draws))]
        loss = loss_of(gcn, example, draws)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gcn.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return gcn


def loss_of(gcn: MaskingGCN, example: Example, draws: torch.Generator) -> torch.Tensor:
    """Return L_drop relative to the model's cross-entropy, and a hundredth of L_keep."""
    layer, train = example.layer, example.train
    objective = Objective(50, _kappa(layer.size, draws), CONTRAST, 4.0, "weight", 0.1, 0.1, "sinkhorn")
    most = CLASSES_OF_LARGE_LAYER if layer.size > LARGE_LAYER else CLASSES_A_STEP
    classes = sorted(torch.randperm(example.classes, generator=draws)[:most].tolist())
    count = REPRESENTATIVES[int(torch.randint(len(REPRESENTATIVES), (1,), generator=draws))]
    rows = drawn_by_class(train.labels, tuple(classes), count, draws)
    images = train[rows.flatten()]
    q = gcn(averaged(images, len(classes), layer.weight).standardised())

    drop = sampled_topk("sinkhorn", every_class(q), objective.kappa, objective.tau, draws)
    halves = [part.drawn(IMAGES_A_STEP // 2, draws) for part in (example.unseen, train)]
    h, labels = (torch.cat([getattr(half, name) for half in halves]) for name in ("h", "labels"))
    logits = masked_logits(layer, (1 - drop).view(-1, *layer.shape), h, None)
    with torch.no_grad():
        whole = masked_logits(layer, torch.ones(1, *layer.shape), h, None)[0]
        scale = F.cross_entropy(whole, labels) + FLOOR
    loss = drop_loss(logits, labels, torch.tensor(classes), objective.retain_weight) / scale

    own = train[rows[:, : REPRESENTATIVES[0]].flatten()]
    mask = sampled_topk("sinkhorn", q, objective.topk, objective.tau, draws)
    kept = masked_logits(layer, mask.view(-1, *layer.shape), own.h.unflatten(0, (len(classes), -1)), None)
    labels = own.labels.unflatten(0, (len(classes), -1))
    keep = keep_loss(kept, labels, mask, q, log_prior(layer.weight), objective.topk, objective.rho)
    return loss + keep / CONTRAST


def _kappa(size: int, draws: torch.Generator) -> int:
    low, high = KAPPAS
    place = torch.rand(1, generator=draws).item()
    return round(size * low * (high / low) ** place)


@torch.no_grad()
def table(examples: Sequence[Example], gcn: MaskingGCN) -> str:
    """A line for each model: what masks of 5 and 10 % do to unseen images."""
    from lethe.report.text_table import number, text_table

    lines = []
    for example in examples:
        layer = example.layer
        graphs = averaged_by_class(example.train, tuple(range(example.classes)), layer.weight)
        scores = every_class(gcn(graphs.standardised()))
        values = []
        for share in (0.05, 0.1):
            off = hard_topk(scores, round(share * layer.size)).view(-1, *layer.shape)
            values += forgotten(example, 1 - off)
        task = example.task
        name = "+".join(task.datasets) + (f" x {task.views}" if task.views > 1 else "")
        shown = [number(value, 2) for value in values]
        lines.append([name, task.arch, str(example.classes), str(task.per_class), *shown])
    columns = ["forget % at 5 %", "worst", "drop", "worst", "at 10 %", "worst", "drop", "worst"]
    return text_table(["images", "arch", "classes", "a class", *columns], lines)


def forgotten(example: Example, masks: torch.Tensor) -> list[float]:
    """Return the forget score and the retain drop of each class's mask: mean and worst."""
    unseen = example.unseen
    before = _right(example, torch.ones(1, *example.layer.shape))[0]
    scores, drops = [], []
    for label, mask in enumerate(masks):
        after, own = _right(example, mask[None])[0], unseen.labels == label
        scores.append(100 * after[own].double().mean().item())
        drops.append(100 * (before[~own].double().mean() - after[~own].double().mean()).item())
    return [sum(scores) / len(scores), max(scores), sum(drops) / len(drops), max(drops)]


def _right(example: Example, masks: torch.Tensor) -> torch.Tensor:
    logits = masked_logits(example.layer, masks, example.unseen.h, None)
    return logits.argmax(-1) == example.unseen.labels


if __name__ == "__main__":
    sys.exit(main())
