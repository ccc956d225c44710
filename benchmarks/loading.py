"""Time a dataset: from its files to the device, and an epoch of batches from memory and from a file.

    python benchmarks/loading.py
    python benchmarks/loading.py --dataset MNIST --repeats 9

read      the published files to uint8 tensors (CIFAR10: their MD5s too)
split     train, validation and test, and the mean and deviation of train
device    every image to the device; nothing on a CPU, where they are already
digest    SHA-256 of every image, label and index: what says that a checkpoint is of this split
memory    an epoch of shuffled batches of 128, normalised, from memory
file      the same from a file, as it is read where memory is too small

Medians of `--repeats` in one process, the files in the system's cache from the second time on; processor
seconds are those of all threads, and say what a call costs on a machine that does other work too. The memory
is the growth of the process over all of it, peak and what stays, beside the bytes of the images.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

LOADING = ("read", "split", "device")


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one table, and write the same numbers with --json."""
    options = options_of(argv)

    from benchmarks.machine import describe, write_json

    found = measured(options)
    print(table(options, found), describe(), sep="\n")
    write_json(options.json, __file__, argv, **found)
    return 0


def options_of(argv: Sequence[str] | None) -> Namespace:
    parser = BenchmarkParser(__doc__)
    parser.add_argument(
        "--dataset", default="CIFAR10", help="name, or path/to/file.py:function (default: %(default)s)"
    )
    parser.add_place("data", "device")
    parser.add_number("repeats", 5, "counted calls of each")
    return parser.options(argv)


def measured(options: Namespace) -> dict[str, Any]:
    """Seconds of each part, wall and processor, and the bytes of the images and of the process."""
    import torch

    from lethe.data import DATASETS, ImageSet
    from lethe.data.image_file import ImageFile
    from lethe.data.impl import read
    from lethe.data.splits import split
    from lethe.system.device import device_named
    from lethe.system.torchvision_import import torchvision_module

    device, name = device_named(options.device), DATASETS[options.dataset].name
    torchvision_module("datasets")  # what Python imports is no loading of images
    torch.zeros(1, device=device)
    clock = Clock()
    before, images = resident_and_peak(), 0
    train: ImageSet | None = None
    for _ in range(options.repeats):
        train = None  # only one of them at a time
        raw = clock.timed("read", lambda: read(options.dataset, options.data))
        images = sum(part[0].shape.numel() for part in (raw.train, raw.test) if part is not None)
        splits = clock.timed("split", functools.partial(split, raw, name, 0))
        clock.timed("device", functools.partial(on_device, splits, device))
        train = splits.train
        del raw, splits
    after = resident_and_peak()
    if train is None or train.streamed:
        raise ValueError(
            f"--dataset: expected one that memory has room for, got {name}. Choose a smaller one"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.u8"
        train.images[:].numpy().tofile(file)
        in_file = replace(train, images=ImageFile(file, tuple(train.images.shape)))
        for _ in range(options.repeats):
            clock.timed("digest", lambda: replace(train).digest)
            clock.timed("memory", lambda: epoch(train, device))
            clock.timed("file", lambda: epoch(in_file, device))
    memory = {"images": images, "stays": after[0] - before[0], "peak": after[1] - before[1]}
    return {
        "dataset": name,
        "device": str(device),
        "repeats": options.repeats,
        "seconds": clock.medians(),
        "bytes": memory,
    }


class Clock:
    """Wall and processor seconds of calls, by part."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[float, float]]] = {}

    def timed(self, part: str, call: Callable[[], Any]) -> Any:
        """Return the call's result; waits for the GPU, if there is one."""
        from lethe.system.device import CPU, accelerator, synchronize

        wall, processor = time.perf_counter(), time.process_time()
        result = call()
        synchronize(accelerator() or CPU)
        self.calls.setdefault(part, []).append((time.perf_counter() - wall, time.process_time() - processor))
        return result

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            part: {"wall": median(w for w, _ in calls), "processor": median(p for _, p in calls)}
            for part, calls in self.calls.items()
        }


def on_device(splits: Any, device: Any) -> list[Any]:
    """Every part of the split there."""
    return [part.to(device) for part in (splits.train, splits.validation, splits.test)]


def epoch(images: Any, device: Any) -> None:
    """One pass over shuffled batches of 128."""
    import torch

    for _ in images.batches(128, generator=torch.Generator().manual_seed(0), device=device):
        pass


def resident_and_peak() -> tuple[int, int]:
    """Bytes of this process in memory: now, and at most so far."""
    import resource

    import psutil

    unit = 1 if sys.platform == "darwin" else 1024
    return psutil.Process().memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def table(options: Namespace, found: dict[str, Any]) -> str:
    """A line for each part, and the memory."""
    seconds, size = found["seconds"], found["bytes"]
    total = {clock: sum(seconds[part][clock] for part in LOADING) for clock in ("wall", "processor")}
    rows = [(part, seconds[part]) for part in LOADING] + [("files to device", total)]
    rows += [(part, seconds[part]) for part in ("digest", "memory", "file")]
    lines = [
        f"{found['dataset']}, {found['device']}, medians of {found['repeats']}",
        f"{'':15}  wall [s]  processor [s]",
    ]
    lines += [f"{name:15}  {clocks['wall']:8.3f}  {clocks['processor']:13.3f}" for name, clocks in rows]
    megabytes = ", ".join(f"{name} {count / 1e6:.1f} MB" for name, count in size.items())
    return "\n".join([*lines, f"memory: {megabytes}"])


if __name__ == "__main__":
    raise SystemExit(main())
