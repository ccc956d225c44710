"""The default architecture of datasets of your own and of the hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from lethe.data.encoded_image import EncodedImage, Header, header_of, pixels_of
from lethe.system.device import accelerator
from lethe.system.foreign_files import IMAGE, read_foreign

SMALL = 32  # pixels a side


def arch_for(first: Path | None) -> str:
    """Return mlp if the first image is small and grey, else resnet18 on an accelerator and cnn on a CPU.

    Grey images may be stored as RGB. On a CPU resnet18 takes minutes for what cnn does in seconds.
    """
    if first is not None and _is_small_and_grey(
        EncodedImage(str(first), "", partial(read_foreign, first, most=IMAGE))
    ):
        return "mlp"
    return "cnn" if accelerator() is None else "resnet18"


def _is_small_and_grey(image: EncodedImage) -> bool:
    header = header_of(image)
    if not isinstance(header, Header) or max(header.height, header.width) > SMALL:
        return False
    pixels = pixels_of(image, (3, header.height, header.width))
    return isinstance(pixels, np.ndarray) and bool((pixels == pixels[:1]).all())
