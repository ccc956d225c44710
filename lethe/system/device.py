"""Devices: the one that --device names, and what differs between the CPU and an accelerator.

An accelerator is whatever torch computes on beside the CPU: an NVIDIA or AMD GPU is `cuda`, Intel's `xpu`;
other makers' packages add theirs. Nothing else in Lethe asks which it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from lethe.flag_error import FlagError

CPU = torch.device("cpu")
WITHOUT_FLOAT64 = ("mps",)  # Apple's GPU. Of others only a tensor tells


def accelerator() -> torch.device | None:
    """Return the accelerator of this machine, or None. Does not start it."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None or found.type in WITHOUT_FLOAT64 else found


def device_named(name: str) -> torch.device:
    """Return the device that --device names; `auto` is the accelerator if there is one.

    Raises ValueError for a device that is missing, or that has no float64.
    """
    if name == "auto":
        return accelerator() or CPU
    try:
        return checked_device(name)
    except ValueError as error:
        raise FlagError("device", f"{error}, or auto") from error


def checked_device(name: torch.device | str) -> torch.device:
    """Return a device with its number. Raises ValueError if it is missing, or has no float64."""
    no_float64 = f"expected a device with float64, as metrics and methods need, got {str(name)!r}. Use cpu"
    if str(name).partition(":")[0] in WITHOUT_FLOAT64:
        raise ValueError(no_float64)
    try:
        found = torch.zeros(1, device=name)
        found.item()  # the device "meta" makes tensors without values
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"expected cpu or a device that is here, got {str(name)!r} ({reason}). Use cpu"
        ) from error
    try:
        return found.double().device
    except (RuntimeError, TypeError) as error:
        raise ValueError(no_float64) from error


def check_device_name(name: str) -> None:
    """Raise ValueError for a name that no machine has a device for that Lethe computes on."""
    try:
        kind = torch.device(CPU if name == "auto" else name).type
    except RuntimeError:
        kind = "none"
    if kind in ("none", "meta", *WITHOUT_FLOAT64):
        raise FlagError(
            "device",
            f"expected auto, cpu, cuda or another device of torch with float64, got {name!r}. Use auto",
        )


def has_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16; all CPUs do, and torch's module of the CPU does not say."""
    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return supported is None or bool(supported())


def synchronize(device: torch.device) -> None:
    """Wait for everything that was started on the device; a CPU has finished it already."""
    torch.get_device_module(device).synchronize(device)


@contextmanager
def restored_random_state(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore the global random state of the CPU and the device on exit.

    seed: set the state to it before. Dropout and new layers draw from this state: they take no generator.
    """
    with torch.random.fork_rng(devices=_beside_cpu(device), device_type=device.type):
        if seed is not None:
            seed_random_state(seed, device)
        yield


def seed_random_state(seed: int, device: torch.device) -> None:
    """Seed the global random state of the CPU and the device. `torch.manual_seed` seeds all devices."""
    torch.default_generator.manual_seed(seed % 2**63)
    for other in _beside_cpu(device):
        with torch.accelerator.device_index(other.index):
            torch.get_device_module(other).manual_seed(seed % 2**63)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the global random state: `random` of the CPU, and `random_cuda` or the like of the device."""
    found = {"random": torch.get_rng_state()}
    for other in _beside_cpu(device):
        found[f"random_{other.type}"] = torch.get_device_module(other).get_rng_state(other)
    return found


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set what `random_state` returned. The state of another kind of device is left out."""
    torch.set_rng_state(states["random"])
    for other in _beside_cpu(device):
        state = states.get(f"random_{other.type}")
        if state is not None:
            torch.get_device_module(other).set_rng_state(state, other)


def _beside_cpu(device: torch.device) -> list[torch.device]:
    return [] if device.type == "cpu" else [device]
