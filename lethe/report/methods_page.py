"""The registry of methods as text: the lines of `mlflow_forget.py --list`, and docs/methods.md.

python -m lethe.report.methods_page writes docs/methods.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.commands import named
from lethe.registry import Entry, first_paragraph
from lethe.report.markdown import (
    bullets,
    by_name,
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
from lethe.signature import Hyperparameter
from lethe.training.storage import write_bytes
from lethe.unlearn import METHODS
from lethe.unlearn.add_ons import ADD_ONS, Agreement, kept
from lethe.unlearn.needs import IMAGES_WITH_LABELS, NEEDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
COMMAND = "python -m lethe.report.methods_page"

HEAD = f"""# Methods

Every name that `--unlearn` takes: what the method does to the weights, its flags with their defaults, where
it comes from, and where it departs from there. `python -u mlflow_forget.py --list` prints the short form,
`--unlearn NAME --help` one method with all flags of the run.

Made from the registry by `{COMMAND}`: what stands here is what runs.

In the formulas `theta` is the weights of the unlearned model and `f_theta` the model itself, `theta_0` and
`f_0` are those of the initial model; `CE` is the cross-entropy, `g_f` and `g_r` its gradients on a forget
and on a retain batch, `*` the product entry by entry."""

ADD_ONS_HEAD = """## Add-ons

An add-on combines the two gradients of a step in its own way, on any method that takes one of each:
{methods}. Ask for it by `--addon`, as in `--unlearn NGPlus --addon GradMask`, or by the joint name. `g_u`
is the descent gradient of the forget objective, `g_c` that of the retain objective, `beta` the retain
gradient's weight; `d` is the plain step:"""


WHAT_IT_NEEDS = """## What each needs

Choose by this first. A method looks at nothing but what is marked here, beside the initial model: without a
mark under retain images it takes a retain set that is empty, without one under labels any labels will do.
Labels are those of the images that are marked. The training log holds the updates of every training step;
checkpoints are the model at earlier epochs. Some methods find defaults of theirs by the sets' labels: whether
whole classes are forgotten."""

AUGMENTATION = """## Augmentation

The images that a method trains on are augmented as the base models' recipe augments: crop and flip on
CIFAR10, CIFAR100, STL10 and the other registered sets of photographs, nothing on digits and MNIST. That is
`--unlearn_augment auto`, the default. `none`, or some of `crop,flip,cutout`, says otherwise. From Python:
`PipelineConfig(unlearn_augment=("crop", "flip"))`, or `ForgetData(augment=...)` without a pipeline.

What is measured or ranked by comes as it is: importances, features, accuracies, the nearest classes of
`boundary_shrink`, the gradients that `MSG` resets by. `SalUn`'s saliency alone is augmented. A teacher
(`SCRUB`, `bad_teacher`, `LoTUS`) is asked about the very image that the student is given, at every step;
without augmentation it is asked once. The targets of `oracle_matching` and `dm_matching` are of the images
as they are, and so are the images that they train on. `UNSIR`'s noise is not augmented.

The last column is what the public code of the method's source augments where it unlearns; it is empty where
that is not known."""


def listing(methods: Iterable[Entry[Any]], add_ons: Iterable[Entry[Any]]) -> str:
    """Return a table of methods and one of add-ons for the console."""
    rows = []
    for entry in by_name(methods):
        takes = "all" if "addon" in entry.hyperparameters else ""
        rows.append([entry.name, ", ".join(entry.aliases), takes, _in_short(entry)])
    rules = [[entry.name, entry.in_short] for entry in by_name(add_ons)]
    tables = [
        wrapped_table(["method", "also", "add-ons", "what it does"], rows),
        wrapped_table(["add-on", "what it does"], rules),
    ]
    return "\n\n".join(tables)


def page(
    methods: Iterable[Entry[Any]], add_ons: Iterable[Entry[Any]], own_pages: Collection[str] = ()
) -> str:
    """Return an index, a section for each method and one for the add-ons.

    own_pages: names of the other files beside docs/methods.md.
    """
    methods, add_ons = by_name(methods), by_name(add_ons)
    alone = [entry for entry in methods if not entry.facts.add_on]
    joint = [entry for entry in methods if entry.facts.add_on]
    index = [[link(e), codes(e.aliases), prose(_in_short(e), cell=True)] for e in alone]
    parts = [
        HEAD,
        "## Index",
        table(["name", "aliases", "what it does"], index),
        f"With an add-on in it: {codes(entry.name for entry in joint)}. See [Add-ons](#add-ons).",
        WHAT_IT_NEEDS,
        _needs_table(alone),
        AUGMENTATION,
        _augmentation_table(alone),
        "## The methods",
        *(_section(entry, own_pages) for entry in alone),
        _add_ons_section(alone, joint, add_ons),
    ]
    return "\n\n".join(parts) + "\n"


def _needs_table(alone: Iterable[Entry[Any]]) -> str:
    """Return a row for each method, a column for each need that any has."""
    alone = list(alone)
    columns = [need for need in NEEDS if any(need in entry.facts.needs for entry in alone)]
    rows = []
    for entry in alone:
        marks = ["yes" if need in entry.facts.needs else "" for need in columns]
        rows.append([link(entry), *marks])
    return table(["method", *(NEEDS[need] for need in columns)], rows)


def _augmentation_table(alone: Iterable[Entry[Any]]) -> str:
    rows = [
        [link(entry), " and ".join(entry.facts.augments or ("nothing",)), entry.facts.source_augments]
        for entry in alone
    ]
    return table(["method", "augmented images", "in the source"], rows)


def written() -> str:
    """Return docs/methods.md: Lethe's own methods, without a user's files and plugins."""
    own = [entry for entry in METHODS if entry.own]
    rules = [entry for entry in ADD_ONS if entry.own]
    return page(own, rules, {path.stem for path in PAGE.parent.glob("*.md")} - {PAGE.stem})


def _method_of(entry: Entry[Any]) -> Entry[Any]:
    """Return the method of a joint name."""
    own = inspect.unwrap(entry.function)
    return next(other for other in METHODS if inspect.unwrap(other.function) is own)


def _in_short(entry: Entry[Any]) -> str:
    """Return the summary of a method, its limits, needs and package; of a joint name its parts."""
    if entry.facts.add_on:
        return f"{_method_of(entry).name} + {entry.facts.add_on}"
    limits = ["whole classes only"] if entry.facts.whole_class else []
    limits += [f"needs {need}" for need in _other_needs(entry)]
    limits += [entry.package] if entry.package else []
    return entry.summary + (f" ({'; '.join(limits)})" if limits else "")


def _other_needs(entry: Entry[Any]) -> list[str]:
    """Return what a method needs beside images and labels, in words."""
    other = [need for need in entry.facts.needs if need not in IMAGES_WITH_LABELS]
    oracles = f"oracles, made by `{named('ideal')} --oracles N`"
    updates = f"the training log, made by `{named('baseline')} --training_log`"
    words = {**NEEDS, "updates": updates, "ideal": "the ideal model", "oracles": oracles}
    return [words.get(need, need) for need in other]


def _needs(entry: Entry[Any]) -> list[str]:
    """Return what a method needs, in words."""
    images = [NEEDS[need] for need in entry.facts.needs if need in IMAGES_WITH_LABELS]
    return [*images, *_other_needs(entry)] or ["the initial model alone"]


def _section(entry: Entry[Any], own_pages: Collection[str]) -> str:
    return "\n\n".join([*heading(entry), *_body(entry), bullets(_facts(entry, own_pages))])


def _body(entry: Entry[Any]) -> list[str]:
    """Return the docstring after its first paragraph, the flags and the departures."""
    text, departures = paragraphs_of(entry.function)
    labelled = [f"**Departures.** {prose(capital(departure))}" for departure in departures]
    return [*map(paragraph, text), *_flags(entry.hyperparameters), *labelled]


def _facts(entry: Entry[Any], own_pages: Collection[str]) -> list[str]:
    requests = "whole classes only" if entry.facts.whole_class else "any request, whole classes or images"
    facts, own = [f"Forgets: {requests}"], entry.name.lower()
    facts.append(f"Needs: {', '.join(_needs(entry))}")
    if "addon" in entry.hyperparameters:
        facts.append("Add-ons: [all](#add-ons), by `--addon`")
    if entry.facts.parallel:
        facts.append("Processes: one, or [several](models.md), by torchrun")
    if entry.facts.source:
        facts.append(f"Source: {prose(entry.facts.source)}")
    if own in own_pages:
        facts.append(f"More: [{own}.md]({own}.md)")
    return facts


def _add_ons_section(
    alone: Sequence[Entry[Any]], joint: Sequence[Entry[Any]], add_ons: Sequence[Entry[Any]]
) -> str:
    takers = [entry.name for entry in alone if "addon" in entry.hyperparameters]
    names = [[codes([e.name]), codes(e.aliases), *_parts(e), _lacks(e)] for e in joint]
    return "\n\n".join(
        [
            ADD_ONS_HEAD.format(methods=codes(takers)),
            paragraph("    d = beta g_c + (1 - beta) g_u"),
            prose(first_paragraph(Agreement)),
            *map(paragraph, paragraphs_of(Agreement)[0]),
            prose(f"`kept`: {first_paragraph(kept)}"),
            *map(paragraph, paragraphs_of(kept)[0]),
            "A joint name has the flags of its method, but for those of the last column.",
            table(["joint name", "aliases", "method", "add-on", "flags it lacks"], names),
            *map(_add_on, add_ons),
        ]
    )


def _parts(joint: Entry[Any]) -> list[str]:
    """Return the method of a joint name, and a link to its add-on."""
    add_on = joint.facts.add_on
    return [codes([_method_of(joint).name]), f"[`{add_on}`](#add-on-{add_on.lower()})"]


def _add_on(entry: Entry[Any]) -> str:
    source = f"Source: {prose(entry.facts.source)}"
    head = [f"### Add-on `{entry.name}`", prose(entry.summary)]
    return "\n\n".join([*head, *_body(entry), bullets([source])])


def _lacks(entry: Entry[Any]) -> str:
    """Return the flags of the method that its joint name lacks."""
    names = [name for name in _method_of(entry).hyperparameters if name not in entry.hyperparameters]
    return codes(f"--{name}" for name in names)


def _flags(hyperparameters: Mapping[str, Hyperparameter]) -> list[str]:
    rows = [
        [f"`--{p.name}`", prose(p.expects, cell=True), _default(p), prose(p.help, cell=True)]
        for p in hyperparameters.values()
    ]
    return [table(["flag", "value", "default", "what it is"], rows)] if rows else []


def _default(parameter: Hyperparameter) -> str:
    if parameter.required:
        return "required"
    return f"`{'none' if parameter.default is None else parameter.default}`"


if __name__ == "__main__":
    write_bytes(PAGE, written().encode())
    print(f"written: {PAGE}")
