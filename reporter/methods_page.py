"""The registry of methods as text: the lines of `mlflow_forget.py --list`, and docs/methods.md.

python -m reporter.methods_page writes docs/methods.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry import Entry
from reporter.markdown import by_name, capital, codes, paragraph, paragraphs_of, prose, table
from reporter.text_table import wrapped_table
from signature import Hyperparameter
from training.storage import write_bytes
from unlearn import METHODS
from unlearn.add_ons import ADD_ONS, Agreement, kept

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
COMMAND = "python -m reporter.methods_page"
NEEDS = {"ideal": "the ideal model", "oracles": "oracles, made by main_ideal.py --oracles N"}

HEAD = f"""# Methods

Every name that `--unlearn` takes: what the method does to the weights, its flags with their defaults, where it comes from, and where it
departs from there. `python -u mlflow_forget.py --list` prints the short form, `--unlearn NAME --help` one method with all flags of the job.

Made from the registry by `{COMMAND}`: what stands here is what runs.

In the formulas `theta` is the weights of the unlearned model and `f_theta` the model itself, `theta_0` and `f_0` are those of the initial
model; `CE` is the cross-entropy, `g_f` and `g_r` its gradients on a forget and on a retain batch, `*` the product entry by entry."""

ADD_ONS_HEAD = """## Add-ons

An add-on combines the two gradients of a step in its own way, on any method that takes one of each: {methods}. Ask for it by
`--addon`, as in `--unlearn NGPlus --addon GradMask`, or by the joint name. `g_u` is the descent gradient of the forget objective,
`g_c` that of the retain objective, `beta` the retain gradient's weight; `d` is the plain step:"""


AUGMENTATION = """## Augmentation

The images that a method trains on are augmented as the base models' recipe augments: crop and flip on CIFAR10, CIFAR100, STL10 and the
other registered sets of photographs, nothing on digits and MNIST. That is `--unlearn_augment auto`, the default. `none`, or some of
`crop,flip,cutout`, says otherwise. From Python: `PipelineConfig(unlearn_augment=("crop", "flip"))`, or `ForgetData(augment=...)`
without a pipeline.

What is measured or ranked by comes as it is: importances, features, accuracies, the nearest classes of `boundary_shrink`, the gradients
that `MSG` resets by. `SalUn`'s saliency alone is augmented. A teacher (`SCRUB`, `bad_teacher`, `LoTUS`) is asked about the very image
that the student is given, at every step; without augmentation it is asked once. The targets of `oracle_matching` and `dm_matching` are
of the images as they are, and so are the images that they train on. `UNSIR`'s noise is not augmented.

The last column is what the public code of the method's source augments where it unlearns; it is empty where that is not known."""


def listing(methods: Iterable[Entry[Any]], add_ons: Iterable[Entry[Any]]) -> str:
    """A line per method: name, aliases, the add-ons that it takes, what it does; then a line per add-on."""
    rows = [
        [e.name, ", ".join(e.aliases), "all" if "addon" in e.hyperparameters else "", _in_short(e)]
        for e in by_name(methods)
    ]
    rules = [[entry.name, entry.summary] for entry in by_name(add_ons)]
    return "\n".join(
        [
            wrapped_table(["method", "also", "add-ons", "what it does"], rows),
            "",
            wrapped_table(["add-on", "what it does"], rules),
            "",
            "one method with its flags:  python -u mlflow_forget.py --unlearn NAME --help      all of them: "
            "docs/methods.md",
        ]
    )


def page(
    methods: Iterable[Entry[Any]], add_ons: Iterable[Entry[Any]], own_pages: Collection[str] = ()
) -> str:
    """docs/methods.md: an index, a section for each method, one for the add-ons. `own_pages`: names of other
    files beside it.
    """
    methods, add_ons = by_name(methods), by_name(add_ons)
    alone = [entry for entry in methods if _add_on_of(entry) is None]
    joint = [entry for entry in methods if _add_on_of(entry) is not None]
    index = [
        [f"[`{e.name}`](#{e.name.lower()})", codes(e.aliases), prose(_in_short(e), cell=True)] for e in alone
    ]
    parts = [
        HEAD,
        "## Index",
        table(["name", "aliases", "what it does"], index),
        f"With an add-on in it: {codes(entry.name for entry in joint)}. See [Add-ons](#add-ons).",
        AUGMENTATION,
        _augmentation_table(alone),
        "## The methods",
        *(_section(entry, own_pages) for entry in alone),
        _add_ons_section(alone, joint, add_ons),
    ]
    return "\n\n".join(parts) + "\n"


def _augmentation_table(alone: Iterable[Entry[Any]]) -> str:
    rows = [
        [
            f"[`{e.name}`](#{e.name.lower()})",
            " and ".join(e.facts.augments or ("nothing",)),
            e.facts.source_augments,
        ]
        for e in alone
    ]
    return table(["method", "augmented images", "in the source"], rows)


def written() -> str:
    """What docs/methods.md has to hold: Lethe's own methods, not those of a user's file."""
    own = [entry for entry in METHODS if entry.file is None]
    return page(own, ADD_ONS, {path.stem for path in PAGE.parent.glob("*.md")} - {PAGE.stem})


def _add_on_of(entry: Entry[Any]) -> str | None:
    """The add-on that a joint name has in it."""
    add_on: str | None = getattr(entry.function, "addon", None)
    return add_on


def _method_of(entry: Entry[Any]) -> Entry[Any]:
    """The method that a joint name has in it."""
    return next(
        other for other in METHODS if inspect.unwrap(other.function) is inspect.unwrap(entry.function)
    )


def _in_short(entry: Entry[Any]) -> str:
    """The one line, with what the method is limited to and what it needs; for a joint name its parts."""
    if _add_on_of(entry) is not None:
        return f"{_method_of(entry).name} + {_add_on_of(entry)}"
    limits = ["whole classes only"] if entry.facts.whole_class else []
    limits += [f"needs {need}" for need in _needs(entry)]
    return entry.summary + (f" ({'; '.join(limits)})" if limits else "")


def _needs(entry: Entry[Any]) -> list[str]:
    return [NEEDS.get(need, need) for need in getattr(entry.facts, "needs", ())]


def _section(entry: Entry[Any], own_pages: Collection[str]) -> str:
    """A method: its text in the docstring's order, its facts, its flags, its departures."""
    also = f"Also {codes(entry.aliases)}. " if entry.aliases else ""
    text, departures = paragraphs_of(entry.function)
    return "\n\n".join(
        [
            f"### `{entry.name}`",
            also + prose(entry.summary),
            *map(paragraph, text),
            *_flags(entry.hyperparameters),
            *(f"**Departures.** {prose(capital(text))}" for text in departures),
            "\n".join(f"- {fact}" for fact in _facts(entry, own_pages)),
        ]
    )


def _facts(entry: Entry[Any], own_pages: Collection[str]) -> list[str]:
    facts = [
        "Forgets: "
        f"{'whole classes only' if entry.facts.whole_class else 'any request, whole classes or images'}"
    ]
    facts += [f"Needs: {', '.join(_needs(entry))}"] if _needs(entry) else []
    facts += ["Add-ons: [all](#add-ons), by `--addon`"] if "addon" in entry.hyperparameters else []
    facts += [f"Source: {prose(entry.facts.source)}"] if entry.facts.source else []
    own = entry.name.lower()
    return facts + ([f"More: [{own}.md]({own}.md)"] if own in own_pages else [])


def _add_ons_section(
    alone: Sequence[Entry[Any]], joint: Sequence[Entry[Any]], add_ons: Sequence[Entry[Any]]
) -> str:
    takers = [entry.name for entry in alone if "addon" in entry.hyperparameters]
    names = [
        [
            f"`{e.name}`",
            codes(e.aliases),
            f"`{_method_of(e).name}`",
            f"[`{_add_on_of(e)}`](#add-on-{str(_add_on_of(e)).lower()})",
            _lacks(e),
        ]
        for e in joint
    ]
    return "\n\n".join(
        [
            ADD_ONS_HEAD.format(methods=codes(takers)),
            paragraph("    d = beta g_c + (1 - beta) g_u"),
            prose(_one_line(Agreement)),
            *map(paragraph, paragraphs_of(Agreement)[0]),
            prose(f"`kept`: {_one_line(kept)}"),
            *map(paragraph, paragraphs_of(kept)[0]),
            "A joint name has the flags of its method, but for those of the last column.",
            table(["joint name", "aliases", "method", "add-on", "flags it lacks"], names),
            *map(_add_on, add_ons),
        ]
    )


def _add_on(entry: Entry[Any]) -> str:
    text, departures = paragraphs_of(entry.function)
    return "\n\n".join(
        [
            f"### Add-on `{entry.name}`",
            prose(entry.summary),
            *map(paragraph, text),
            *_flags(entry.hyperparameters),
            *(f"**Departures.** {prose(capital(text))}" for text in departures),
            f"- Source: {prose(entry.facts.source)}",
        ]
    )


def _lacks(entry: Entry[Any]) -> str:
    """The method's flags that a joint name does not have."""
    return codes(
        f"--{name}" for name in _method_of(entry).hyperparameters if name not in entry.hyperparameters
    )


def _one_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _flags(hyperparameters: Mapping[str, Hyperparameter]) -> list[str]:
    rows = [
        [f"`--{p.name}`", prose(p.expects, cell=True), _default(p), prose(p.help, cell=True)]
        for p in hyperparameters.values()
    ]
    return [table(["flag", "value", "default", "what it is"], rows)] if rows else []


def _default(parameter: Hyperparameter) -> str:
    return (
        "required"
        if parameter.required
        else f"`{str(parameter.default).lower() if parameter.default is None else parameter.default}`"
    )


if __name__ == "__main__":
    write_bytes(PAGE, written().encode())
    print(f"written: {PAGE}")
