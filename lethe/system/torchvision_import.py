"""Import torchvision, also with a torch build that its wheel was not compiled for.

With another build (a CPU-only torch, for instance) torchvision's compiled operators are not loaded, and the
import fails on the missing operator nms. Lethe uses its datasets and architectures, but no operator:
declaring two schemas is enough.
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
    """Import `torchvision.<name>`. Raises as the import does, except for a missing operator."""
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
