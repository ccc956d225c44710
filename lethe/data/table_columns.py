"""Attributes of the images of a Hugging Face dataset: its columns of texts, integers, bools and classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from lethe.data.image_columns import ReadColumns
from lethe.flag_words import text_of


def table_columns(rows: Any, besides: Collection[str]) -> ReadColumns:
    """Return the columns of single values, as texts, without those of the image and the label.

    A class is its name, a bool "true" or "false", and an empty cell "".
    """
    features = {
        name: kind for name, kind in rows.features.items() if name not in besides and _is_scalar(kind)
    }

    def column(name: str) -> Sequence[str]:
        classes = getattr(features[name], "names", None)
        values = rows.select_columns([name]).with_format(None)[:][name]
        return [_text(value, classes) for value in values]

    return ReadColumns(lambda: list(features), column)


def _is_scalar(kind: Any) -> bool:
    import datasets

    if isinstance(kind, datasets.ClassLabel):
        return True
    return isinstance(kind, datasets.Value) and (
        "string" in kind.dtype or kind.dtype == "bool" or kind.dtype.startswith(("int", "uint"))
    )


def _text(value: Any, classes: Sequence[str] | None) -> str:
    if value is None:
        return ""
    if classes is None:
        return text_of(value)
    return classes[value] if 0 <= value < len(classes) else ""  # -1: a class that is not public
