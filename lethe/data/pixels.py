"""An image, or many, as a tensor with the channels first: from torch, NumPy or Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lethe.data.encoded_image import grey_or_rgb

CHANNELS = (1, 3)  # by these, the channels of an array are told from its height and width


def is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def pixels_of(image: Any, what: str) -> Tensor:
    """Return one image as bytes (C, H, W), or as floats in the form that the model takes.

    image: a tensor, a NumPy array (C, H, W), (H, W, C) or (H, W), or Pillow's image. what: its name in
    errors. Raises ValueError for another type, and for an array whose channels can't be told.
    """
    if isinstance(image, Image.Image):
        return _of_pillow(image, what)
    if not is_array(image):
        raise ValueError(
            f"{what}: expected an image as a tensor, a NumPy array or a Pillow image, got "
            f"{type(image).__name__}. Convert it in the dataset"
        )
    return batch_of(image[None], what)[0]


def _of_pillow(image: Image.Image, what: str) -> Tensor:
    try:
        pixels = torch.from_numpy(np.array(grey_or_rgb(image)))
    except ValueError as error:
        raise ValueError(f"{what}: expected a grey or colour image, got {error}. Convert it") from error
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def batch_of(images: Tensor | np.ndarray, what: str) -> Tensor:
    """Return images as bytes (N, C, H, W), or as floats in the form that the model takes.

    Shares the memory of a tensor or an array where it can. An array of float64 becomes float32, torch's
    default; a tensor keeps its type. Raises ValueError as `pixels_of`.
    """
    pixels = _tensor_of(images, what)
    if pixels.dtype == torch.uint8 and pixels.ndim == 3:
        return pixels[:, None]
    if pixels.dtype == torch.uint8 and pixels.ndim != 4:
        raise ValueError(
            f"{what}: expected bytes (N, C, H, W), (N, H, W, C) or (N, H, W), got {tuple(pixels.shape)}. "
            "Give images in one of these shapes, or floats as the model takes them"
        )
    if pixels.ndim == 4 and _channels_are_last(pixels, isinstance(images, Tensor), what):
        return pixels.permute(0, 3, 1, 2).contiguous()
    return pixels


def _tensor_of(images: Tensor | np.ndarray, what: str) -> Tensor:
    if isinstance(images, np.ndarray):
        if images.dtype == np.float64:
            images = images.astype(np.float32)
        if images.dtype not in (np.uint8, np.float16, np.float32):
            raise ValueError(_no_pixels(what, str(images.dtype), 'images.astype("uint8")'))
        return shared(images)
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(_no_pixels(what, str(images.dtype), "images.to(torch.uint8)"))
    return images.detach().as_subclass(Tensor)  # torchvision's Image is a subclass


def _no_pixels(what: str, got: str, remedy: str) -> str:
    return (
        f"{what}: expected bytes (uint8), or floats as the model takes them, got {got}. If the values are "
        f"from 0 to 255, write {remedy}"
    )


def shared(array: np.ndarray) -> Tensor:
    """Return an array as a tensor that shares its memory; a copy of one that torch can't share."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _channels_are_last(pixels: Tensor, of_torch: bool, what: str) -> bool:
    """Return whether images (N, a, b, c) have the channels last.

    Floats of torch are what the model takes. Otherwise a side of 1 or 3 holds the channels. If both sides
    may, or none, torch's channels are first; those of an array are asked for.
    """
    of_bytes = pixels.dtype == torch.uint8
    if of_torch and not of_bytes:
        return False
    first, last = pixels.shape[1] in CHANNELS, pixels.shape[3] in CHANNELS
    if first != last or of_torch:
        return last and not first
    if not first and not of_bytes:
        return False
    raise ValueError(
        f"{what}: expected images (C, H, W) or (H, W, C) with 1 or 3 channels, got "
        f"{tuple(pixels.shape[1:])}, where the channels may be first or last. Give a torch tensor with the "
        "channels first"
    )
