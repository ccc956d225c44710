"""What to forget: whole classes, a number of images, images with an attribute, or a list of indexes."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lethe.data.choice import ENDS, Choice, Scores
from lethe.data.image_set import ImageSet
from lethe.flag_error import FlagError
from lethe.flag_words import Flags
from lethe.nearest_name import did_you_mean
from lethe.system.foreign_files import LIST, foreign_text

if TYPE_CHECKING:
    from lethe.data.splits import Splits

ANY_CLASS = -1
SHORT = 8  # characters of a digest in a slug
LONGEST_INDEX = 18  # digits that fit into an int64
LONGEST = 100  # characters of a slug; a file name may have 255 with everything else in it


@dataclass(frozen=True)
class ForgetRequest:
    """A forget request, as on the command line.

    | classes | number | indexes | forget set |
    |---|---|---|---|
    | (3,) | | | every training image of class 3 |
    | (3, 5) | | | every training image of the classes 3 and 5 |
    | (3,) | 450 | | 450 images of class 3, drawn by the split's seed |
    | (-1,) | 4500 | | 4500 images of any class |
    | ("cat",) | | | every training image of the class of that name; `of_classes` looks it up |
    | | | (7, 12, ...) | the images with these indexes in the original training set, read from `file` |

    `chosen` makes a request of the images with an attribute or at an end of a score. `resolved` replaces it
    by the list of its images, once the dataset is read.
    """

    classes: tuple[int | str, ...] = (0,)
    number: int | None = None
    indexes: tuple[int, ...] | None = None
    file: str | None = None
    # The classes as --class_to_replace takes them, set by `of_classes`.
    spelled: tuple[str, ...] = field(default=(), compare=False)
    # What chose the indexes, or will choose them.
    choice: Choice | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.classes, Iterable) or isinstance(self.classes, str):
            raise ValueError(
                f"classes: expected several, such as (3,) or ('cat', 'dog'), got {self.classes!r}. Write "
                f"ForgetRequest(({self.classes!r},))"
            )
        each = {label if isinstance(label, str) else int(label) for label in self.classes}
        # Sorted, so that one request has one name.
        object.__setattr__(
            self, "classes", tuple(sorted(each, key=lambda label: (isinstance(label, str), label)))
        )
        if self.indexes is not None:
            object.__setattr__(self, "indexes", tuple(sorted({int(index) for index in self.indexes})))
            return
        if ANY_CLASS in self.classes and self.number is None and self.choice is None:
            message = (
                "--class_to_replace -1 means any class and alone would forget everything. "
                "Say how many images with --num_indexes_to_replace, or name a class"
            )
            raise FlagError("class_to_replace", message, named=False)
        if ANY_CLASS in self.classes and len(self.classes) > 1:
            raise FlagError(
                "class_to_replace",
                f"expected -1 alone or classes, got {list(self.classes)}. Leave out -1 or the others",
            )
        if self.number is not None and self.number < 1:
            raise FlagError(
                "num_indexes_to_replace",
                f"expected an integer >= 1, got {self.number}. Say how many images to forget",
            )

    @classmethod
    def chosen(
        cls,
        *,
        subclass: str | Sequence[str] = (),
        where: str | None = None,
        hardest: int | None = None,
        easiest: int | None = None,
        typical: int | None = None,
        worst: int | None = None,
        scores: str | None = None,
        classes: tuple[int | str, ...] = (),
        number: int | None = None,
    ) -> ForgetRequest:
        """Return the request of the images with an attribute, or of those at an end of the memorisation.

            ForgetRequest.chosen(subclass="bear")
            ForgetRequest.chosen(where='source == "B"', number=100)
            ForgetRequest.chosen(hardest=50, classes=(3,), scores="memorisation.csv")

        Each argument narrows the choice, as its flag does. `number` images of them are drawn by the split's
        seed. Raises ValueError for several ways to choose a number, and for a condition that can't be read.
        """
        counts = (hardest, easiest, typical, worst)
        given = [(end, count) for end, count in zip(ENDS, counts, strict=True) if count is not None]
        ways = [f"--forget_{end}" for end, _ in given]
        ways += [] if number is None else ["--num_indexes_to_replace"]
        if len(ways) > 1:
            message = f"{ways[0]} says how many images. Leave out {' and '.join(ways[1:])}"
            raise FlagError(f"forget_{given[0][0]}", message, named=False)
        end, count = given[0] if given else (None, None)
        subclasses = (subclass,) if isinstance(subclass, str) else tuple(subclass)
        of = () if tuple(classes) == (ANY_CLASS,) else classes
        return cls(of, number, choice=Choice(subclasses, where, end, count, scores))

    def of_classes(self, names: Sequence[str]) -> ForgetRequest:
        """Replace each class by its number: a word is the name of a class, else a number.

        Raises ValueError for a word that is neither. Warns if a word is the name of one class and the number
        of another.
        """
        numbers = [_class_of(label, names) if isinstance(label, str) else label for label in self.classes]
        spelled = [_word_for(number, names) for number in sorted(set(numbers))]
        return replace(self, classes=tuple(numbers), spelled=tuple(spelled))

    def in_words(self, count: int, names: Sequence[str]) -> str:
        """Describe the request, such as "classes 3 (cat) and 5 (dog)" or "450 images of class 3 (cat)"."""
        images = f"{count:,} image{'s' if count > 1 else ''}"
        if self.choice is not None:
            return self.choice.in_words(images, self._classes_in_words(names) if self.classes else "")
        if self.indexes is not None or ANY_CLASS in self.classes:
            return images
        whole = self._classes_in_words(names)
        return whole if self.number is None else f"{images} of {whole}"

    def _classes_in_words(self, names: Sequence[str]) -> str:
        numbers = self.of_classes(names).numbers
        classes = [
            f"{label}" if names[label] == str(label) else f"{label} ({names[label]})" for label in numbers
        ]
        listed = " and ".join([", ".join(classes[:-1]), classes[-1]] if len(classes) > 1 else classes)
        return f"class{'es' if len(classes) > 1 else ''} {listed}"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The classes as numbers. Raises ValueError for a class that is still a name."""
        names = [label for label in self.classes if isinstance(label, str)]
        if names:
            raise ValueError(
                f"expected classes as numbers, got the name {names[0]!r}. Look the names up with "
                "of_classes(class_names)"
            )
        return tuple(label for label in self.classes if not isinstance(label, str))

    @property
    def slug(self) -> str:
        """A short name for files and runs: class3-450, any-4500, indexes-1f2e3d4c, classes80-1f2e3d4c."""
        return (
            self.identity if self.digest is None else self.identity.replace(self.digest, self.digest[:SHORT])
        )

    @property
    def identity(self) -> str:
        """The slug with the whole digest: equal if and only if the requests are equal."""
        if self.indexes is not None:
            return f"indexes-{self.digest}"
        name = "any" if ANY_CLASS in self.classes else self._classes
        if self.digest is not None:
            name = f"classes{len(self.classes)}-{self.digest}"
        return name if self.number is None else f"{name}-{self.number}"

    @property
    def digest(self) -> str | None:
        """SHA-256 of the indexes, or of the classes if they are too long for a slug; else None."""
        self._check_resolved()
        numbers = self.numbers if self.indexes is None else self.indexes
        if self.indexes is None and len(self._classes) <= LONGEST:
            return None
        return hashlib.sha256(repr(numbers).encode()).hexdigest()

    @property
    def _classes(self) -> str:
        return "class" + "+".join(map(str, self.numbers))

    def flags(self) -> Flags:
        """Return the command line's flags for this request."""
        if self.indexes is not None and self.choice is None:
            return {"forget_indexes": [self.file or "FILE"]}
        flags: Flags = {}
        # Without a class, a choice is among all images, and any other request is of class 0.
        if self.classes != (() if self.choice is not None else (0,)):
            flags["class_to_replace"] = list(self.spelled or map(str, self.classes))
        if self.number is not None:
            flags["num_indexes_to_replace"] = [str(self.number)]
        return flags | (self.choice.flags() if self.choice is not None else {})

    def choice_params(self) -> dict[str, str]:
        """Return the flags of the choice as params of a run; none for a request without."""
        return {} if self.choice is None else self.choice.params()

    @property
    def by_score(self) -> bool:
        """Whether the images are at an end of a score, and not only of a class, an attribute or a list."""
        return self.choice is not None and self.choice.end is not None

    def resolved(self, splits: Splits, scores: Scores | None = None) -> ForgetRequest:
        """Return the request with classes as numbers and, where a choice was asked for, with its images.

        scores: returns the memorisation of each image, in the order of `splits.train`. Raises ValueError for
        names of no class, column, subclass or value, and for more images than there are.
        """
        request = self.of_classes(splits.class_names)
        if request.choice is None or request.indexes is not None:
            return request
        train = splits.train
        candidates = request.choice.among(splits)
        if request.classes:
            candidates &= request._of_its_classes(train, splits.classes)
        if not bool(candidates.any()):
            _, _, asked = request.in_words(2, splits.class_names).partition("images ")
            raise FlagError(
                next(iter(request.choice.flags())),
                f"expected training images {asked}, got none. Ask for less at once",
            )
        rows = request._some_of(train, candidates, splits.split_seed, scores)
        return replace(request, indexes=tuple(train.indexes[rows].tolist()))

    def _some_of(self, train: ImageSet, candidates: Tensor, split_seed: int, scores: Scores | None) -> Tensor:
        """Return the positions of the images asked for among those with the attributes."""
        choice, rows = self.choice, candidates.nonzero().squeeze(1)
        if choice is None or choice.end is None:
            return rows if self.number is None else self._drawn(rows, split_seed)
        _check_enough(f"forget_{choice.end}", choice.number or 0, len(rows))
        return choice.at_the_end(train, rows, scores)

    def divide(self, train: ImageSet, classes: int, split_seed: int) -> Division:
        """Divide the training images into the forget and the retain set, both in the order of `train`.

        Raises ValueError for an unknown class, more images than there are, an index that is no training
        image's, and an empty forget or retain set.
        """
        forget = self._chosen(train, classes, split_seed)
        if not bool(forget.any()):
            raise ValueError("the forget request takes no training image: expected at least one. Name others")
        if bool(forget.all()):
            raise ValueError(
                "the forget request takes every training image and leaves nothing to retain. Ask for fewer"
            )
        return Division(train.subset(forget), train.subset(~forget))

    def _chosen(self, train: ImageSet, classes: int, split_seed: int) -> Tensor:
        self._check_resolved()
        if self.indexes is not None:
            return self._listed(train, self.indexes)
        wanted = self._of_its_classes(train, classes)
        if self.number is None:
            return wanted
        chosen = torch.zeros_like(wanted)
        chosen[self._drawn(wanted.nonzero().squeeze(1), split_seed)] = True
        return chosen

    def _of_its_classes(self, train: ImageSet, classes: int) -> Tensor:
        """Return a mask of the images of the classes. Raises ValueError for a class that does not exist."""
        for label in self.numbers:
            if label != ANY_CLASS and not 0 <= label < classes:
                raise FlagError(
                    "class_to_replace",
                    f"expected a class from 0 to {classes - 1}, got {label}. Name a class that exists",
                )
        if ANY_CLASS in self.classes:
            return torch.ones(len(train), dtype=torch.bool)
        return torch.isin(train.labels, torch.tensor(self.numbers))

    def _drawn(self, candidates: Tensor, split_seed: int) -> Tensor:
        """Draw the number of images from these positions."""
        number = self.number or 0
        _check_enough("num_indexes_to_replace", number, len(candidates))
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(split_seed))
        return candidates[order[:number]]

    def _check_resolved(self) -> None:
        if self.choice is not None and self.indexes is None:
            raise ValueError(
                f"expected images, got a choice of them by --{next(iter(self.choice.flags()))}. Call "
                "resolved(splits) with the splits of load_splits, which have the attributes"
            )

    @staticmethod
    def _listed(train: ImageSet, indexes: Sequence[int]) -> Tensor:
        there = set(train.indexes.tolist())
        strangers = [index for index in indexes if index not in there]
        if strangers:
            raise FlagError(
                "forget_indexes",
                f"expected indexes of training images, got {strangers[0]} and {len(strangers) - 1} more "
                "that are validation or test images or do not exist. Remove them from the list",
            )
        return torch.isin(train.indexes, torch.tensor(indexes, dtype=torch.int64))


@dataclass(frozen=True)
class Division:
    """The training images as a forget request divides them."""

    forget: ImageSet
    retain: ImageSet

    @cached_property
    def gone(self) -> tuple[int, ...]:
        """The classes that are forgotten whole: of which the retain set has no image."""
        return tuple(sorted(set(self.forget.classes) - set(self.retain.classes)))


def _check_enough(flag: str, number: int, available: int) -> None:
    if number > available:
        raise FlagError(flag, f"expected at most {available}, the training images asked about, got {number}")


def _class_of(word: str, names: Sequence[str]) -> int:
    """Return the number of the class of that name (in any case if only one matches), or the number itself."""
    exact = [number for number, name in enumerate(names) if name == word]
    alike = exact or [number for number, name in enumerate(names) if name.casefold() == word.casefold()]
    if len(alike) != 1:
        if re.fullmatch(r"-?\d{1,18}", word, re.ASCII):
            return int(word)
        raise FlagError(
            "class_to_replace",
            f"{did_you_mean('class', word, names, 'classes')}. Give a name, or a number from 0 on",
        )
    (found,) = alike
    if word.isdecimal() and int(word) != found and int(word) < len(names):
        warnings.warn(
            f"--class_to_replace {word}: this is the class called '{names[found]}', number {found} in the "
            f"order of the names; number {word} is called '{names[int(word)]}'",
            stacklevel=2,
        )
    return found


def _word_for(number: int, names: Sequence[str]) -> str:
    """Return the word that `_class_of` maps to this class: its number, unless that names another class."""
    is_free = str(number) not in names or not 0 <= number < len(names) or names[number] == str(number)
    return str(number) if is_free else names[number]


def read_indexes(file: str | Path) -> tuple[int, ...]:
    """Read indexes from a file, one per line; skip empty lines. Raises ValueError for any other line."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"--forget_indexes: expected a file with one index a line, and there is no file {path}"
        )
    indexes = []
    for number, line in enumerate(foreign_text(path, most=LIST, errors="backslashreplace").splitlines(), 1):
        word = line.strip()
        if not word:
            continue
        if not word.isdecimal() or len(word) > LONGEST_INDEX:
            shown = word if len(word) <= LONGEST else f"{word[:LONGEST]}... of {len(word)} characters"
            raise FlagError(
                "forget_indexes",
                f"expected an index >= 0 on line {number} of {path}, got {shown!r}. Correct the line",
            )
        indexes.append(int(word))
    if not indexes:
        raise FlagError(
            "forget_indexes", f"expected at least one index, and {path} has none. Add the indexes to forget"
        )
    if len(set(indexes)) < len(indexes):
        raise FlagError(
            "forget_indexes", f"expected each index once, and {path} repeats some. Remove the repetitions"
        )
    return tuple(sorted(indexes))
