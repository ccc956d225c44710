"""Which architecture images of no fixed form get where nobody names one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from foreign_files import IMAGE, read_foreign
from vision_data.encoded_image import EncodedImage, Header, header_of, pixels_of

SMALL = 32  # pixels a side


def arch_for(first: Path | None) -> str:
    """mlp for small grey images, going by the first of them, stored as RGB or not; else what trains in reasonable time on this machine.

    That is resnet18 on a GPU and cnn on a CPU, where resnet18 takes minutes for what cnn does in seconds.
    """
    if first is not None and _is_small_and_grey(EncodedImage(str(first), "", partial(read_foreign, first, most=IMAGE))):
        return "mlp"
    return "resnet18" if torch.cuda.is_available() else "cnn"


def _is_small_and_grey(image: EncodedImage) -> bool:
    header = header_of(image)
    if not isinstance(header, Header) or max(header.height, header.width) > SMALL:
        return False
    pixels = pixels_of(image, (3, header.height, header.width))
    return isinstance(pixels, np.ndarray) and bool((pixels == pixels[:1]).all())
