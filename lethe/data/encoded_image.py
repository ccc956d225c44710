"""An encoded image (JPEG, PNG, ...): read its header, decode its pixels to a common size."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# No others: Pillow starts programs for some formats.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I")
# By EXIF's orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)
# Pillow raises these for malformed EXIF and the like.
BAD_FIELDS = (struct.error, TypeError, KeyError, OverflowError, AttributeError)
NO_IMAGE = (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError, EOFError)
NOT_AN_IMAGE = (*NO_IMAGE, *BAD_FIELDS)


@dataclass(frozen=True)
class EncodedImage:
    """An image file: its name in messages, class, reader, and the number of bytes already in memory."""

    name: str
    label: str
    read: Callable[[], bytes]
    held: int = 0


@dataclass(frozen=True)
class Header:
    """Height and width of an upright image, whether its mode is grey, and the digest of its file."""

    height: int
    width: int
    grey: bool
    digest: bytes


def header_of(image: EncodedImage) -> Header | str:
    """Return the header of an image, or a text that says why it can't be read."""
    try:
        content = image.read()
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
            if _orientation(opened) in QUARTER_TURNS:
                width, height = height, width
            return Header(height, width, opened.mode in GREY_MODES, hashlib.sha256(content).digest()[:16])
    except NOT_AN_IMAGE as error:
        return _reason(error)


def pixels_of(image: EncodedImage, shape: tuple[int, int, int]) -> np.ndarray | str:
    """Return the pixels (C, H, W) as uint8, or a text that says why they can't be decoded.

    Applies the EXIF orientation, converts palettes, CMYK and others to RGB and 16-bit grey to 8 bits, lays
    transparent images on white, and takes the first frame of several. An image of another size is resized
    (bilinear, antialiased) to cover `shape`, and its centre is cropped.
    """
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(image.read()), formats=FORMATS) as opened:
            if channels == 3 and opened.format == "JPEG":
                # libjpeg decodes a large photograph at 1/2, 1/4 or 1/8: faster.
                opened.draft("RGB", (2 * width, 2 * height))
            turn = TURNS.get(_orientation(opened))
            upright = opened if turn is None else opened.transpose(turn)
            flat = _without_transparency(_eight_bits(upright)).convert("L" if channels == 1 else "RGB")
        if flat.size != (width, height):
            flat = ImageOps.fit(flat, (width, height), Image.Resampling.BILINEAR)
    except NOT_AN_IMAGE as error:
        return _reason(error)
    return np.asarray(flat).reshape(height, width, channels).transpose(2, 0, 1)


def grey_or_rgb(image: Image.Image) -> Image.Image:
    """Return an image in mode L or RGB: converted as `pixels_of` does, but neither turned nor resized."""
    if image.mode in ("L", "RGB"):
        return image
    return _without_transparency(_eight_bits(image)).convert("L" if image.mode in GREY_MODES else "RGB")


def _orientation(opened: Image.Image) -> int:
    """Return EXIF's orientation; 1 (upright) if there is none, and for TIFF: Pillow rotates that itself."""
    if opened.format == "TIFF":
        return 1
    try:
        found = opened.getexif().get(ExifTags.Base.Orientation)
    except (ValueError, SyntaxError, *BAD_FIELDS):
        return 1
    return found if found in TURNS else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, as Pillow would clip it. Raises ValueError without a known white."""
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or not 0 <= pixels.min() <= pixels.max() <= 65535:
        raise ValueError(f"pixels of mode {image.mode}, which have no known white")
    return Image.fromarray(np.rint(pixels.astype(np.float64) / 257).astype(np.uint8))


def _without_transparency(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"no image of the formats {', '.join(FORMATS)}"
    return " ".join(str(error).split()) or type(error).__name__
