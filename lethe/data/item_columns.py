"""The image and the label among the entries of a dictionary, such as a row of a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from lethe.data.pixels import is_array
from lethe.nearest_name import did_you_mean

Columns = tuple[str, str]  # the names of the image and of the label
LABEL_NAMES = ("label", "labels", "class", "target", "category")


def columns_of(item: Any, features: Mapping[str, Any] | None, asked: Columns | None) -> Columns | None:
    """Return the names of the image and the label in the items of a dataset; None if items are pairs.

    item: the first item. features: those of a Hugging Face dataset, if it is one. asked: the names that the
    user gave. Raises ValueError for a name that is not there, and if there are several candidates or none.
    """
    if not isinstance(item, Mapping):
        if asked is not None:
            raise ValueError(
                f"columns: expected items with names, such as rows of a Hugging Face dataset, got a "
                f"{type(item).__name__}. Leave columns out"
            )
        return None
    if asked is not None:
        for name in asked:
            if name not in item:
                raise ValueError(did_you_mean("column", name, map(str, item)))
        return asked
    images = [name for name, value in item.items() if _is_image(value)]
    labels = _label_columns(item, features or {})
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"the dataset: expected one image and one label in each item, got the images "
            f"{', '.join(images) or 'none'} and the labels {', '.join(labels) or 'none'} among "
            f"{', '.join(map(str, item))}. Name both, such as "
            f'columns=("{(images or ["image"])[0]}", "{(labels or ["label"])[0]}"). Images that '
            'are lists of numbers become arrays by data.with_format("numpy")'
        )
    return images[0], labels[0]


def _is_image(value: Any) -> bool:
    return isinstance(value, Image.Image) or (is_array(value) and value.ndim >= 2)


def _label_columns(item: Mapping[str, Any], features: Mapping[str, Any]) -> list[str]:
    """Return the columns of classes; without them, the integers, or those of them that are called labels."""
    classes = [name for name in item if type(features.get(name)).__name__ == "ClassLabel"]
    if classes:
        return classes
    called = [name for name in item if name.casefold() in LABEL_NAMES]
    integers = [name for name, value in item.items() if _is_integer(value)]
    return called if len(called) == 1 else integers


def _is_integer(value: Any) -> bool:
    number = value.item() if is_array(value) and value.ndim == 0 else value
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)
