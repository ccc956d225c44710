"""Runs side by side as numbers: who forgets at what price, what kappa does, who is near the ideal model in what time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evaluation import METRICS
from evaluation.over_seeds import OverSeeds, over_seeds
from reporter.pareto import pareto_front
from reporter.seeds_summary import RANKED_BY, REFERENCE, Group, Settings, Task, labels_of, seed_order
from reporter.seeds_tables import SECONDS, shown_metrics

BASE_MODELS = ("initial_", "ideal_")
KAPPA, KAPPA_COUNT = "kappa", "kappa_count"
WHOLE_CLASS, PART = "whole classes", "a part"  # of what was trained on

Part = Literal["forget", "retain"]


def compared_metrics(metrics: Mapping[str, float], params: Mapping[str, str]) -> dict[str, float]:
    """What a comparison needs of a run's numbers: its own, those of the initial and the ideal model, how many weights were switched off."""
    of_base = {name: value for name, value in metrics.items() if name.startswith(BASE_MODELS) and without_base(name) in METRICS}
    count = params.get(KAPPA_COUNT, "")
    masked = {KAPPA_COUNT: float(count)} if count.isdecimal() else {}
    return shown_metrics(metrics) | of_base | masked


def without_base(name: str) -> str:
    return name.removeprefix("initial_").removeprefix("ideal_")


def unit_of(name: str) -> str:
    """Of a metric, the initial model's and the ideal model's too."""
    own = without_base(name) if name.startswith(BASE_MODELS) and name not in METRICS else name
    return METRICS[own].facts.unit if own in METRICS else ""


def request_kind(task: Task) -> str:
    """Whether whole classes were forgotten: then test images of them tell what was forgotten."""
    return WHOLE_CLASS if any("test_forget_score" in run.metrics for group in groups_of(task) for run in group.done.values()) else PART


def measured(task: Task, part: Part, what: str) -> str:
    """The metric of forget or retain: on test images where whole classes were forgotten, else on training images."""
    return f"{'test_' if request_kind(task) == WHOLE_CLASS else ''}{part}_{what}"


def groups_of(task: Task) -> list[Group]:
    return [ranked.group for ranked in task.ranking]


def of_base_model(task: Task, model: Literal["initial", "ideal"], metric: str) -> OverSeeds | None:
    """A number of the initial or the ideal model over the task's seeds: of each seed what the latest run with it says."""
    name = f"{model}_{metric}"
    by_seed: dict[str, tuple[int, float]] = {}
    for group in groups_of(task):
        for seed, run in group.done.items():
            if name in run.metrics and run.start >= by_seed.get(seed, (run.start, 0.0))[0]:
                by_seed[seed] = run.start, run.metrics[name]
    values = [by_seed[seed][1] for seed in sorted(by_seed, key=seed_order)]
    return over_seeds(values, unit_of(metric)) if values else None


@dataclass(frozen=True)
class Point:
    """A method in a plane: two numbers over its seeds, both with a finite mean; `front`: no other point is better in both."""

    label: str
    x: OverSeeds
    y: OverSeeds
    front: bool = False

    @property
    def at(self) -> tuple[float, float]:
        return finite(self.x), finite(self.y)


@dataclass(frozen=True)
class Plane:
    """Points over two metrics; `left_out`: methods that have no finite mean of one of them; `front_reason`: why there is no front."""

    x_name: str
    y_name: str
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    front_reason: str = ""


def finite(over: OverSeeds) -> float:
    if over.mean is None:
        raise ValueError("expected a finite mean, got none. Leave the point out")
    return over.mean


def labelled(task: Task) -> dict[str, Group]:
    """The groups by method, and where it has several, by what its settings differ in; not the ideal model's own runs."""
    labels = labels_of(task)
    return {f"{group.method} {labels[id(group)]}".strip(): group for group in groups_of(task) if group.method != REFERENCE}


def forget_against_retain(task: Task) -> Plane:
    """Each method's forget and retain score, and which of them are on the Pareto front.

        costs = (|forget score - the ideal's|, -retain score)    means over the seeds, percent

    Where there is no ideal model to go by, a forgotten class is best at 0; for a part of a class nobody can say, and there is no front.
    """
    x_name, y_name = measured(task, "forget", "score"), measured(task, "retain", "score")
    ideal = of_base_model(task, "ideal", x_name)
    goal = ideal.mean if ideal is not None else 0.0 if request_kind(task) == WHOLE_CLASS else None
    points, left_out = points_of(task, x_name, y_name)
    if goal is None:
        return Plane(x_name, y_name, points, left_out, "no ideal model says what forget score to aim at")
    front = pareto_front([(abs(x - goal), -y) for x, y in (point.at for point in points)])
    return Plane(x_name, y_name, marked(points, front), left_out)


def time_against_gap(task: Task) -> Plane:
    """Each method's seconds and avg_gap; on the front is what no other method beats in both.

    What took no measurable time is left out: the axis is logarithmic.
    """
    points, left_out = points_of(task, SECONDS, RANKED_BY)
    timed = [point for point in points if point.at[0] > 0]
    left_out += tuple(point.label for point in points if point not in timed)
    return Plane(SECONDS, RANKED_BY, marked(timed, pareto_front([point.at for point in timed])), left_out)


def points_of(task: Task, x_name: str, y_name: str) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    points, left_out = [], []
    for label, group in labelled(task).items():
        x, y = (group.over(name, unit_of(name)) for name in (x_name, y_name))
        if x is None or y is None or x.mean is None or y.mean is None:
            left_out.append(label)
        else:
            points.append(Point(label, x, y))
    return tuple(points), tuple(left_out)


def marked(points: Sequence[Point], front: Sequence[int]) -> tuple[Point, ...]:
    return tuple(Point(point.label, point.x, point.y, number in front) for number, point in enumerate(points))


@dataclass(frozen=True)
class KappaLine:
    """A method that was run with several kappas, all else equal: its groups by the number of weights switched off, ascending."""

    label: str
    groups: Mapping[int, Group]

    def over(self, metric: str) -> dict[int, OverSeeds]:
        """Where the metric has a finite mean."""
        found = {count: group.over(metric, unit_of(metric)) for count, group in self.groups.items()}
        return {count: over for count, over in found.items() if over is not None and over.mean is not None}


def kappa_lines(task: Task) -> list[KappaLine]:
    """A line for each method, and choice of its other settings, that was run with at least two numbers of weights switched off."""
    families: dict[tuple[str, Settings], dict[int, Group]] = {}
    for group in groups_of(task):
        masked = group.over(KAPPA_COUNT, "")
        if masked is not None and KAPPA in dict(group.own):
            others = tuple(it for it in group.own if it[0] != KAPPA)
            families.setdefault((group.method, others), {})[round(finite(masked))] = group
    several = {key: dict(sorted(groups.items())) for key, groups in families.items() if len(groups) > 1}
    return [KappaLine(label_among(key, several), several[key]) for key in sorted(several, key=lambda it: (it[0].casefold(), it[1]))]


def label_among(family: tuple[str, Settings], families: Mapping[tuple[str, Settings], object]) -> str:
    """The method, and what its settings differ in from those of the same method's other lines."""
    method, settings = family
    siblings = [dict(others) for name, others in families if name == method]
    own = dict(settings)
    names = sorted({name for one in siblings for name in one if len({other.get(name) for other in siblings}) > 1})
    return " ".join([method, *(f"{name}={own.get(name, 'not logged')}" for name in names)])


def slugs_of(tasks: Sequence[Task]) -> list[str]:
    """A name for the files of each task: data, model and request; numbered where two have the same."""
    names = ("dataset", "arch", "request")
    return unlike([safe("_".join(dict(task.settings).get(name, "unknown") for name in names)) for task in tasks])


def safe(name: str) -> str:
    """A file's name without a sign that a shell, LaTeX or a file system reads."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def unlike(names: Sequence[str]) -> list[str]:
    """The names, each that came before with a number that makes it another."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in range(2, len(names) + 2))
        found.append(name if name not in found else next(other for other in numbered if other not in (*found, *names)))
    return found
