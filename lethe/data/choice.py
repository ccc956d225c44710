"""What chooses the images of a forget request beyond classes: their attributes, and their scores."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lethe.commands import started
from lethe.data.condition import Condition, named_text
from lethe.data.image_columns import SUBCLASS, column_of
from lethe.data.image_scores import SCORES as MEMORISATION
from lethe.data.image_scores import columns_in, read_scores
from lethe.data.image_set import ImageSet
from lethe.flag_error import FlagError
from lethe.flag_words import Flags

if TYPE_CHECKING:
    from lethe.data.splits import Splits

End = Literal["hardest", "easiest", "typical", "worst"]
ENDS: tuple[End, ...] = ("hardest", "easiest", "typical", "worst")
MARGINS, OUT_LOSS = ("margin_form",), ("out_loss",)  # columns of memorisation.csv
Scores = Callable[[], Tensor]


@dataclass(frozen=True)
class Choice:
    """Images by attributes, and N of them by their memorisation.

    subclasses: texts of the column "subclass": an image of any of them
    where: `column == value` or `column != value`
    end: which N images by memorisation: hardest, the largest; easiest, the smallest; typical, the nearest to
        the median of those asked about. Of equal ones those by the margin form, if the file has it, then the
        smaller indexes. worst: those of the least loss for models that did not see them
    scores: a CSV file with the columns index and memorisation, and out_loss for worst
    """

    subclasses: tuple[str, ...] = ()
    where: str | None = None
    end: End | None = None
    number: int | None = None
    scores: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.subclasses, str):
            raise ValueError(
                f"subclasses: expected several, got {self.subclasses!r}. Write ({self.subclasses!r},)"
            )
        object.__setattr__(self, "subclasses", tuple(sorted(set(self.subclasses))))
        if self.scores is not None and self.end is None:
            ends = ", ".join(f"--forget_{end}" for end in ENDS)
            raise FlagError("forget_scores", f"expected one of {ends} too, got none. Say how many images")
        if self.condition is None and not self.subclasses and self.end is None:
            raise ValueError("expected a subclass, a condition or a score that chooses images, got none")
        if self.end is not None and (self.number is None or self.number < 1):
            raise FlagError(
                f"forget_{self.end}",
                f"expected an integer >= 1, got {self.number}. Say how many images to forget",
            )

    @cached_property
    def condition(self) -> Condition | None:
        if self.where is None:
            return None
        try:
            return Condition.parse(self.where)
        except ValueError as error:
            raise FlagError("forget_where", str(error)) from error

    def flags(self) -> Flags:
        """Return the command line's flags for this choice."""
        flags: Flags = {}
        if self.subclasses:
            flags["forget_subclass"] = list(self.subclasses)
        if self.where is not None:
            flags["forget_where"] = [self.where]
        if self.end is not None:
            flags[f"forget_{self.end}"] = [str(self.number)]
        if self.scores is not None:
            flags["forget_scores"] = [self.scores]
        return flags

    def params(self) -> dict[str, str]:
        """Return the flags as params of a run, each a text."""
        flags = self.flags()
        named = {"forget_subclass": shlex.join(self.subclasses)} if self.subclasses else {}
        return {name: words[0] for name, words in flags.items()} | named

    @classmethod
    def of_params(cls, params: Mapping[str, str]) -> Choice:
        """Return the choice of a run's params, as `params` writes them. Raises ValueError for others."""
        subclasses = shlex.split(params.get("forget_subclass", ""))
        ends = [(end, params[f"forget_{end}"]) for end in ENDS if f"forget_{end}" in params]
        end, number = ends[0] if ends else (None, "0")
        if len(ends) > 1 or not re.fullmatch(r"\d{1,18}", number):
            raise ValueError(f"expected one number of images as the params of its choice, got {dict(ends)}")
        count, scores = int(number) if ends else None, params.get("forget_scores")
        return cls(tuple(subclasses), params.get("forget_where"), end, count, scores)

    def in_words(self, images: str, of_classes: str) -> str:
        """Describe the choice, such as "500 images of the subclass bear" or "the 50 hardest images".

        images: "500 images". of_classes: "class 3 (cat)", or "" for any.
        """
        of = [of_classes] if of_classes else []
        if self.subclasses:
            of.append(
                f"the subclass{'es' if len(self.subclasses) > 1 else ''} {' or '.join(self.subclasses)}"
            )
        count, _, noun = images.partition(" ")
        text = images if self.end is None else f"the {count} {self.end} {noun}"
        text += f" of {' and '.join(of)}" if of else ""
        return text if self.condition is None else f"{text} where {self.condition}"

    def among(self, splits: Splits) -> Tensor:
        """Return which training images have the attributes, as a mask (N,) in the order of `splits.train`.

        Raises ValueError for a column that is missing, and a subclass or a value that no image has.
        """
        mask = torch.ones(len(splits.train), dtype=torch.bool)
        if self.subclasses:
            with _named("forget_subclass"):
                texts = _texts(splits, SUBCLASS)
                wanted = {named_text(word, texts, SUBCLASS, "subclasses") for word in self.subclasses}
            mask &= torch.tensor([text in wanted for text in texts])
        if self.condition is not None:
            with _named("forget_where"):
                mask &= torch.tensor(self.condition.holds(_texts(splits, self.condition.column)))
        return mask

    def at_the_end(self, train: ImageSet, candidates: Tensor, scores: Scores | None) -> Tensor:
        """Return the positions of the N candidates at the end of the scores.

        candidates: positions of images. scores: returns the memorisation of each image (N,), for a choice
        without a file. Raises ValueError for scores that are missing or no numbers.
        """
        order = torch.arange(len(candidates))
        # What decides comes last: a stable sort keeps the order before it where values are equal.
        for own in reversed(self._scores_of(train, candidates, scores)):
            order = order[self._distance(own)[order].argsort(stable=True)]
        return candidates[order[: self.number]]

    def _distance(self, own: Tensor) -> Tensor:
        """Return how far scores are from this end."""
        if self.end == "typical":
            return (own - own.median()).abs()
        return -own if self.end == "hardest" else own

    def _scores_of(self, train: ImageSet, candidates: Tensor, scores: Scores | None) -> list[Tensor]:
        """Return the scores of the candidates, and those that decide where they are equal."""
        if self.scores is not None:
            return _from_file(self.scores, self.end, train.indexes[candidates])
        if scores is None or self.end == "worst":
            raise FlagError(
                f"forget_{self.end}",
                "expected --forget_scores FILE with the memorisation of each training image, got none. Make "
                f"the file: {started('audit')} memorisation",
            )
        own = scores()[candidates].double()
        if not bool(own.isfinite().all()):
            raise ValueError("memorisation: expected a finite number for each training image, got another")
        return [own]


def _from_file(path: str, end: End | None, indexes: Tensor) -> list[Tensor]:
    """Return the scores of the images with these indexes. Raises FlagError for a file that lacks one."""
    by = OUT_LOSS if end == "worst" else MEMORISATION
    found = [read_scores(path, "forget_scores", by)]
    if by == MEMORISATION and MARGINS[0] in columns_in(path):
        found.append(read_scores(path, "forget_scores", MARGINS))
    missing = [index for index in indexes.tolist() if index not in found[0]]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise FlagError(
            "forget_scores",
            f"expected the score of each training image, and {path} has none of index {missing[0]}{more}. "
            "Make the file of this dataset and --split_seed",
        )
    values = [[own[index] for index in indexes.tolist()] for own in found]
    return list(torch.tensor(values, dtype=torch.float64))


def _texts(splits: Splits, name: str) -> list[str]:
    """Return a column's text for each training image."""
    indexes = splits.train.indexes.tolist()
    column = column_of(splits.columns, name, splits.dataset, max(indexes) + 1)
    return [column[index] for index in indexes]


@contextmanager
def _named(flag: str) -> Iterator[None]:
    """Let the errors of the block start with the flag."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise FlagError(flag, str(error)) from error
