"""Image sets, datasets and forget requests of tiny images."""

import torch

from lethe.data import ImageSet, Normalisation, RawDataset
from lethe.unlearn import ForgetData
from tests.seeded import generator

PLAIN = Normalisation((0.0,), (1.0,), white=1)


def numbered(labels, indexes=None):
    """An image set of 1 x 1 images; image i is the single pixel i."""
    count = len(labels)
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    where = torch.arange(count) if indexes is None else torch.tensor(indexes)
    return ImageSet(images, torch.tensor(labels), where, PLAIN)


def raw(counts, *, test_counts=None, seed=0):
    """Random 3 x 4 x 4 images, counts[c] of class c."""

    def part(numbers, seed):
        labels = torch.tensor([c for c, n in enumerate(numbers) for _ in range(n)])
        return torch.randint(
            0, 256, (len(labels), 3, 4, 4), dtype=torch.uint8, generator=generator(seed)
        ), labels

    return RawDataset(
        part(counts, seed),
        None if test_counts is None else part(test_counts, seed + 1),
        tuple(map(str, range(len(counts)))),
    )


def noise_data(forget, size, classes):
    """Random 1 x 2 x 2 images, the classes in turn, and the request for the images at positions `forget`."""
    labels = torch.arange(size) % classes
    pixels = torch.randint(0, 256, (size, 1, 2, 2), generator=generator(), dtype=torch.uint8)
    images = ImageSet(pixels, labels, torch.arange(size), Normalisation((0.5,), (0.25,)))
    chosen = torch.isin(torch.arange(size), torch.tensor(forget))
    return ForgetData(images.subset(chosen), images.subset(~chosen), images, classes)
