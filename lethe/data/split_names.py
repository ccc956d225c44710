"""Choose a dataset's training and test split by name, for folders, zips, Parquet and the hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lethe.flag_error import FlagError
from lethe.nearest_name import did_you_mean

# The names of each split, in lower case; the first that exists is taken.
NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("val", "valid", "validation", "dev"),
}
MEANING = {name: split for split, names in NAMES.items() for name in names}


@dataclass(frozen=True)
class Asked:
    """The values of --train_split and --test_split; None chooses by name."""

    train: str | None = None
    test: str | None = None


NOTHING_ASKED = Asked()


@dataclass(frozen=True)
class Chosen:
    """The names of the training and the test split; test is None if a part of train is held out instead."""

    train: str
    test: str | None


def meaning_of(name: str) -> str | None:
    """Return train, test or validation, by a split's name or the last such word in it (seg_test), or None."""
    whole = MEANING.get(name.casefold())
    if whole is not None:
        return whole
    words = re.split(r"[\W\d_]+", name.casefold())
    return next((MEANING[word] for word in reversed(words) if word in MEANING), None)


def choose(
    dataset: str, splits: Iterable[str], has_labels: Callable[[str, str], bool], asked: Asked = NOTHING_ASKED
) -> Chosen:
    """Choose the splits for training and for the test. Warns of every split that is left out.

    The test split is the first by NAMES for which `has_labels(split, train)` is true: the validation split if
    the labels of the test split are not public. Raises ValueError if no name or several names mean train.
    """
    splits = list(splits)
    train = _named(dataset, splits, "train_split", asked.train) or _training_split(dataset, splits)
    test = _named(dataset, splits, "test_split", asked.test)
    unlabelled: list[str] = []
    for candidate in () if test else _test_splits(splits, train):
        if has_labels(candidate, train):
            test = candidate
            break
        unlabelled.append(candidate)
    _warn_of_unused(dataset, Chosen(train, test), splits, unlabelled)
    return Chosen(train, test)


def _named(dataset: str, splits: Sequence[str], flag: str, asked: str | None) -> str | None:
    """Return the split that a flag names. Raises ValueError if there is none of that name."""
    if asked is None or asked in splits:
        return asked
    found = [split for split in splits if split.casefold() == asked.casefold()]
    if len(found) == 1:
        return found[0]
    message = did_you_mean("split", asked, splits)
    raise FlagError(flag, f"{dataset}: --{flag}: {message}", named=False)


def training_splits(splits: Iterable[str]) -> list[str]:
    """Return the splits named train or training; without any, those with such a word in their names."""
    splits = list(splits)
    exact = [split for split in splits if split.casefold() in NAMES["train"]]
    return exact or [split for split in splits if meaning_of(split) == "train"]


def _training_split(dataset: str, splits: Sequence[str]) -> str:
    found = training_splits(splits)
    if not found and len(splits) == 1:
        found = list(splits)
    if len(found) != 1:
        raise ValueError(
            f"{dataset}: expected one split called train, got {', '.join(found or splits)}. Name the one "
            "for training with --train_split, and if there is one for the test, that with --test_split"
        )
    return found[0]


def _test_splits(splits: Sequence[str], train: str) -> list[str]:
    """Return the candidates for the test split, best first: by the whole name, then by a word in it."""
    others = [split for split in splits if split != train]
    names = (*NAMES["test"], *NAMES["validation"])
    whole = [split for split in others if split.casefold() in names]
    whole.sort(key=lambda split: names.index(split.casefold()))
    by_word = [split for kind in ("test", "validation") for split in others if meaning_of(split) == kind]
    return list(dict.fromkeys([*whole, *by_word]))


def _warn_of_unused(dataset: str, chosen: Chosen, splits: Sequence[str], unlabelled: Sequence[str]) -> None:
    test = chosen.test or f"a part of {chosen.train}"
    if unlabelled:
        warnings.warn(
            f"{dataset}: no labels in the split {', '.join(unlabelled)}: {test} is for the test", stacklevel=3
        )
    left_out = [split for split in splits if split not in (chosen.train, chosen.test, *unlabelled)]
    if left_out:
        warnings.warn(
            f"{dataset}: the split {', '.join(left_out)} is left out: {chosen.train} is for training, "
            f"{test} for the test, and validation images are drawn from {chosen.train}",
            stacklevel=3,
        )
