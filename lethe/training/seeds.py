"""Independent random streams from one seed, one per purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator whose stream depends on the seed and the purpose alone."""
    digest = hashlib.sha256(repr((seed, purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def restored_random_state(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore the global random state of the CPU and the device on exit.

    seed: set the state to it before. Dropout draws from this state: it takes no generator.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            seed_global_state(seed, device)
        yield


def seed_global_state(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed % 2**63)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed % 2**63)
