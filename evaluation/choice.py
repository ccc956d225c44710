"""Resolve the values of --metrics: all, default, or names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lethe.evaluation.impl import IN_WORDS, METRICS, OF_MANY, Group, MetricFacts, needs_of
from lethe.flag_error import FlagError
from lethe.registry import Entry

ALL, DEFAULT = "all", "default"


def chosen(words: Sequence[str]) -> list[Entry[MetricFacts]]:
    """Return the metrics that words name, each once: "all", "default", names, file.py:function.

    "default" leaves out costly metrics, metrics of many models, and those of plugins: what is installed does
    not change what a run measures. Raises ValueError for no word, an unknown
    name, a function with an unknown parameter, and two metrics of one name.
    """
    if not any(words):
        raise FlagError(
            "metrics", f"expected {ALL}, {DEFAULT} or names separated by commas, got none. Name at least one"
        )
    entries = {entry.function: entry for word in words for entry in _named(word)}
    twice = [name for name, count in Counter(entry.name for entry in entries.values()).items() if count > 1]
    if twice:
        raise FlagError(
            "metrics",
            f"expected metrics of different names, got several called {', '.join(twice)}. Rename "
            "your function",
        )
    for entry in entries.values():
        unknown = sorted(set(needs_of(entry.function)) - set(IN_WORDS))
        if unknown:
            raise FlagError(
                "metrics",
                f"{entry.name}: expected parameters among {', '.join(IN_WORDS)}, got {', '.join(unknown)}. "
                "Rename them in your function",
            )
    return list(entries.values())


def names_in(group: Group) -> list[str]:
    """Return the names of a group's metrics, comparisons with the ideal model last."""
    entries = [entry for entry in METRICS if group in entry.facts.groups]
    return [entry.name for entry in sorted(entries, key=lambda entry: "ideal" in needs_of(entry.function))]


def _named(word: str) -> list[Entry[MetricFacts]]:
    if word.casefold() == ALL:
        return list(METRICS)
    if word.casefold() == DEFAULT:
        return [
            entry
            for entry in METRICS
            if not (entry.facts.costly or entry.package) and OF_MANY.isdisjoint(needs_of(entry.function))
        ]
    try:
        return [METRICS[word]]
    except ValueError as error:
        raise FlagError("metrics", error) from error
