"""train / validation / test: stratified, exact, and fixed by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lethe.data.chosen_images import Images, choose
from lethe.data.image_columns import Columns
from lethe.data.image_set import ImageSet, Normalisation
from lethe.data.impl import DATASETS, NOTHING_GIVEN, RawDataset, read

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2
# Images, so that one is for validation.
FEWEST_IN_CLASS = next(n for n in range(1, 100) if round(VALIDATION_SHARE * n))


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset. The index of a test image is its index in the published test part.

    of_the_data: the normalisation by the training images' own mean and deviation, if another one is in use
    columns: attributes of the published training images: a text at the index of each
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    dataset: str
    class_names: tuple[str, ...]
    split_seed: int
    of_the_data: Normalisation | None = None
    columns: Columns = field(default_factory=dict)

    @property
    def own_normalisation(self) -> Normalisation:
        """The normalisation by the training images' own mean and deviation, also if another one is in use."""
        return self.of_the_data or self.train.normalisation

    def normalised(self, normalisation: Normalisation) -> Splits:
        """Replace the normalisation, for a model that was trained elsewhere."""
        if normalisation == self.train.normalisation:
            return self
        parts = {
            name: replace(getattr(self, name), normalisation=normalisation)
            for name in ("train", "validation", "test")
        }
        return replace(self, **parts, of_the_data=self.own_normalisation)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def without_validation(self) -> Splits:
        """Move the validation images to train: most foreign models were trained without a validation set."""
        train = self.train.joined(self.validation)
        return replace(
            self,
            train=train,
            validation=self.validation.subset(torch.zeros(len(self.validation), dtype=torch.bool)),
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every image, label and index of the three parts: equal if and only if the split is."""
        parts = (self.train, self.validation, self.test)
        return hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()


def load_splits(
    dataset: str, folder: str | Path, split_seed: int = 0, given: Mapping[str, Any] = NOTHING_GIVEN
) -> Splits:
    """Read a dataset and hold out 10 % of each training class for validation, drawn with `split_seed`.

    If the published set has no test part, 20 % of each class are held out for it first. `given`: settings of
    `reading`, by flag name. Raises ValueError if there are no test images.
    """
    raw, name = read(dataset, folder, given), DATASETS[dataset].name
    splits = split(raw, name, split_seed)
    if not len(splits.test):
        remedy = (
            "Add images"
            if raw.test is None
            else "Leave the test part out: then a fifth of each class is taken for it"
        )
        raise ValueError(f"{name}: expected at least one test image, got none. {remedy}")
    return splits


def split(raw: RawDataset, dataset: str, split_seed: int) -> Splits:
    """Divide a dataset as `load_splits` does. The parts share its images without a copy."""
    images, labels = raw.train
    generator = torch.Generator().manual_seed(split_seed)
    rest = torch.arange(len(labels))
    test_images: Images
    if raw.test is None:
        test_rows, rest = drawn_from_each_class(labels, rest, TEST_SHARE, generator)
        test_images, test_labels, test_indexes = choose(images, test_rows), labels[test_rows], test_rows
    else:
        test_images, test_labels = raw.test
        test_indexes = torch.arange(len(test_labels))
    validation_rows, train_rows = drawn_from_each_class(labels, rest, VALIDATION_SHARE, generator)
    normalisation = Normalisation.of(choose(images, train_rows), raw.white)

    def part(rows: Tensor) -> ImageSet:
        return ImageSet(choose(images, rows), labels[rows], rows, normalisation)

    test = ImageSet(test_images, test_labels, test_indexes, normalisation)
    return Splits(
        part(train_rows),
        part(validation_rows),
        test,
        dataset,
        raw.class_names,
        split_seed,
        columns=raw.columns,
    )


def drawn_from_each_class(
    labels: Tensor, rows: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw round(share x n_c) of the rows of each class c; return them and the other rows, both ascending."""
    drawn = []
    for label in labels[rows].unique():
        members = rows[labels[rows] == label]
        order = torch.randperm(len(members), generator=generator)
        drawn.append(members[order[: round(share * len(members))]])
    chosen = torch.cat(drawn).sort().values
    return chosen, rows[~torch.isin(rows, chosen)]
