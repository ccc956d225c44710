"""Small image files for tests."""

import io

import numpy as np
from PIL import Image


def plain(colour, size=(8, 8), mode="RGB"):
    """A picture of one colour; size is (width, height)."""
    return Image.new(mode, size, colour)


def noise(seed, size=(8, 8)):
    """A picture of which no two seeds have the same."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def encoded(picture, kind="PNG", **settings):
    """The bytes of a picture's file."""
    content = io.BytesIO()
    picture.save(content, kind, **settings)
    return content.getvalue()


def write(file, picture, kind="PNG", **settings):
    """Write a picture to a file, whose folders are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(picture, kind, **settings))
    return file


def class_folders(root, counts, *, start=0, size=(8, 8)):
    """root/<class>/<number>.png, counts[class] of each, all different; returns the pixels (C, H, W) in the
    order of the files.
    """
    pixels = []
    for name in sorted(counts):
        for number in range(counts[name]):
            picture = noise(start + len(pixels), size)
            write(root / name / f"{number:03}.png", picture)
            pixels.append(np.asarray(picture).transpose(2, 0, 1))
    return np.stack(pixels)
