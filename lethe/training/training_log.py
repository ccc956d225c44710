"""The log of a training: which images each step held, and how it changed the weights.

A folder of safetensors files, each of some steps, and a last file that says whose log it is. Files are read
one by one: neither writing nor reading needs memory for more than one of them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.flag_error import FlagError
from lethe.training.checkpoints import model_digest
from lethe.training.storage import read_header, read_tensors, write_tensors

Update = tuple[Tensor, Tensor]  # the indexes (n,) of a step's images, and the change (weights,) that it made

KIND, END = "training log", "end.safetensors"
BLOCK = 2**26  # bytes of updates in a file, at least; a single update may have more
REMEDY = "Make room, or name another folder with --save_dir"
AGAIN = "Delete the folder and make it again"


class TrainingLog:
    """The log of one training, in `folder`.

    about: identifies the training, as JSON. `fit` writes it; `updates` reads it.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)
        self.written = 0  # steps in files
        self._steps: list[Update] = []
        self._bytes = 0  # of these steps

    def is_of(self, digest: str) -> bool:
        """Return whether the log is whole, and of the model with this digest."""
        try:
            header = read_header(self.folder / END)
        except (FileNotFoundError, ValueError):
            return False
        return bool(header.get("kind") == KIND and header.get("model") == digest)

    def begin(self, done: int) -> bool:
        """Keep the first `done` steps and delete the rest. Return whether those are there; else all go."""
        self._forget()
        (self.folder / END).unlink(missing_ok=True)
        starts = dict(self._files())
        at = 0
        while at < done and at in starts:
            try:
                tensors, header = read_tensors(starts[at])
            except ValueError:
                break
            steps = _lengths_in(tensors)
            if header.get("about") != self.about or steps is None:
                break
            at += len(steps)
        self.written = done if at == done else 0
        for first, path in starts.items():
            if first >= self.written:
                path.unlink()
        return at == done

    def add(self, indexes: Tensor, change: Tensor) -> None:
        """Add the next step."""
        step = indexes.cpu(), change.detach().cpu()
        self._steps.append(step)
        self._bytes += sum(tensor.numel() * tensor.element_size() for tensor in step)
        if self._bytes >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write the steps that are in memory. Raises ValueError if they can't be written."""
        if not self._steps:
            return
        indexes, changes = zip(*self._steps, strict=True)
        tensors = {
            "indexes": torch.cat(indexes),
            "lengths": torch.tensor([len(own) for own in indexes]),
            "changes": torch.stack(changes),
        }
        write_tensors(self._file(self.written), tensors, {"kind": KIND, "about": self.about})
        self.written += len(self._steps)
        self._forget()

    def end(self, digest: str) -> None:
        """Write the last steps, and that they made the model with this digest."""
        self.flush()
        header = {"kind": KIND, "about": self.about, "steps": self.written, "model": digest}
        write_tensors(self.folder / END, {"steps": torch.tensor(self.written)}, header)

    def updates(self, model: nn.Module) -> Iterator[Update]:
        """Return the steps in order. Raises FileNotFoundError without a log.

        The first one raises ValueError for the log of another model, any of them for a damaged file.
        """
        header = read_header(self.folder / END)
        return self._read(header, model)

    def _read(self, header: Mapping[str, Any], model: nn.Module) -> Iterator[Update]:
        if header.get("kind") != KIND or header.get("model") != model_digest(model):
            raise ValueError(
                f"{self.folder}: expected the training log of this model, got that of another. {AGAIN}"
            )
        weights = sum(p.numel() for p in model.parameters())
        at, steps, starts = 0, header.get("steps"), dict(self._files())
        while at != steps:
            if at not in starts:
                raise ValueError(f"{self.folder}: expected {steps} steps, got {at}. {AGAIN}")
            for update in self._block(starts[at], header.get("about"), weights):
                yield update
                at += 1

    def _block(self, path: Path, about: Any, weights: int) -> list[Update]:
        """Return the steps of a file. Raises ValueError for one that `flush` did not write for this log."""
        largest = 2 * max(BLOCK, 8 * weights) + 2**20
        if path.stat().st_size > largest:
            raise ValueError(f"{path}: expected at most {largest} bytes, got more. {AGAIN}")
        tensors, header = read_tensors(path)
        if header.get("kind") != KIND or header.get("about") != about:
            raise ValueError(f"{path}: expected a part of this training log, got another file. {AGAIN}")
        lengths, indexes, changes = _lengths_in(tensors), tensors.get("indexes"), tensors.get("changes")
        if lengths is None or indexes is None or changes is None:
            raise ValueError(f"{path}: expected lengths, indexes and changes, got {sorted(tensors)}. {AGAIN}")
        whole = indexes.dtype == torch.int64 and indexes.shape == (sum(lengths.tolist()),)
        fits = changes.shape == (len(lengths), weights) and changes.is_floating_point()
        if not whole or not fits or not changes.isfinite().all():
            raise ValueError(f"{path}: expected finite changes of {weights} weights a step. {AGAIN}")
        return list(zip(indexes.split(lengths.tolist()), changes, strict=True))

    def _forget(self) -> None:
        """Forget the steps in memory."""
        self._steps.clear()
        self._bytes = 0

    def _file(self, first: int) -> Path:
        return self.folder / f"{first:09}.safetensors"

    def _files(self) -> list[tuple[int, Path]]:
        found = sorted(self.folder.glob("*.safetensors"))
        return [(int(path.stem), path) for path in found if path.stem.isdecimal() and path.is_file()]


def _lengths_in(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the numbers of images (steps,) of a file's steps; None for a file without such."""
    lengths = tensors.get("lengths")
    if lengths is None or lengths.dtype != torch.int64 or lengths.dim() != 1 or not len(lengths):
        return None
    return lengths if bool((lengths > 0).all()) else None


def check_room(folder: Path, model: nn.Module, steps: int, batch: int, most: float) -> None:
    """Raise FlagError if the log of so many steps has more than `most` GB, or more than the disk has room.

    batch: images a step. What an interrupted training has written there counts as room.
    """
    of_weights = sum(p.numel() * p.element_size() for p in model.parameters())
    needed = steps * (of_weights + 8 * batch) / 1e9
    if needed > most:
        raise FlagError(
            "training_log",
            f"expected at least {math.ceil(100 * needed) / 100} GB, for {steps} updates of this model, got "
            f"{most:g}. Give as much, or a smaller --arch, fewer --epochs or a larger --train_batch_size",
        )
    there = next(place for place in (folder, *folder.parents) if place.exists())
    written = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free = (shutil.disk_usage(there).free + written) / 1e9
    if needed > free:
        raise FlagError("training_log", f"expected {needed:.2f} GB free in {there}, got {free:.2f}. {REMEDY}")


def flat_weights(model: nn.Module) -> Tensor:
    """Return a copy of all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])
