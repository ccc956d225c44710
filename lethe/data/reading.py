"""The flags that say how to read folders of your own and datasets of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lethe.data.split_names import NOTHING_ASKED, Asked
from lethe.registry import Entry

Duplicates = Literal["keep", "drop"]
Channels = Literal[1, 3]


@dataclass(frozen=True)
class Reading:
    """The settings of `reading`. channels: None counts the images' own; asked: the named splits."""

    channels: Channels | None = None
    duplicates: Duplicates = "keep"
    asked: Asked = NOTHING_ASKED


AS_THEY_ARE = Reading()


def reading(
    *,
    image_channels: Channels | None = None,
    duplicates: Duplicates = "keep",
    train_split: str | None = None,
    test_split: str | None = None,
) -> Reading:
    """Choose how images are read.

    Flags:
        image_channels: 1 reads every image as grey, 3 as RGB; by default 1 where all training images are
            grey, stored as RGB or not
        duplicates: drop leaves out every file that has two classes, and all but the first copy of a file
        train_split: the split (or folder) for training, if its name does not say so
        test_split: the split (or folder) for the test
    """
    return Reading(image_channels, duplicates, Asked(train_split, test_split))


FLAGS: Entry[None] = Entry("of folder:PATH and hf:NAME", reading, (), None)
