"""The processes that train a model together, as torchrun starts them: gradients are averaged by DistributedDataParallel."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

WAIT = datetime.timedelta(minutes=10)  # for a process that is slower: rank 0 saves, the others wait


@dataclass(frozen=True)
class ProcessGroup:
    """`size` processes, of which this is number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that prints and saves."""
        return self.rank == 0

    def agreed(self, value: Any) -> Any:
        """What the first process says, for all of them."""
        if self.size == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier()

    def together(self, model: nn.Module, device: torch.device, *, unused: bool = False) -> nn.Module:
        """The model, whose gradients are averaged over the processes in each backward pass; `unused`: some of its parameters have none."""
        if self.size == 1:
            return model
        own = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=own, find_unused_parameters=unused)


ALONE = ProcessGroup()


def processes_started() -> int:
    """How many processes torchrun has started; 1 without it. ValueError where its variables make no sense."""
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or int(size) < 1:
        raise ValueError(f"WORLD_SIZE: expected an integer >= 1, as torchrun sets it, got {size!r}. Start by torchrun, or unset it")
    return int(size)


def current() -> ProcessGroup:
    """The processes that have joined."""
    if distributed.is_available() and distributed.is_initialized():
        return ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    return ALONE


@contextmanager
def joined(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the other processes that torchrun has started, over nccl for a GPU and gloo otherwise; alone or joined already, do nothing."""
    if processes_started() == 1 or current().size > 1:
        yield current()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
    try:
        yield current()
    finally:
        distributed.destroy_process_group()


def own_device(name: str) -> str:
    """The device of this process: its own GPU where --device is auto or cuda. ValueError for one GPU named for several processes."""
    if processes_started() == 1 or name not in ("auto", "cuda"):
        if processes_started() > 1 and name.startswith("cuda:"):
            raise ValueError(
                f"--device: expected auto, cuda or cpu for {processes_started()} processes, got {name!r}. Each takes a GPU of its own"
            )
        return name
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else name
