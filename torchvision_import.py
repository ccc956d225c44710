"""`import torchvision`, also beside a torch build that its wheel was not made for.

torchvision's wheels are compiled for one torch build. Beside another (a CPU-only torch, say) its compiled operators are
not loaded, and the import fails because it describes an operator, nms, that nobody has defined. Lethe uses its
datasets and its architectures, never an operator; declaring the two schemas is enough to get past that line.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept_alive: list[torch.library.Library] = []


def torchvision_module(name: str) -> ModuleType:
    """The module `torchvision.<name>`. Raises ImportError or RuntimeError as the import does, but for the missing operator."""
    try:
        return importlib.import_module(f"torchvision.{name}")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    for half_imported in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[half_imported]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _kept_alive.append(library)
    return importlib.import_module(f"torchvision.{name}")
