"""The report of one run as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from evaluation import UNDECIDED, MetricFacts, Outputs, is_undecided, names_in
from evaluation.impl import reasons_of
from evaluation.units import unit_facts
from registry import Entry
from reporter.best_known import best_known
from reporter.curve_charts import curves
from reporter.layer_charts import layer_map, weight_sizes
from reporter.loss_charts import attack_roc, loss_histogram
from reporter.palette import css_variables
from reporter.prediction_charts import class_bars, confusion
from reporter.run_facts import RunFacts
from reporter.svg import CSS, Picture
from reporter.verdict import Verdict, verdict

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
MODELS = ("initial", "unlearned", "ideal")
NONE = "–"


@dataclass(frozen=True)
class Row:
    """A metric in a table: name, what it is, unit, the direction that is good, and its values in the order of
    the models.
    """

    name: str
    about: str
    unit: str
    better: str
    values: tuple[str, ...]


def html_report(
    facts: RunFacts, told: Verdict | None = None, pictures: Mapping[str, Sequence[Picture]] | None = None
) -> str:
    """The page. Pictures (by their heading) are those of `report_pictures`; what was not measured is named
    with the command.
    """
    models = {name: own for name in MODELS if (own := facts.outputs.get(name)) is not None}
    main = headline(facts)
    others = [kind.name for kind in facts.kinds if kind.name not in main]
    return (
        _environment()
        .get_template("run.html")
        .render(
            facts=facts,
            verdict=told or verdict(facts.measured),
            models=tuple(models),
            headline=rows_of(facts, main, tuple(models)),
            every=[row for row in rows_of(facts, others, tuple(models)) if set(row.values) != {NONE}],
            missing=grouped({name: str(why) for name, why in facts.undefined.items()}),
            groups=report_pictures(facts) if pictures is None else pictures,
            thumbnails=[]
            if facts.images is None
            else best_known(facts.images, outputs_by_model(facts, "forget"), facts.names),
            style=Markup(css_variables() + CSS + (TEMPLATES / "page.css").read_text(encoding="utf-8")),
            markup=Markup,
        )
    )


def report_pictures(facts: RunFacts) -> dict[str, list[Picture]]:
    """What a run's report shows, by heading, made from the models' outputs as the run has them."""
    layer, histories = facts.layer, [history for history in facts.histories if len(history.steps) > 1]
    groups = {
        "Predictions": prediction_pictures(facts),
        "Losses and attacks": loss_pictures(facts),
        "The masked layer": [] if layer is None else [layer_map(layer), weight_sizes(layer)],
        "History": [
            picture
            for own in histories
            for picture in curves(own.title, own.steps, role=own.role, step=own.step)
        ],
    }
    return {heading: pictures for heading, pictures in groups.items() if pictures}


def outputs_by_model(facts: RunFacts, images: str) -> dict[str, Outputs]:
    return {name: facts.outputs[name].sets[images] for name in MODELS if name in facts.outputs}


def prediction_pictures(facts: RunFacts) -> list[Picture]:
    """What the forget images are taken for, and the confusion of the test images by every model."""
    test = {model: outputs for model, outputs in outputs_by_model(facts, "test").items() if len(outputs)}
    return [
        class_bars(outputs_by_model(facts, "forget"), facts.names),
        *(confusion(model, outputs, facts.names) for model, outputs in test.items()),
    ]


def loss_pictures(facts: RunFacts) -> list[Picture]:
    """Forget against test images: the losses of every model, and what a threshold on them tells."""
    test = outputs_by_model(facts, "test")
    sets = {
        model: (forget, test[model])
        for model, forget in outputs_by_model(facts, "forget").items()
        if len(test[model])
    }
    if not sets:
        return []
    return [
        *(loss_histogram(model, forget, test) for model, (forget, test) in sets.items()),
        attack_roc(sets),
    ]


def headline(facts: RunFacts) -> list[str]:
    """The metrics of a run's main table: what is of whole classes is left out where none was forgotten whole."""
    of_classes = {kind.name for kind in facts.kinds if kind.facts.whole_class}
    return [name for name in names_in("headline") if facts.measured.whole or name not in of_classes]


def rows_of(facts: RunFacts, names: Iterable[str], models: Sequence[str]) -> list[Row]:
    """The metrics of that name that were asked for, in that order; a metric that only compares has one value,
    under "unlearned".
    """
    kinds = {kind.name: kind for kind in facts.kinds}
    return [_row(facts, kinds[name], models) for name in names if name in kinds]


def _row(facts: RunFacts, kind: Entry[MetricFacts], models: Sequence[str]) -> Row:
    values = tuple(_value(facts, kind, model) for model in models)
    unit = unit_facts(kind.facts.unit).sign
    return Row(kind.name, kind.summary, unit, kind.facts.direction(facts.measured.whole), values)


def _value(facts: RunFacts, kind: Entry[MetricFacts], model: str) -> str:
    if is_undecided(kind.name, reasons_of(model, facts.undefined)):
        return UNDECIDED
    return shown(facts.measured.value(model, kind.name), kind.facts.unit)


def shown(value: float | None, unit: str) -> str:
    """A number as it stands in a table; a dash for none, and no 0 for what is not 0."""
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
    """Every reason once, with the metrics that it holds for; those of a base model are left to the model's
    own.
    """
    own = {name: why for name, why in reasons.items() if not name.startswith(("initial_", "ideal_"))}
    others = {name: why for name, why in reasons.items() if name not in own and why not in own.values()}
    ordered = sorted((own | others).items(), key=lambda item: item[1])
    return [(why, [name for name, _ in items]) for why, items in groupby(ordered, key=lambda item: item[1])]


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
