"""The registry of metrics as text: docs/metrics.md.

python -m lethe.report.metrics_page writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lethe.commands import named
from lethe.evaluation import METRICS, OF_MANY, names_in, needs_of
from lethe.evaluation.membership import LARGEST_SPREAD, REGRESSION_TOLERANCE, TOLERANCE
from lethe.evaluation.model_outputs import DRAWS
from lethe.evaluation.units import unit_facts
from lethe.registry import Entry
from lethe.report.markdown import (
    bullets,
    capital,
    codes,
    heading,
    link,
    paragraph,
    paragraphs_of,
    prose,
    table,
)
from lethe.report.text_table import wrapped_table
from lethe.training.storage import write_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
COMMAND = "python -m lethe.report.metrics_page"
NEEDS = {
    "ideal": "the ideal model",
    "initial": "the initial model",
    "incompetent": "an incompetent teacher",
    "models": "many unlearned models",
    "oracles": "as many oracles",
    "shadows": "shadow models",
    "times": "the seconds of a run",
    "memorisation": "the memorisation of the forget images",
}
COSTLY = "measured by `--metrics all`, or by name"

ATTACKS = codes(names_in("attack"))

HEAD = f"""# Metrics

Every number that a run logs about its unlearned model: what it is, its unit, which direction is good, what
it needs, where it comes from, and what it is easily mistaken for. Made from the registry by `{COMMAND}`:
what stands here is what runs.

A run measures all but the costly ones; `--metrics` takes `all`, `default`, or names separated by commas.
What needs many models is measured by `audit.py`. A metric that needs neither an ideal model, nor the
seconds of a run, nor many models is measured of the initial and of the ideal model too, and logged as
`initial_<name>` and `ideal_<name>`. What can't be measured is missing from the metrics and stands in a tag
`undefined.<name>` with the reason; without an ideal model, that is the command that trains it. Nothing is
rounded before it is logged, and every image counts, once and not augmented.

The artifact `per_image.parquet` of a run has the values of each image and model, from which every number
about predictions can be computed anew: index, label and set, prediction, `p_y`, margin, loss, all logits,
and what the attacks say of each forget image (`member_score` is `mia`'s; positive for member).

A membership attack ({ATTACKS}) is trained on as many members (retain images) as non-members (test images),
and on as many of each class: of class c there are n_c = min(retain images of c, test images of c) on both
sides, drawn by the seed, and none of a class that was forgotten whole. With digits' class 0 forgotten these
are 323 of each, with MNIST's class 0 9,020 of each. Under 10 of each there is no attack. `mia_auc` and
`mia_tpr_at_1_fpr` train nothing: they compare all forget images with all test images.

The attack is trained {DRAWS} times, on other draws. The first one's value is the metric. Where the values
of the draws are more than {LARGEST_SPREAD:g} points apart, or would be if scores within the solver's
tolerance of 0 were on the other side ({TOLERANCE:g}; {REGRESSION_TOLERANCE:g} for `mia_lr`), the metric is
**undecided**: it has no value, tables say `undecided`, the tag `undefined.<name>` has the range, and
`avg_gap` has no value either; `avg_gap_without_mia` has.

Over seeds (`--seed 1 2 3`) a run prints mean, standard deviation and the 95 % interval of Student's t, of
the models and of the gaps to the ideal model of the same seed, and its parent run has them as
`over_seeds.json`. One seed has no interval. Where every value is at an end of its scale (0 or 100 percent)
these values are counted and not averaged, and an infinite one is shown as it is.

In the formulas `f` is the model, `f_0` the initial and `f_ideal` the ideal model, `p = softmax f(x)` the
prediction and `p_y` its probability of the true class; `forget` and `retain` are training images, `test` is
the test split, `test_forget` and `test_retain` are the test images of the classes that were forgotten whole
and of all others. Logarithms are natural.

Tables of the literature have short names: UA = 100 - `forget_score`, RA = `retain_score`, MIA = `mia`, and
TA = `test_score`, or `test_retain_score` where a whole class was forgotten."""


def page(metrics: Iterable[Entry[Any]]) -> str:
    """Return an index and a section for each metric, in the order of the registry."""
    metrics = list(metrics)
    index = table(["name", "what it is", "unit", "good", "needs"], [_row(entry) for entry in metrics])
    parts = [HEAD, "## Index", index, "## The metrics", *map(_section, metrics)]
    return "\n\n".join(parts) + "\n"


def written() -> str:
    """Return docs/metrics.md: Lethe's own metrics, without a user's files and plugins."""
    return page(entry for entry in METRICS if entry.own)


def listing(metrics: Iterable[Entry[Any]]) -> str:
    """Return a table of metrics for the console."""
    rows = [[e.name, e.facts.unit, ", ".join(_needs(e)), _measured(e), e.in_short] for e in metrics]
    lines = wrapped_table(["metric", "unit", "needs", "by default", "what it is"], rows)
    return f"{lines}\n\nall of them: docs/metrics.md"


def _row(entry: Entry[Any]) -> list[str]:
    name, about, facts = link(entry), prose(entry.summary, cell=True), entry.facts
    return [name, about, facts.unit, facts.better, ", ".join(_needs(entry))]


def _section(entry: Entry[Any]) -> str:
    """Return a metric's section: its docstring, its traps, its facts."""
    text, traps = paragraphs_of(entry.function, "Trap")
    warnings = [f"**Trap.** {prose(capital(trap))}" for trap in traps]
    return "\n\n".join([*heading(entry), *map(paragraph, text), *warnings, bullets(_facts(entry))])


def _measured(entry: Entry[Any]) -> str:
    """Return whether `--metrics default` measures it."""
    of_many = not OF_MANY.isdisjoint(needs_of(entry.function))
    return named("audit") if of_many else "no" if entry.facts.costly or entry.package else "yes"


def _facts(entry: Entry[Any]) -> list[str]:
    unit, better = entry.facts.unit, entry.facts.better
    facts = [f"Unit: {unit_facts(unit).in_words}", f"Good: {better}"]
    if entry.facts.better_of_images:
        facts.append(f"Good for images of classes that stay: {entry.facts.better_of_images}")
    if entry.facts.better_of_classes:
        facts.append(f"Good for whole classes: {entry.facts.better_of_classes}")
    facts.append(f"Needs: {', '.join(_needs(entry)) or 'the model alone'}")
    if entry.facts.costly:
        facts.append(f"Costly: {COSTLY}")
    return [*facts, f"Source: {prose(entry.facts.source) or 'the definition above'}"]


def _needs(entry: Entry[Any]) -> Sequence[str]:
    """Return what a metric needs beside the model: other models, a class that was forgotten whole."""
    models = [NEEDS.get(need, need) for need in needs_of(entry.function) if need != "model"]
    return [*models, *(["a whole class forgotten"] if entry.facts.whole_class else [])]


if __name__ == "__main__":
    write_bytes(PAGE, written().encode())
    print(f"written: {PAGE}")
