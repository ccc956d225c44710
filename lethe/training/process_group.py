"""The processes that torchrun starts to train a model together."""

from __future__ import annotations

import datetime
import gc
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lethe.system.device import accelerator
from lethe.system.process_ended import ProcessEnded

# For a process that is slower: the first one saves and evaluates, and the others wait. One that has ended is
# noticed at once.
WAIT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class ProcessGroup:
    """A group of `size` processes; this one is number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process prints and saves."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in all processes."""
        if self.size == 1:
            return value
        values = [value]
        with _noticing_an_end():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            with _noticing_an_end():
                distributed.all_reduce(values)
        return values

    def all_gather(self, values: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, which have one shape, in their order."""
        if self.size == 1:
            return [values]
        every = [torch.empty_like(values) for _ in range(self.size)]
        with _noticing_an_end():
            distributed.all_gather(every, values)
        return every

    def share_weights(self, model: nn.Module) -> None:
        """Give all processes the weights and buffers that the model has in the first one."""
        if self.size == 1:
            return
        with _noticing_an_end():
            for value in model.state_dict().values():
                if isinstance(value, Tensor):
                    distributed.broadcast(value, src=0)

    def wait(self) -> None:
        if self.size > 1:
            with _noticing_an_end():
                distributed.barrier()

    def parallel(self, model: nn.Module, device: torch.device, *, unused: bool = False) -> nn.Module:
        """Wrap a model to average gradients over processes; `unused`: some parameters have none."""
        if self.size == 1:
            return model
        own = None if device.type == "cpu" else [device]
        return nn.parallel.DistributedDataParallel(model, device_ids=own, find_unused_parameters=unused)


ALONE = ProcessGroup()


@contextmanager
def _noticing_an_end() -> Iterator[None]:
    """Raise ProcessEnded for the error of a message that another process no longer takes part in."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessEnded(
            f"another process of torchrun has ended ({error}). Its own message says why"
        ) from error


def processes_started() -> int:
    """Return the number of processes that torchrun started, or 1. Raises ValueError for a bad WORLD_SIZE."""
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or int(size) < 1:
        raise ValueError(
            f"WORLD_SIZE: expected an integer >= 1, as torchrun sets it, got {size!r}. Start by torchrun, or "
            "unset it"
        )
    return int(size)


def current() -> ProcessGroup:
    """Return the process group that this process has joined."""
    if distributed.is_available() and distributed.is_initialized():
        return ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    return ALONE


@contextmanager
def joined(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun has started, if not done yet: with nccl on a GPU, gloo on a CPU.

    The group's threads end with it. Threads that outlive it may abort the process when Python exits.
    """
    if processes_started() == 1 or current().size > 1:
        yield current()
        return
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    # This module keeps the group of the moment of its import in its functions' defaults, for ever.
    # DistributedDataParallel imports it.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group(distributed.get_default_backend_for_device(device), timeout=WAIT)
    try:
        yield current()
    finally:
        distributed.destroy_process_group()
        gc.collect()  # a wrapped model in a reference cycle, such as an error's traceback, holds the group


def own_device(name: str) -> str:
    """Return this process's device: an accelerator of its own, by LOCAL_RANK, for `auto` and its name.

    Raises ValueError for one that several processes would share.
    """
    count = processes_started()
    kind, numbered, _ = name.partition(":")
    if count == 1 or kind == "cpu":
        return name
    if numbered:
        raise ValueError(
            f"--device: expected auto, {kind} or cpu for {count} processes, got {name!r}. Each takes "
            "a GPU of its own"
        )
    found = accelerator()
    if found is None or name not in ("auto", found.type):
        return name
    return f"{found.type}:{os.environ.get('LOCAL_RANK', '0')}"
