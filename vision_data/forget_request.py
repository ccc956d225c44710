"""What to forget: whole classes, a number of images, or a list of indexes."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vision_data.image_set import ImageSet

ANY_CLASS = -1
SHORT = 8  # letters of a digest in a slug
LONGEST = 100  # letters of a name: a file's may have 255 with all that comes beside it


@dataclass(frozen=True)
class ForgetRequest:
    """A forget request, as on the command line.

    | classes | number | indexes | forget set |
    |---|---|---|---|
    | (3,) | | | every training image of class 3 |
    | (3, 5) | | | every training image of the classes 3 and 5 |
    | (3,) | 450 | | 450 images of class 3, drawn by the split's seed |
    | (-1,) | 4500 | | 4500 images of any class |
    | | | (7, 12, ...) | exactly the images with these indexes in the original training set; `file` is where they stood |
    """

    classes: tuple[int, ...] = (0,)
    number: int | None = None
    indexes: tuple[int, ...] | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(sorted({int(label) for label in self.classes})))  # one request, one name
        if self.indexes is not None:
            object.__setattr__(self, "indexes", tuple(sorted({int(index) for index in self.indexes})))
        if self.indexes is not None:
            return
        if ANY_CLASS in self.classes and self.number is None:
            raise ValueError(
                "--class_to_replace -1 means any class and alone would forget everything. "
                "Say how many images with --num_indexes_to_replace, or name a class"
            )
        if ANY_CLASS in self.classes and len(self.classes) > 1:
            raise ValueError(f"--class_to_replace: expected -1 alone or classes, got {list(self.classes)}. Leave out -1 or the others")
        if self.number is not None and self.number < 1:
            raise ValueError(f"--num_indexes_to_replace: expected an integer >= 1, got {self.number}. Say how many images to forget")

    @property
    def slug(self) -> str:
        """A short name for files and runs: class3, class3-450, any-4500, indexes-1f2e3d4c; classes80-1f2e3d4c where it were too long."""
        return self.identity if self.digest is None else self.identity.replace(self.digest, self.digest[:SHORT])

    @property
    def identity(self) -> str:
        """The slug with a whole digest in it: equal if and only if the requests are. A slug's eight letters, two lists may share."""
        if self.indexes is not None:
            return f"indexes-{self.digest}"
        name = "any" if ANY_CLASS in self.classes else self._classes
        if self.digest is not None:
            name = f"classes{len(self.classes)}-{self.digest}"
        return name if self.number is None else f"{name}-{self.number}"

    @property
    def digest(self) -> str | None:
        """SHA-256 of the indexes, or of classes whose names together are too long; None where the slug says it all."""
        numbers = self.classes if self.indexes is None else self.indexes
        if self.indexes is None and len(self._classes) <= LONGEST:
            return None
        return hashlib.sha256(repr(numbers).encode()).hexdigest()

    @property
    def _classes(self) -> str:
        return "class" + "+".join(map(str, self.classes))

    def flags(self) -> list[str]:
        """The command line's flags for this request."""
        if self.indexes is not None:
            return [f"--forget_indexes {shlex.quote(self.file or 'FILE')}"]
        classes = [f"--class_to_replace {' '.join(map(str, self.classes))}"] if self.classes != (0,) else []
        return classes + ([f"--num_indexes_to_replace {self.number}"] if self.number is not None else [])

    def divide(self, train: ImageSet, classes: int, split_seed: int) -> tuple[ImageSet, ImageSet]:
        """The forget set and the retain set, both in the order of `train`.

        Raises ValueError for a class that does not exist, more images than there are, an index that is not a training
        image's, and a request that leaves nothing to retain.
        """
        forget = self._chosen(train, classes, split_seed)
        if not bool(forget.any()):
            raise ValueError("the forget request takes no training image: expected at least one. Name others")
        if bool(forget.all()):
            raise ValueError("the forget request takes every training image and leaves nothing to retain. Ask for fewer")
        return train.subset(forget), train.subset(~forget)

    def _chosen(self, train: ImageSet, classes: int, split_seed: int) -> torch.Tensor:
        if self.indexes is not None:
            return self._listed(train, self.indexes)
        for label in self.classes:
            if label != ANY_CLASS and not 0 <= label < classes:
                raise ValueError(f"--class_to_replace: expected a class from 0 to {classes - 1}, got {label}. Name a class that exists")
        wanted = (
            torch.ones(len(train), dtype=torch.bool) if ANY_CLASS in self.classes else torch.isin(train.labels, torch.tensor(self.classes))
        )
        if self.number is None:
            return wanted
        candidates = wanted.nonzero().squeeze(1)
        if self.number > len(candidates):
            raise ValueError(
                f"--num_indexes_to_replace: expected at most {len(candidates)}, the training images asked about, got {self.number}"
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
            raise ValueError(
                f"--forget_indexes: expected indexes of training images, got {strangers[0]} and {len(strangers) - 1} more "
                "that are validation or test images or do not exist. Remove them from the list"
            )
        return torch.isin(train.indexes, torch.tensor(indexes, dtype=torch.int64))


def read_indexes(file: str | Path) -> tuple[int, ...]:
    """The indexes in a file, one a line; empty lines are skipped. ValueError names the line that is no index."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"--forget_indexes: expected a file with one index a line, and there is no file {path}")
    indexes = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="backslashreplace").splitlines(), 1):
        if not line.strip():
            continue
        if not line.strip().isdecimal():
            raise ValueError(f"--forget_indexes: expected an index >= 0 on line {number} of {path}, got {line.strip()!r}. Correct the line")
        indexes.append(int(line))
    if not indexes:
        raise ValueError(f"--forget_indexes: expected at least one index, and {path} has none. Add the indexes to forget")
    if len(set(indexes)) < len(indexes):
        raise ValueError(f"--forget_indexes: expected each index once, and {path} repeats some. Remove the repetitions")
    return tuple(sorted(indexes))
