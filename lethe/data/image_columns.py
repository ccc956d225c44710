"""Attributes of the training images: a column has a text for each of them, such as its subclass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from lethe.nearest_name import did_you_mean

SUBCLASS = "subclass"  # the column that --forget_subclass reads
Columns = Mapping[str, Sequence[str]]
WHO_HAS_SOME = (
    "Those of CIFAR20, Living17, hf:NAME, and a folder:PATH with folders in its classes or an attributes.csv "
    "have some"
)


class ReadColumns(Mapping[str, Sequence[str]]):
    """Columns of a dataset's files, which are read when one is asked for: most runs ask for none.

    names: returns the names of the columns. read: returns the column of a name. dropped: rows to leave out.
    """

    def __init__(
        self,
        names: Callable[[], Sequence[str]],
        read: Callable[[str], Sequence[str]],
        dropped: Collection[int] = (),
    ) -> None:
        self._names, self._read, self._dropped = names, read, frozenset(dropped)

    def __getitem__(self, name: str) -> Sequence[str]:
        if name not in self._names():
            raise KeyError(name)
        column = self._read(name)
        return [text for row, text in enumerate(column) if row not in self._dropped]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def without(self, rows: Collection[int]) -> ReadColumns:
        """Leave out these rows, as the images of them are."""
        return ReadColumns(self._names, self._read, rows)


def column_of(columns: Columns, name: str, dataset: str, images: int) -> Sequence[str]:
    """Return a column of the training images, as many as the published part has at least.

    images: the largest index of a training image, and one. Raises ValueError for a column that is not there
    or has too few texts, and for one of anything else than texts.
    """
    if not isinstance(columns, Mapping):
        raise ValueError(
            f"the columns of {dataset}: expected a mapping of names to texts, got {columns!r:.40}. Correct "
            "the dataset"
        )
    if name not in columns:
        raise ValueError(_missing(columns, name, dataset))
    column = columns[name]
    if isinstance(column, str) or not isinstance(column, Sequence):
        raise ValueError(
            f"the column {name!r} of {dataset}: expected a list of texts, got {column!r:.40}. Correct "
            "the dataset"
        )
    if len(column) < images:
        raise ValueError(
            f"the column {name!r} of {dataset}: expected a text for each of at least {images} training images"
            f", got {len(column)}. Correct the dataset"
        )
    strange = next((text for text in column if not isinstance(text, str)), None)
    if strange is not None:
        raise ValueError(
            f"the column {name!r} of {dataset}: expected texts, got {strange!r:.40}. Correct the dataset"
        )
    return column


def _missing(columns: Columns, name: str, dataset: str) -> str:
    if not len(columns):
        what = "subclasses" if name == SUBCLASS else "attributes"
        return f"expected images with {what}, and the images of {dataset} have none. {WHO_HAS_SOME}"
    if name == SUBCLASS:
        return (
            f"expected a column {SUBCLASS!r} of {dataset}, got the columns {', '.join(sorted(columns))}. Ask "
            'for one with --forget_where "column == value"'
        )
    return did_you_mean("column", name, columns)
