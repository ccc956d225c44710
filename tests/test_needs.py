"""What a method does not declare to need may be missing, or wrong: the result has the same bits."""

import functools
import re
from dataclasses import replace

import pytest
import torch

from lethe.report.methods_page import PAGE
from lethe.unlearn import METHODS, ForgetData, Oracles, register, resolved, unlearn
from lethe.unlearn.needs import IMAGES_WITH_LABELS, NEEDS
from tests import short_log
from tests.bars import (
    CLASS_1,
    CLASSES,
    fixture_splits,  # noqa: F401 (a fixture)
    fixture_trained,  # noqa: F401 (a fixture)
    same_bits,
)
from tests.test_methods import cheap, retrained

OWN = [entry for entry in METHODS if entry.file is None]
NOT_NEEDED = [(e, need) for e in OWN for need in IMAGES_WITH_LABELS if need not in e.facts.needs]


def data_of(splits):
    oracles = Oracles(lambda seeds: (retrained(CLASS_1, seed) for seed in seeds), judges=(1,))
    return ForgetData.of(
        splits, CLASS_1, ideal=lambda: retrained(CLASS_1), oracles=oracles, updates=short_log.updates
    )


def with_other_labels(images):
    """Labels that are all wrong, and no two classes' alike."""
    shift = 1 + torch.arange(len(images)) % (CLASSES - 1)
    return replace(images, labels=(images.labels + shift) % CLASSES)


def with_other_classes(forget, retain):
    """Other labels, with whole classes to forget as before: those become the last, which no other has."""
    last = torch.full_like(forget.labels, CLASSES - 1)
    others = torch.arange(len(retain)) % (CLASSES - 1)
    return {"forget": replace(forget, labels=last), "retain": replace(retain, labels=others)}


def without(data, need, *, whole_class=False):
    """The data without what is not needed, there and in the set of all training images."""
    if need == "labels" and whole_class:
        sets = with_other_classes(data.forget, data.retain)
    elif need == "labels":
        sets = {name: with_other_labels(getattr(data, name)) for name in ("forget", "retain")}
    else:
        images = getattr(data, need)
        sets = {need: images.subset(torch.zeros(len(images), dtype=torch.bool))}
    return replace(data, whole=None, **sets)


@pytest.fixture(scope="module")
def results(splits, trained):
    """A method's settings and its weights where nothing is missing, by the entry."""

    @functools.cache
    def of(entry):
        data = data_of(splits)
        found = entry.settings(cheap(entry))
        derived = resolved(entry, trained, data, cheap(entry))
        settings = found | {name: value for name, value in derived.items() if name in found}
        return settings, unlearn(entry.name, trained, data, **settings).model.state_dict()

    return of


@pytest.mark.parametrize(("entry", "need"), NOT_NEEDED, ids=lambda value: getattr(value, "name", value))
def test_a_method_does_without_what_it_does_not_need(entry, need, results, splits, trained):
    settings, expected = results(entry)

    found = unlearn(
        entry.name, trained, without(data_of(splits), need, whole_class=entry.facts.whole_class), **settings
    ).model

    assert same_bits(found.state_dict(), expected)


def test_a_need_that_is_none_is_refused():
    with pytest.raises(ValueError, match="needs: expected some of forget, .*, oracles, got 'luck'"):
        register("lucky", needs=("ideal", "luck"))(lambda model, data: model)
    with pytest.raises(ValueError, match="needs: expected some of forget, .* got 'forget'"):
        register("lucky", needs="forget")(lambda model, data: model)


def test_a_set_that_is_needed_and_empty_is_refused_before_anything_runs(splits, trained):
    data = without(data_of(splits), "retain")
    for call in (lambda: unlearn("FT", trained, data), lambda: resolved("FT", trained, data, {})):
        with pytest.raises(ValueError, match="the retain set: expected at least one image, got none"):
            call()


def test_no_images_at_all_are_refused(splits):
    data = without(data_of(splits), "retain")
    with pytest.raises(ValueError, match="set: expected at least one image, got none"):
        without(data, "forget")


def test_the_page_has_a_table_of_what_each_method_needs():
    text = PAGE.read_text()
    table = text[text.index("## What each needs") : text.index("## Augmentation")]
    header, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    found = {}
    for link, *marks in rows:
        name = re.search(r"`(.+)`", link).group(1)
        found[name] = {words for words, mark in zip(header[1:], marks, strict=True) if mark == "yes"}
    assert found == {
        entry.name: {NEEDS[need] for need in entry.facts.needs} for entry in OWN if not entry.facts.add_on
    }
