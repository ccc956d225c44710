"""The architectures of torchvision and timm: `torchvision:NAME`, `timm:NAME`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from lethe.models.impl import ARCHITECTURES, ArchitectureFacts, ImageShape
from lethe.nearest_name import did_you_mean
from lethe.registry import Entry
from lethe.system.torchvision_import import torchvision_module

COLOURS = 3
CHOOSE = "Choose another --arch"
WITHOUT_TIMM = (
    "timm:NAME: expected the package timm, and it is not installed. Run: pip install -r requirements-timm.txt"
)

Maker = Callable[[ImageShape, int], nn.Module]


@ARCHITECTURES.family("torchvision")
def of_torchvision(name: str) -> Entry[ArchitectureFacts]:
    """torchvision's classifier of that name, untrained, for any number of channels and classes.

    Raises ValueError for an unknown name. Building it raises ValueError for images of an unsuitable size.
    """
    models = torchvision_module("models")
    name = _known(name, models.list_models(module=models), "torchvision")

    def make(image_shape: ImageShape, classes: int) -> nn.Module:
        size = list(image_shape[1:])
        options: dict[str, dict[str, Any]] = {
            "googlenet": {"aux_logits": False, "init_weights": True},
            "inception": {"aux_logits": False, "init_weights": True},
            "maxvit": {"input_size": tuple(size)},
            "vit": {"image_size": size[0]},
        }
        own = options.get(name.partition("_")[0], {})
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **own)
        if image_shape[0] != COLOURS:
            _take_channels(model, image_shape[0])
        return model

    return _entry(f"torchvision:{name}", make)


@ARCHITECTURES.family("timm")
def of_timm(name: str) -> Entry[ArchitectureFacts]:
    """timm's classifier of that name, untrained, for any number of channels and classes.

    Raises as `of_torchvision`, and without timm.
    """
    torchvision_module("models")  # timm imports torchvision
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ValueError(WITHOUT_TIMM) from error
    base, dot, tag = name.partition(".")
    name = _known(base, timm.list_models(), "timm") + dot + tag

    def make(image_shape: ImageShape, classes: int) -> nn.Module:
        about = timm.get_pretrained_cfg(name)
        size = {"img_size": image_shape[1:]} if about is not None and about.fixed_input_size else {}
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=image_shape[0], **size
        )
        return model

    return _entry(f"timm:{name}", make)


def _known(name: str, names: list[str], library: str) -> str:
    """Return the name in the library's spelling. Raises ValueError with similar names for an unknown one."""
    written = {each.casefold(): each for each in names}.get(name.casefold())
    if written is None:
        alike = [each for each in names if each.casefold().startswith(name.casefold()[:3])] if name else []
        raise ValueError(
            did_you_mean(
                f"architecture of {library}", name, names, f"architectures of {library} like it", alike[:20]
            )
        )
    return written


def _entry(name: str, make: Maker) -> Entry[ArchitectureFacts]:
    def published(image_shape: ImageShape, classes: int) -> nn.Module:
        """An architecture of another library, with random weights.

        AdamW at 1e-3 trains it unless --train_optimizer and --train_lr say otherwise. The masked layer is its
        last linear one.
        """
        try:
            return make(image_shape, classes)
        except (
            RuntimeError,
            ValueError,
            AssertionError,
            TypeError,
            IndexError,
            ZeroDivisionError,
        ) as error:  # each library's own way
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                f"--arch {name}: expected an architecture for {_size(image_shape)}, got one that fails "
                f"({reason}). {CHOOSE}"
            ) from error

    return Entry(
        name,
        published,
        (),
        ArchitectureFacts(optimizer="adamw", lr=1e-3, weight_decay=0.05, source=name.partition(":")[0]),
    )


def _size(image_shape: ImageShape) -> str:
    channels, height, width = image_shape
    return f"images of {height} x {width} pixels and {channels} channel{'s' if channels > 1 else ''}"


def _take_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by a new one with that many input channels."""
    name, first = next((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, own = name.rpartition(".")
    settings = {
        key: getattr(first, key)
        for key in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    setattr(
        model.get_submodule(parent),
        own,
        nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **settings),
    )
