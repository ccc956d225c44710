"""torch's optimisers, without the import of its compiler.

The first step of an optimiser of torch's imports torch._dynamo, to tell the compiler to leave the optimiser
alone: a second or more, in every process that trains. These are the same classes with the methods as they
were before torch wrapped them for the compiler; their numbers are the same bits.
"""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])

WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _without_compiler(kind: Kind) -> Kind:
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    made: Kind = type(kind.__name__, (kind,), {"__module__": __name__, **methods})  # type: ignore[assignment]
    return made


SGD = _without_compiler(torch.optim.SGD)
Adam = _without_compiler(torch.optim.Adam)
AdamW = _without_compiler(torch.optim.AdamW)
