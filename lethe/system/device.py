"""The device that --device names."""

from __future__ import annotations

import torch

from lethe.flag_error import FlagError


def device_named(name: str) -> torch.device:
    """Return the device of that name; `auto` is the GPU if there is one.

    Raises ValueError for a device that is missing, or that has no float64.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.zeros(1, device=name)
        found.item()  # the device "meta" makes tensors without values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise FlagError(
            "device", f"expected auto, cpu or a device that is here, got {name!r} ({reason}). Use auto"
        ) from error
    try:
        return found.double().device
    except (RuntimeError, TypeError) as error:  # MPS, Apple's GPU
        raise FlagError(
            "device", f"expected a device with float64, which metrics and methods need, got {name!r}. Use cpu"
        ) from error
