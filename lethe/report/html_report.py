"""The report of one run as one HTML page, without network or scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from lethe.evaluation import UNDECIDED, MetricFacts, Outputs, is_undecided, names_in
from lethe.evaluation.impl import reasons_of
from lethe.evaluation.units import unit_facts
from lethe.registry import Entry
from lethe.report.best_known import best_known
from lethe.report.curve_charts import curves
from lethe.report.layer_charts import layer_map, weight_sizes
from lethe.report.loss_charts import attack_roc, loss_histogram
from lethe.report.palette import css_variables
from lethe.report.prediction_charts import class_bars, confusion
from lethe.report.run_facts import RunFacts
from lethe.report.svg import CSS, Picture
from lethe.report.verdict import Verdict, verdict

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
MODELS = ("initial", "unlearned", "ideal")
NONE = "–"


@dataclass(frozen=True)
class Row:
    """A metric in a table. about: its summary. better: the good direction. values: by model."""

    name: str
    about: str
    unit: str
    better: str
    values: tuple[str, ...]


def html_report(
    facts: RunFacts, told: Verdict | None = None, pictures: Mapping[str, Sequence[Picture]] | None = None
) -> str:
    """Return the page. pictures: those of `report_pictures`, by heading, if they are drawn already."""
    models = [name for name in MODELS if name in facts.outputs]
    main = headline(facts)
    others = [kind.name for kind in facts.kinds if kind.name not in main]
    thumbnails = []
    if facts.images is not None:
        thumbnails = best_known(facts.images, outputs_by_model(facts, "forget"), facts.names)
    return page(
        "run.html",
        styles=(CSS, style_sheet("page.css")),
        facts=facts,
        verdict=told or verdict(facts.measured),
        models=models,
        headline=rows_of(facts, main, models),
        every=[row for row in rows_of(facts, others, models) if set(row.values) != {NONE}],
        missing=grouped({name: str(why) for name, why in facts.undefined.items()}),
        groups=report_pictures(facts) if pictures is None else pictures,
        thumbnails=thumbnails,
        markup=Markup,
    )


def report_pictures(facts: RunFacts) -> dict[str, list[Picture]]:
    """Return the pictures of a run's report, by heading."""
    layer, history = facts.layer, []
    for own in facts.histories:
        if len(own.steps) > 1:
            history += curves(own.title, own.steps, role=own.role, step=own.step)
    layer_pictures = [] if layer is None else [layer_map(layer), weight_sizes(layer)]
    if facts.over_kappa is not None:
        layer_pictures.append(facts.over_kappa)
    groups = {
        "Predictions": prediction_pictures(facts),
        "Losses and attacks": loss_pictures(facts),
        "The masked layer": layer_pictures,
        "History": history,
    }
    return {heading: pictures for heading, pictures in groups.items() if pictures}


def outputs_by_model(facts: RunFacts, images: str) -> dict[str, Outputs]:
    return {name: facts.outputs[name].sets[images] for name in MODELS if name in facts.outputs}


def prediction_pictures(facts: RunFacts) -> list[Picture]:
    """Return the predicted classes of the forget images, and each model's confusion of the test images."""
    test = {model: outputs for model, outputs in outputs_by_model(facts, "test").items() if len(outputs)}
    return [
        class_bars(outputs_by_model(facts, "forget"), facts.names),
        *(confusion(model, outputs, facts.names) for model, outputs in test.items()),
    ]


def loss_pictures(facts: RunFacts) -> list[Picture]:
    """Return each model's losses of forget and test images, and the attack by a threshold on them."""
    forget, test = outputs_by_model(facts, "forget"), outputs_by_model(facts, "test")
    sets = {model: (own, test[model]) for model, own in forget.items() if len(test[model])}
    histograms = [loss_histogram(model, *both) for model, both in sets.items()]
    return [*histograms, attack_roc(sets)] if sets else []


def headline(facts: RunFacts) -> list[str]:
    """Return the metrics of a run's main table."""
    of_classes = {kind.name for kind in facts.kinds if kind.facts.whole_class}
    return [name for name in names_in("headline") if facts.measured.whole or name not in of_classes]


def rows_of(facts: RunFacts, names: Iterable[str], models: Sequence[str]) -> list[Row]:
    """Return a row for each name that the run measured. A comparison has one value, under "unlearned"."""
    kinds, rows = {kind.name: kind for kind in facts.kinds}, []
    for kind in [kinds[name] for name in names if name in kinds]:
        values = tuple(_value(facts, kind, model) for model in models)
        better = kind.facts.direction(facts.measured.whole)
        rows.append(Row(kind.name, kind.summary, unit_facts(kind.facts.unit).sign, better, values))
    return rows


def _value(facts: RunFacts, kind: Entry[MetricFacts], model: str) -> str:
    if is_undecided(kind.name, reasons_of(model, facts.undefined)):
        return UNDECIDED
    return shown(facts.measured.value(model, kind.name), kind.facts.unit)


def shown(value: float | None, unit: str) -> str:
    """Write a number for a table; a dash for none. A value below the last digit is "< 0.01", never 0."""
    if value is None:
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    digits = unit_facts(unit).digits
    smallest = 0.5 * 10**-digits
    if value and abs(value) < smallest:
        return f"{'<' if value > 0 else '>-'} {10**-digits:.{digits}f}".replace(">- ", "> -")
    return f"{value:,.{digits}f}"


def grouped(reasons: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Return each reason once, with its metrics. Leaves out a base model's metric with the same reason."""
    own = {name: why for name, why in reasons.items() if not name.startswith(("initial_", "ideal_"))}
    others = {name: why for name, why in reasons.items() if name not in own and why not in own.values()}
    ordered = sorted((own | others).items(), key=lambda item: item[1])
    return [(why, [name for name, _ in items]) for why, items in groupby(ordered, key=lambda item: item[1])]


def page(template: str, *, styles: Sequence[str], **values: object) -> str:
    """Return a page: a template with its values, and style sheets of which a later one counts more."""
    style = "".join((css_variables(), *styles))
    return _environment().get_template(template).render(style=Markup(style), **values)


def style_sheet(name: str) -> str:
    """Return a style sheet of the templates."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
