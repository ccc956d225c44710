"""Image sets: their parts, their batches and the orders of them, and augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lethe.data import ImageSet, Normalisation, split
from lethe.data.augmentation import Moves
from tests.hypothesis_settings import FEW
from tests.numbered_images import PLAIN, numbered, raw
from tests.seeded import generator

# Image sets


def test_the_shape_of_an_image():
    assert split(raw((20,)), "made", 0).train.image_shape == (3, 4, 4)


def test_a_subset_by_mask_keeps_images_labels_and_indexes_together():
    part = numbered([0, 1, 2], indexes=[7, 8, 9]).subset(torch.tensor([True, False, True]))
    assert (part.images.flatten().tolist(), part.labels.tolist(), part.indexes.tolist()) == (
        [0, 2],
        [0, 2],
        [7, 9],
    )


def test_of_classes_takes_these():
    assert numbered([0, 1, 2, 1]).of_classes(1, 2).indexes.tolist() == [1, 2, 3]


def test_without_classes_takes_the_others():
    assert numbered([0, 1, 2, 1]).without_classes(1, 2).indexes.tolist() == [0]


@FEW
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_joined_restores_the_set_however_it_was_divided(division, random):
    whole = numbered(
        [i % 3 for i in range(len(division))], indexes=sorted(random.sample(range(100), len(division)))
    )
    mask = torch.tensor(division)
    assert whole.subset(mask).joined(whole.subset(~mask)).digest == whole.digest


# Batches


def test_batches_without_a_generator_come_in_order():
    assert [y.tolist() for _, y in numbered([4, 3, 2, 1, 0]).batches(2)] == [[4, 3], [2, 1], [0]]


def test_batches_are_normalised_images():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    normalisation = Normalisation((0.5,), (0.25,), 255)
    (batch, _), *_ = ImageSet(images, torch.zeros(3).long(), torch.arange(3), normalisation).batches(3)
    assert batch.flatten().tolist() == pytest.approx([-2.0, (128 / 255 - 0.5) / 0.25, 2.0], abs=1e-6)


@FEW
@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 3))
def test_shuffled_batches_give_every_image_once(count, size, seed):
    batches = list(numbered([0] * count).batches(size, generator=generator(seed)))
    assert sorted(torch.cat([x for x, _ in batches]).flatten().tolist()) == list(range(count))


@FEW
@given(st.integers(1, 50), st.integers(1, 12))
def test_every_batch_is_full_but_the_last(count, size):
    sizes = [len(y) for _, y in numbered([0] * count).batches(size, generator=generator())]
    assert sizes[:-1] == [size] * (count // size - (count % size == 0)) and sizes[-1] == (
        count % size or size
    )


def order_of(images, seed):
    return torch.cat([x for x, _ in images.batches(8, generator=generator(seed))]).flatten().tolist()


def test_images_and_labels_stay_together_when_shuffled():
    for x, y in numbered(list(range(50))).batches(8, generator=generator()):
        assert x.flatten().tolist() == y.tolist()


def test_the_order_depends_on_the_generator_alone():
    images = numbered([0] * 50)
    first = order_of(images, 1)
    torch.rand(3)
    assert order_of(images, 1) == first


def test_another_seed_gives_another_order():
    images = numbered([0] * 50)
    assert order_of(images, 1) != order_of(images, 2)


def test_each_pass_over_the_same_generator_has_its_own_order():
    images, shared = numbered([0] * 50), generator()
    first, second = (
        [y for x, _ in images.batches(50, generator=shared) for y in x.flatten().tolist()] for _ in range(2)
    )
    assert first != second


def test_batches_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    list(split(raw((20,)), "made", 0).train.batches(4, generator=generator(), augment=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_augment_when_asked():
    images = ImageSet(
        torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8),
        torch.zeros(6).long(),
        torch.arange(6),
        PLAIN,
    )
    drawn = generator(3)
    order = torch.randperm(6, generator=drawn)
    expected = shifted_and_mirrored(images.images[order], drawn).float()
    ((batch, _),) = images.batches(6, generator=generator(3), augment=True)
    assert torch.equal(batch, expected)


# Augmentation


def shifted_and_mirrored(images, source):
    return Moves.drawn(len(images), images.shape[2], source)(images)


def one_at_a_time(images, source):
    """Pad each image with zeros, crop it, then flip it, with numpy."""
    count, _, height, width = images.shape
    pad = height // 8
    down, right = (
        torch.randint(2 * pad + 1, (count, 1), generator=source).flatten().tolist() for _ in range(2)
    )
    mirrored = (torch.rand(count, 1, generator=source) < 0.5).flatten().tolist()
    result = []
    for i, image in enumerate(images.numpy()):
        crop = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))[
            :, down[i] : down[i] + height, right[i] : right[i] + width
        ]
        result.append(crop[:, :, ::-1] if mirrored[i] else crop)
    return torch.from_numpy(np.stack(result))


@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (40, 1, 28, 28), (40, 1, 8, 8), (40, 2, 16, 24)])
def test_shifted_and_mirrored_is_pad_crop_flip(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
    assert torch.equal(shifted_and_mirrored(images, generator(5)), one_at_a_time(images, generator(5)))


def test_images_below_eight_pixels_are_only_mirrored():
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=generator())
    result = shifted_and_mirrored(images, generator())
    assert all(
        torch.equal(after, before) or torch.equal(after, before.flip(-1))
        for before, after in zip(images, result, strict=True)
    )


def test_about_half_of_the_images_are_mirrored():
    images = torch.tensor([[[[0, 1]]]], dtype=torch.uint8).expand(2000, 1, 1, 2)
    mirrored = int(shifted_and_mirrored(images, generator())[:, 0, 0, 0].sum())
    assert abs(mirrored - 1000) < 5 * (2000 / 4) ** 0.5
