"""What to forget: whole classes, a number of images, or a list of indexes."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from lethe.data.image_set import ImageSet
from lethe.flag_error import FlagError
from lethe.flag_words import Flags
from lethe.nearest_name import did_you_mean
from lethe.system.foreign_files import LIST, foreign_text

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
    """

    classes: tuple[int | str, ...] = (0,)
    number: int | None = None
    indexes: tuple[int, ...] | None = None
    file: str | None = None
    # The classes as --class_to_replace takes them, set by `of_classes`.
    spelled: tuple[str, ...] = field(default=(), compare=False)

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
        if ANY_CLASS in self.classes and self.number is None:
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
        if self.indexes is not None or ANY_CLASS in self.classes:
            return images
        numbers = self.of_classes(names).numbers
        classes = [
            f"{label}" if names[label] == str(label) else f"{label} ({names[label]})" for label in numbers
        ]
        listed = " and ".join([", ".join(classes[:-1]), classes[-1]] if len(classes) > 1 else classes)
        whole = f"class{'es' if len(classes) > 1 else ''} {listed}"
        return whole if self.number is None else f"{images} of {whole}"

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
        numbers = self.numbers if self.indexes is None else self.indexes
        if self.indexes is None and len(self._classes) <= LONGEST:
            return None
        return hashlib.sha256(repr(numbers).encode()).hexdigest()

    @property
    def _classes(self) -> str:
        return "class" + "+".join(map(str, self.numbers))

    def flags(self) -> Flags:
        """Return the command line's flags for this request."""
        if self.indexes is not None:
            return {"forget_indexes": [self.file or "FILE"]}
        flags: Flags = {}
        if self.classes != (0,):
            flags["class_to_replace"] = list(self.spelled or map(str, self.classes))
        if self.number is not None:
            flags["num_indexes_to_replace"] = [str(self.number)]
        return flags

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

    def _chosen(self, train: ImageSet, classes: int, split_seed: int) -> torch.Tensor:
        if self.indexes is not None:
            return self._listed(train, self.indexes)
        for label in self.numbers:
            if label != ANY_CLASS and not 0 <= label < classes:
                raise FlagError(
                    "class_to_replace",
                    f"expected a class from 0 to {classes - 1}, got {label}. Name a class that exists",
                )
        wanted = (
            torch.ones(len(train), dtype=torch.bool)
            if ANY_CLASS in self.classes
            else torch.isin(train.labels, torch.tensor(self.numbers))
        )
        if self.number is None:
            return wanted
        candidates = wanted.nonzero().squeeze(1)
        if self.number > len(candidates):
            raise FlagError(
                "num_indexes_to_replace",
                f"expected at most {len(candidates)}, the training images asked about, got {self.number}",
            )
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(split_seed))
        chosen = torch.zeros_like(wanted)
        chosen[candidates[order[: self.number]]] = True
        return chosen

    @staticmethod
    def _listed(train: ImageSet, indexes: Sequence[int]) -> torch.Tensor:
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
