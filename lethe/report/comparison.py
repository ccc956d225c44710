"""Runs side by side as numbers: forget against retain score, curves over kappa, time against avg_gap."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from lethe.evaluation import METRICS
from lethe.evaluation.gap import mean_gap
from lethe.evaluation.over_seeds import OverSeeds, over_seeds
from lethe.report.markdown import capital
from lethe.report.pareto import pareto_front
from lethe.report.seeds_summary import (
    BASE_MODELS,
    FORGOTTEN,
    INITIAL,
    RANKED_BY,
    REFERENCE,
    Group,
    SeedRun,
    Settings,
    Task,
    label_among,
    labels_of,
    names_of_task,
    own_names,
    seed_order,
    unit_of,
    without_base,
)
from lethe.report.seeds_tables import SECONDS, shown_metrics
from lethe.training.storage import shortened

KAPPA, KAPPA_COUNT = "kappa", "kappa_count"
IDEAL_SECONDS = "ideal_seconds"
LONGEST_SLUG = 100  # bytes of what is said of a task in the names of its files
WHOLE_CLASS, PART = "whole classes", "a part"  # of what was trained on

OF_EVERY_METHOD = {
    "unlearn",
    "unlearn_file",
    "unlearn_code",
    "unlearn_package",
    "seed",
    FORGOTTEN,
    INITIAL,
    KAPPA_COUNT,
}  # params, beside OF_TASK

Value = TypeVar("Value")


def compared_metrics(metrics: Mapping[str, float], params: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers of a run that a comparison reads: metrics of its models, weights switched off."""
    found = shown_metrics(metrics)
    for name, value in metrics.items():
        if name.startswith(BASE_MODELS) and without_base(name) in METRICS:
            found[name] = value
    count = params.get(KAPPA_COUNT, "")
    return found | ({KAPPA_COUNT: float(count)} if count.isdecimal() else {})


@functools.cache
def compared_names() -> frozenset[str]:
    """The metrics that `compared_metrics` keeps."""
    own = [name for name in METRICS.names if without_base(name) == name]
    return frozenset([*METRICS.names, *(f"{base}{name}" for base in BASE_MODELS for name in own)])


@functools.cache
def known_params(method: str, arch: str) -> frozenset[str]:
    """Return the params that a comparison reads of a run of a registered method and architecture."""
    return frozenset(names_of_task(arch) | OF_EVERY_METHOD | own_names(method))


def request_kind(task: Task) -> str:
    """Return WHOLE_CLASS if classes were forgotten whole, so that test images show it; else PART."""
    runs = [run for group in groups_of(task) for run in group.done.values()]
    return WHOLE_CLASS if any("test_forget_score" in run.metrics for run in runs) else PART


def images_of(task: Task) -> str:
    return "test images" if request_kind(task) == WHOLE_CLASS else "training images"


def measured(task: Task, metric: str) -> str:
    """Return the name of a forget or retain metric, on test images if classes were forgotten whole."""
    return f"test_{metric}" if request_kind(task) == WHOLE_CLASS else metric


def groups_of(task: Task) -> list[Group]:
    return [ranked.group for ranked in task.ranking]


def by_seed(groups: Iterable[Group], value: Callable[[SeedRun], Value | None]) -> dict[str, Value]:
    """Return a value that the runs of a seed share, by seed: that of the latest run that has one."""
    found: dict[str, tuple[int, Value]] = {}
    for group in groups:
        for seed, run in group.done.items():
            own = value(run)
            if own is not None and (seed not in found or run.start >= found[seed][0]):
                found[seed] = run.start, own
    return {seed: found[seed][1] for seed in sorted(found, key=seed_order)}


def of_base_model(
    task: Task, model: Literal["initial", "ideal"], metric: str, groups: Sequence[Group] | None = None
) -> OverSeeds | None:
    """Return a metric of the initial or the ideal model over the seeds of the task, or of `groups`."""
    own = groups_of(task) if groups is None else groups
    values = by_seed(own, lambda run: run.metrics.get(f"{model}_{metric}"))
    return over_seeds(list(values.values()), unit_of(metric)) if values else None


def seconds_of_ideal(task: Task) -> OverSeeds | None:
    """Return the seconds of training the ideal model, over the task's seeds."""
    values = by_seed(groups_of(task), lambda run: run.metrics.get(IDEAL_SECONDS))
    return over_seeds(list(values.values()), "seconds") if values else None


@dataclass(frozen=True)
class Point:
    """A method in a plane: two metrics over its seeds, both with a finite mean. front: no other point is
    better in both.
    """

    label: str
    x: OverSeeds
    y: OverSeeds
    front: bool = False

    @property
    def at(self) -> tuple[float, float]:
        return finite(self.x), finite(self.y)


@dataclass(frozen=True)
class Plane:
    """Points over two metrics.

    left_out: methods without a finite mean of one of them. front_reason: why there is no front. unjudged:
    points that may be on the front: they have no ideal model to compare with.
    """

    x_name: str
    y_name: str
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    front_reason: str = ""
    unjudged: tuple[str, ...] = ()


def finite(over: OverSeeds) -> float:
    if over.mean is None:
        raise ValueError("expected a finite mean, got none. Leave the point out")
    return over.mean


def labelled(task: Task) -> dict[str, Group]:
    """Return the groups by method and differing settings, without the ideal model's own runs."""
    labels = labels_of(task)
    rivals = [group for group in groups_of(task) if group.method != REFERENCE]
    return {f"{group.method} {labels[id(group)]}".strip(): group for group in rivals}


def forget_against_retain(task: Task) -> Plane:
    """Return each method's forget and retain score, and the Pareto front.

        costs = (sum over seeds |forget score - the ideal's| / seeds, -mean retain score)

    In percent, with the ideal model of the same seed. Without any ideal model, the best forget score of a
    whole class is 0, and of a part unknown: there is no front. If only some methods have an ideal model, the
    others are not judged.
    """
    x_name, y_name = measured(task, "forget_score"), measured(task, "retain_score")
    points, left_out = points_of(task, x_name, y_name)
    groups = labelled(task)
    costs = {point.label: distance_to_ideal(groups[point.label], x_name) for point in points}
    if all(cost is None for cost in costs.values()):
        if request_kind(task) != WHOLE_CLASS:
            return Plane(x_name, y_name, points, left_out, "no ideal model says what forget score to aim at")
        costs = {point.label: point.at[0] for point in points}
    judged = [(point, cost) for point in points if (cost := costs[point.label]) is not None]
    front = {judged[at][0].label for at in pareto_front([(cost, -point.at[1]) for point, cost in judged])}
    places = [at for at, point in enumerate(points) if point.label in front]
    unjudged = tuple(point.label for point in points if costs[point.label] is None)
    return Plane(x_name, y_name, marked(points, places), left_out, unjudged=unjudged)


def distance_to_ideal(group: Group, metric: str) -> float | None:
    """Return the mean absolute difference to the ideal model beside each run; None if no run has one."""
    ideal = f"ideal_{metric}"
    runs = [run.metrics for run in group.done.values()]
    pairs = [(own[metric], own[ideal]) for own in runs if {metric, ideal} <= own.keys()]
    return mean_gap(*zip(*pairs, strict=True)) if pairs else None


def time_against_gap(task: Task) -> Plane:
    """Return each method's seconds and avg_gap, and the Pareto front.

    Leaves out methods of 0 seconds: the axis is logarithmic.
    """
    points, left_out = points_of(task, SECONDS, RANKED_BY)
    timed = [point for point in points if point.at[0] > 0]
    left_out += tuple(point.label for point in points if point not in timed)
    return Plane(SECONDS, RANKED_BY, marked(timed, pareto_front([point.at for point in timed])), left_out)


def points_of(task: Task, x_name: str, y_name: str) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    points, left_out = [], []
    for label, group in labelled(task).items():
        x, y = (group.over(name) for name in (x_name, y_name))
        if x is None or y is None or x.mean is None or y.mean is None:
            left_out.append(label)
        else:
            points.append(Point(label, x, y))
    return tuple(points), tuple(left_out)


def marked(points: Sequence[Point], front: Sequence[int]) -> tuple[Point, ...]:
    return tuple(Point(point.label, point.x, point.y, number in front) for number, point in enumerate(points))


@dataclass(frozen=True)
class KappaLine:
    """A method that was run with several kappas, all else equal.

    groups: with the number of weights switched off, ascending. Several kappas may give one number, as 0.1 and
    819 do.
    """

    label: str
    groups: tuple[tuple[int, Group], ...]

    @property
    def counts(self) -> list[int]:
        return [count for count, _ in self.groups]

    def over(self, metric: str) -> list[tuple[int, OverSeeds]]:
        """Return the metric by the number of weights switched off, where it has a finite mean."""
        found = [(count, group.over(metric)) for count, group in self.groups]
        return [(count, over) for count, over in found if over is not None and over.mean is not None]


def kappa_lines(task: Task) -> list[KappaLine]:
    """Return a line for each method, and other settings, with at least two values of kappa_count."""
    families: dict[tuple[str, Settings], list[tuple[int, Group]]] = {}
    for group in groups_of(task):
        masked = group.over(KAPPA_COUNT)
        if masked is not None and KAPPA in dict(group.own):
            others = tuple(it for it in group.own if it[0] != KAPPA)
            families.setdefault((group.method, others), []).append((round(finite(masked)), group))
    several = {key: own for key, own in families.items() if len(dict(own)) > 1}
    lines = []
    for method, settings in sorted(several, key=lambda key: (key[0].casefold(), key[1])):
        siblings = [others for name, others in several if name == method]
        counted = sorted(several[method, settings], key=lambda it: (it[0], it[1].own))
        lines.append(KappaLine(f"{method} {label_among(settings, siblings)}".strip(), tuple(counted)))
    return lines


def about(task: Task) -> str:
    own = dict(task.settings)
    return f"{capital(task.forgotten)} of {own.get('dataset', 'data')} forgotten, {own.get('arch', 'model')}"


def slugs_of(tasks: Sequence[Task]) -> list[str]:
    """Return a name for the files of each task: data, model and request, numbered if two are equal."""
    names = ("dataset", "arch", "request")
    called = ["_".join(dict(task.settings).get(name, "unknown") for name in names) for task in tasks]
    return unlike([shortened(safe(name), LONGEST_SLUG) for name in called])


def safe(name: str) -> str:
    """Replace the signs that a shell, LaTeX or a file system reads."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def unlike(names: Sequence[str]) -> list[str]:
    """Number the names that came before."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in range(2, len(names) + 2))
        free = (other for other in numbered if other not in (*found, *names))
        found.append(name if name not in found else next(free))
    return found
