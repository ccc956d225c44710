"""Check the contract of a model: images (N, C, H, W) -> logits (N, classes), copyable and trainable."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.models.mask import uncompiled
from lethe.models.masked_layer import evaluating
from lethe.system.device import restored_random_state

ONE_IMAGE = "Expected more than 1 value per channel"  # torch's message on batch norm and a single image
SHOWN = 3  # names in one line
LETHES = Path(__file__).resolve().parent.parent


def check_logits(
    model: nn.Module,
    images: Tensor,
    classes: int,
    *,
    who: str,
    more: bool = False,
    remedy: str = "Correct it",
) -> None:
    """Raise ValueError if the model in eval mode doesn't return logits (N, classes), also for one image.

    The last batch may be a single image, on which a model that squeezes its output fails.

    who: the beginning of the message, as "--arch mine.py:net: expected an architecture"
    more: allow more outputs than classes
    remedy: the end of the message
    """
    model = uncompiled(model)
    with evaluating(model), torch.no_grad():
        for batch in (images, images[:1]):
            _check_output(
                _output(model, batch, who, remedy), len(batch), classes, who=who, more=more, remedy=remedy
            )


def check_copies(model: nn.Module, *, who: str) -> None:
    """Raise ValueError for a model that can't be copied and trained: scripted, or without weights.

    Call it after a forward pass without gradients: computed weights (pruning, weight_norm) can be copied only
    then.
    """
    model = uncompiled(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{who} in Python, got a scripted one, which can't be trained as a copy. Give the module that "
            "was scripted"
        )
    if not any(weight.is_floating_point() and weight.numel() for weight in model.parameters()):
        raise ValueError(f"{who} with weights that can be trained, got one without. Give another")
    try:
        copy.deepcopy(model)
    except (MemoryError, FloatingPointError):
        raise
    except Exception as error:  # the model's own code may raise anything
        raise ValueError(
            f"{who} that can be copied, got one that can't ({_reason(error)}). Leave such parts out of it"
        ) from error


def check_trains(model: nn.Module, images: Tensor, classes: int, *, who: str) -> None:
    """Raise ValueError if a copy in train mode doesn't return logits, as with auxiliary outputs."""
    trial = copy.deepcopy(uncompiled(model)).train()
    with restored_random_state(images.device), torch.no_grad():
        output = _output(trial, images, f"{who} that can be trained", "Correct it")
    _check_output(
        output, len(images), classes, who=f"{who}, in train mode too, one", more=False, remedy="Correct it"
    )


def fails_on_one(model: nn.Module, image: Tensor) -> bool:
    """Return whether batch norm fails on a batch of this one image in train mode, tried on a copy."""
    trial = copy.deepcopy(uncompiled(model)).train()
    with restored_random_state(image.device), torch.no_grad():
        try:
            trial(image.clone())
        except ValueError as error:
            if ONE_IMAGE not in str(error):
                raise
            return True
    return False


def _output(model: nn.Module, images: Tensor, who: str, remedy: str) -> Any:
    """Return the model's output for a copy of the images. Raises ValueError, with the reason, if it fails."""
    try:
        return model(images.clone())
    except (MemoryError, FloatingPointError):
        raise
    except Exception as error:  # the model's own code may raise anything
        kinds = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
        if kinds and images.is_floating_point() and kinds != {images.dtype}:
            weights = " and ".join(sorted(_short(kind) for kind in kinds))
            raise ValueError(
                f"{who} of the images' precision, got weights in {weights} and images in "
                f"{_short(images.dtype)}. Bring both to float32: model.float(), images.float()"
            ) from error
        raise ValueError(
            f"{who} for images of {_size(images)}, got one that fails ({_reason(error)}). {remedy}"
        ) from error


def _check_output(output: Any, count: int, classes: int, *, who: str, more: bool, remedy: str) -> None:
    wanted = f"({count}, {classes} or more)" if more else f"({count}, {classes})"
    begin = f"{who} whose output is logits {wanted} of {count} image{'s' if count > 1 else ''}, got"
    if not isinstance(output, Tensor):
        raise ValueError(f"{begin} {_kind(output)}. Return the logits alone")
    if not output.is_floating_point():
        raise ValueError(
            f"{begin} {_short(output.dtype)} {tuple(output.shape)}. Return the logits, as floats"
        )
    fits = (
        output.ndim == 2
        and len(output) == count
        and (output.shape[1] >= classes if more else output.shape[1] == classes)
    )
    if not fits:
        raise ValueError(f"{begin} {tuple(output.shape)}. {remedy}")


def _kind(output: Any) -> str:
    """Describe an output that is no tensor."""
    name = type(output).__name__
    if isinstance(output, Mapping):
        return f"{name} of {', '.join(map(repr, list(output)[:SHOWN]))}"
    if hasattr(output, "logits"):
        return f"{name} with .logits"
    return f"{name} of {len(output)}" if isinstance(output, (tuple, list)) else name


def _reason(error: Exception) -> str:
    """Describe an error, with the line of the user's own file."""
    words = " ".join(str(error).split())[:160]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_a_librarys(Path(frame.filename))]
    where = f", {Path(own[-1].filename).name} line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {words}{where}"


def _is_a_librarys(file: Path) -> bool:
    return "site-packages" in file.parts or "dist-packages" in file.parts or LETHES in file.resolve().parents


def _size(images: Tensor) -> str:
    if images.ndim != 4:
        return f"shape {tuple(images.shape[1:])}"
    channels, height, width = images.shape[1:]
    return f"{height} x {width} pixels and {channels} channel{'s' if channels > 1 else ''}"


def _short(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
