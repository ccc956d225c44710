"""Digits as scikit-learn has them; how a dataset is split, told from another, and normalised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from lethe.data import DATASETS, ImageSet, Normalisation, load_splits, split
from lethe.data.splits import drawn_from_each_class
from tests.hypothesis_settings import FEW
from tests.numbered_images import PLAIN, raw
from tests.seeded import generator

# Digits


def test_digits_are_scikit_learns_images(digits):
    parts = (digits.train, digits.validation, digits.test)
    everything = torch.cat([part.images for part in parts])[
        torch.cat([part.indexes for part in parts]).argsort()
    ]
    assert np.array_equal(everything.squeeze(1).numpy(), load_digits().images)


def test_digits_are_scikit_learns_labels(digits):
    for part in (digits.train, digits.validation, digits.test):
        assert np.array_equal(part.labels.numpy(), load_digits().target[part.indexes.numpy()])


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch):
    images, labels = DATASETS["digits"](Path("nowhere")).train
    monkeypatch.setattr("lethe.data.digits.IN_PACKAGE", Path("elsewhere.csv.gz"))
    others = DATASETS["digits"](Path("nowhere")).train
    assert torch.equal(images, others[0]) and torch.equal(labels, others[1])


def test_digits_have_1797_images_of_8_by_8(digits):
    images, labels = DATASETS["digits"](Path("nowhere")).train
    assert (tuple(images.shape), images.dtype, tuple(labels.shape), labels.dtype) == (
        (1797, 1, 8, 8),
        torch.uint8,
        (1797,),
        torch.int64,
    )


def test_digits_have_ten_classes(digits):
    assert (digits.classes, digits.class_names, digits.train.classes) == (
        10,
        tuple("0123456789"),
        tuple(range(10)),
    )


def test_an_unknown_dataset_is_refused():
    with pytest.raises(ValueError, match=r"unknown dataset 'digit'\. Did you mean 'digits'\?"):
        load_splits("digit", "nowhere")


# Splits


def test_validation_is_a_tenth_of_each_class():
    parts = split(raw((10, 26, 44, 100), test_counts=(1, 1, 1, 1)), "made", 0)
    assert parts.validation.labels.bincount().tolist() == [1, 3, 4, 10]


def test_a_set_without_test_part_gives_a_fifth_of_each_class():
    parts = split(raw((10, 26, 44, 100)), "made", 0)
    assert parts.test.labels.bincount().tolist() == [2, 5, 9, 20]


@pytest.mark.parametrize(
    ("test_counts", "way_out"), [((0, 0), "Leave the test part out"), (None, "Add images")]
)
def test_no_test_images_are_refused(test_counts, way_out, monkeypatch):
    monkeypatch.setattr("lethe.data.splits.read", lambda *_: raw((2, 2), test_counts=test_counts))
    with pytest.raises(ValueError, match=f"digits: expected at least one test image, got none. {way_out}"):
        load_splits("digits", ".")


def test_validation_is_a_tenth_of_what_the_test_part_leaves():
    parts = split(raw((10, 26, 44, 100)), "made", 0)
    assert parts.validation.labels.bincount().tolist() == [round(0.1 * n) for n in (8, 21, 35, 80)]


def test_the_sizes_of_digits(digits):
    counts = np.bincount(load_digits().target)
    test = sum(round(0.2 * n) for n in counts)
    validation = sum(round(0.1 * (n - round(0.2 * n))) for n in counts)
    assert (len(digits.test), len(digits.validation), len(digits.train)) == (
        test,
        validation,
        1797 - test - validation,
    )


@FEW
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.sampled_from([0.1, 0.2]), st.integers(0, 5))
def test_what_is_drawn_from_each_class_is_its_rounded_share(counts, share, seed):
    labels = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    drawn, _ = drawn_from_each_class(labels, torch.arange(len(labels)), share, generator(seed))
    assert labels[drawn].bincount(minlength=len(counts)).tolist() == [round(share * n) for n in counts]


@FEW
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.booleans(), st.integers(0, 5))
def test_the_parts_are_disjoint_and_together_everything(counts, published_test, seed):
    parts = split(raw(counts, test_counts=counts if published_test else None), "made", seed)
    mine = [parts.train, parts.validation] + ([] if published_test else [parts.test])
    assert sorted(torch.cat([part.indexes for part in mine]).tolist()) == list(range(sum(counts)))


def test_each_image_keeps_its_index():
    dataset = raw((20, 30))
    parts = split(dataset, "made", 0)
    for part in (parts.train, parts.validation, parts.test):
        assert torch.equal(part.images, dataset.train[0][part.indexes])


def test_a_published_test_part_is_left_as_it_is():
    dataset = raw((20, 30), test_counts=(3, 4))
    test = split(dataset, "made", 0).test
    assert torch.equal(test.images, dataset.test[0]) and test.indexes.tolist() == list(range(7))


def test_the_same_seed_gives_the_same_split(digits):
    assert load_splits("digits", "nowhere").digest == digits.digest


def test_another_seed_gives_another_split(digits):
    assert not torch.equal(load_splits("digits", "nowhere", 1).train.indexes, digits.train.indexes)


def test_the_split_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    split(raw((20, 30)), "made", 3)
    assert torch.equal(torch.get_rng_state(), before)


def changed(dataset, *, part=0, pixel=False, label=False):
    """The dataset with one pixel or one label of its train (0) or test (1) part changed."""
    images, labels = (tensor.clone() for tensor in (dataset.train, dataset.test)[part])
    if pixel:
        images[0, 0, 0, 0] ^= 1
    if label:
        labels[0] = 1 - labels[0]
    return replace(dataset, **{("train", "test")[part]: (images, labels)})


@pytest.mark.parametrize(
    "change", [{"pixel": True}, {"label": True}, {"pixel": True, "part": 1}, {"label": True, "part": 1}]
)
def test_the_digest_changes_with_one_pixel_and_one_label(change):
    dataset = raw((20, 30), test_counts=(2, 2))
    assert split(changed(dataset, **change), "made", 0).digest != split(dataset, "made", 0).digest


def test_the_digest_changes_with_the_seed():
    dataset = raw((20, 30), test_counts=(2, 2))
    assert split(dataset, "made", 0).digest != split(dataset, "made", 1).digest


@FEW
@given(st.integers(0, 49))
def test_the_digest_of_a_set_changes_with_any_pixel(position):
    images = torch.zeros(50, dtype=torch.uint8)
    images[position] = 1
    plain = ImageSet(torch.zeros(2, 1, 5, 5, dtype=torch.uint8), torch.tensor([0, 1]), torch.arange(2), PLAIN)
    assert replace(plain, images=images.view(2, 1, 5, 5)).digest != plain.digest


def test_the_digest_of_a_set_changes_with_its_shape():
    flat = ImageSet(torch.zeros(1, 1, 2, 8, dtype=torch.uint8), torch.tensor([0]), torch.arange(1), PLAIN)
    assert replace(flat, images=flat.images.view(1, 1, 4, 4)).digest != flat.digest


# Normalisation


def test_normalisation_has_numpys_mean_and_deviation():
    images = raw((40,)).train[0]
    scaled = images.numpy().astype(np.float64) / 255
    normalisation = Normalisation.of(images, 255)
    assert normalisation.mean == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-12)
    assert normalisation.std == pytest.approx(scaled.std((0, 2, 3)), abs=1e-12)


def test_normalisation_of_digits_counts_to_16(digits):
    scaled = load_digits().images[digits.train.indexes.numpy()] / 16
    assert digits.train.normalisation.mean == pytest.approx([scaled.mean()], abs=1e-12)
    assert digits.train.normalisation.std == pytest.approx([scaled.std()], abs=1e-12)


def test_normalisation_by_hand():
    normalised = Normalisation((0.5, 0.0), (0.25, 2.0), white=4)(
        torch.tensor([4, 4], dtype=torch.uint8).view(1, 2, 1, 1)
    )
    assert normalised.flatten().tolist() == [2.0, 0.5]


def test_a_normalised_training_set_has_mean_0_and_deviation_1():
    train = split(raw((200, 300)), "made", 0).train
    images = train.normalisation(train.images).double()
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert images.std((0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_all_parts_share_the_training_sets_normalisation(digits):
    assert (
        digits.validation.normalisation
        == digits.test.normalisation
        == Normalisation.of(digits.train.images, 16)
    )


def test_a_channel_of_one_value_is_not_divided_by_zero():
    images = torch.full((2, 1, 3, 3), 7, dtype=torch.uint8)
    assert Normalisation.of(images, 255)(images).abs().max() < 1e-6
