"""Splits, normalisation, batches, forget requests, and the published files read pixel by pixel."""

import hashlib
import pickle
import struct
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import torchvision_import
from torchvision_import import torchvision_module
from vision_data import DATASETS, ForgetRequest, ImageSet, Normalisation, RawDataset, load_splits, read_indexes, split
from vision_data.augmentation import Moves
from vision_data.splits import drawn_from_each_class

FEW = settings(deadline=None, max_examples=25)
ROOT = Path(__file__).parent.parent
PLAIN = Normalisation((0.0,), (1.0,), white=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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
        return torch.randint(0, 256, (len(labels), 3, 4, 4), dtype=torch.uint8, generator=generator(seed)), labels

    return RawDataset(part(counts, seed), None if test_counts is None else part(test_counts, seed + 1), tuple(map(str, range(len(counts)))))


@pytest.fixture(scope="module")
def digits():
    return load_splits("digits", "nowhere")


# Digits


def test_digits_are_scikit_learns_images(digits):
    parts = (digits.train, digits.validation, digits.test)
    everything = torch.cat([part.images for part in parts])[torch.cat([part.indexes for part in parts]).argsort()]
    assert np.array_equal(everything.squeeze(1).numpy(), load_digits().images)


def test_digits_are_scikit_learns_labels(digits):
    for part in (digits.train, digits.validation, digits.test):
        assert np.array_equal(part.labels.numpy(), load_digits().target[part.indexes.numpy()])


def test_digits_have_1797_images_of_8_by_8(digits):
    images, labels = DATASETS["digits"](Path("nowhere")).train
    assert (tuple(images.shape), images.dtype, tuple(labels.shape), labels.dtype) == ((1797, 1, 8, 8), torch.uint8, (1797,), torch.int64)


def test_digits_have_ten_classes(digits):
    assert (digits.classes, digits.class_names, digits.train.classes) == (10, tuple("0123456789"), tuple(range(10)))


def test_an_unknown_dataset_is_refused():
    with pytest.raises(ValueError, match=r"unknown dataset 'digit'\. Did you mean 'digits'\?"):
        load_splits("digit", "nowhere")


# Splits


def test_validation_is_a_tenth_of_each_class():
    parts = split(raw((10, 26, 44, 100), test_counts=(1, 1, 1, 1)), "made", 0)
    assert parts.validation.labels.bincount().tolist() == [1, 3, 4, 10]


def test_a_set_without_test_part_gives_a_fifth_of_each_class():
    parts = split(raw((10, 26, 44, 100)), "made", 0)
    assert parts.test.labels.bincount().tolist() == [2, 5, 9, 20]


def test_validation_is_a_tenth_of_what_the_test_part_leaves():
    parts = split(raw((10, 26, 44, 100)), "made", 0)
    assert parts.validation.labels.bincount().tolist() == [round(0.1 * n) for n in (8, 21, 35, 80)]


def test_the_sizes_of_digits(digits):
    counts = np.bincount(load_digits().target)
    test = sum(round(0.2 * n) for n in counts)
    validation = sum(round(0.1 * (n - round(0.2 * n))) for n in counts)
    assert (len(digits.test), len(digits.validation), len(digits.train)) == (test, validation, 1797 - test - validation)


@FEW
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.sampled_from([0.1, 0.2]), st.integers(0, 5))
def test_what_is_drawn_from_each_class_is_its_rounded_share(counts, share, seed):
    labels = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    drawn, _ = drawn_from_each_class(labels, torch.arange(len(labels)), share, generator(seed))
    assert labels[drawn].bincount(minlength=len(counts)).tolist() == [round(share * n) for n in counts]


@FEW
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.booleans(), st.integers(0, 5))
def test_the_parts_are_disjoint_and_together_everything(counts, published_test, seed):
    parts = split(raw(counts, test_counts=counts if published_test else None), "made", seed)
    mine = [parts.train, parts.validation] + ([] if published_test else [parts.test])
    assert sorted(torch.cat([part.indexes for part in mine]).tolist()) == list(range(sum(counts)))


def test_each_image_keeps_its_index():
    dataset = raw((20, 30))
    parts = split(dataset, "made", 0)
    for part in (parts.train, parts.validation, parts.test):
        assert torch.equal(part.images, dataset.train[0][part.indexes])


def test_a_published_test_part_is_left_as_it_is():
    dataset = raw((20, 30), test_counts=(3, 4))
    test = split(dataset, "made", 0).test
    assert torch.equal(test.images, dataset.test[0]) and test.indexes.tolist() == list(range(7))


def test_the_same_seed_gives_the_same_split(digits):
    assert load_splits("digits", "nowhere").digest == digits.digest


def test_another_seed_gives_another_split(digits):
    assert not torch.equal(load_splits("digits", "nowhere", 1).train.indexes, digits.train.indexes)


def test_the_split_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    split(raw((20, 30)), "made", 3)
    assert torch.equal(torch.get_rng_state(), before)


def changed(dataset, *, part=0, pixel=False, label=False):
    """The dataset with one pixel or one label of its train (0) or test (1) part changed."""
    images, labels = (tensor.clone() for tensor in (dataset.train, dataset.test)[part])
    if pixel:
        images[0, 0, 0, 0] ^= 1
    if label:
        labels[0] = 1 - labels[0]
    return replace(dataset, **{("train", "test")[part]: (images, labels)})


@pytest.mark.parametrize("change", [{"pixel": True}, {"label": True}, {"pixel": True, "part": 1}, {"label": True, "part": 1}])
def test_the_digest_changes_with_one_pixel_and_one_label(change):
    dataset = raw((20, 30), test_counts=(2, 2))
    assert split(changed(dataset, **change), "made", 0).digest != split(dataset, "made", 0).digest


def test_the_digest_changes_with_the_seed():
    dataset = raw((20, 30), test_counts=(2, 2))
    assert split(dataset, "made", 0).digest != split(dataset, "made", 1).digest


@FEW
@given(st.integers(0, 49))
def test_the_digest_of_a_set_changes_with_any_pixel(position):
    images = torch.zeros(50, dtype=torch.uint8)
    images[position] = 1
    plain = ImageSet(torch.zeros(2, 1, 5, 5, dtype=torch.uint8), torch.tensor([0, 1]), torch.arange(2), PLAIN)
    assert replace(plain, images=images.view(2, 1, 5, 5)).digest != plain.digest


def test_the_digest_of_a_set_changes_with_its_shape():
    flat = ImageSet(torch.zeros(1, 1, 2, 8, dtype=torch.uint8), torch.tensor([0]), torch.arange(1), PLAIN)
    assert replace(flat, images=flat.images.view(1, 1, 4, 4)).digest != flat.digest


# Normalisation


def test_normalisation_has_numpys_mean_and_deviation():
    images = raw((40,)).train[0]
    scaled = images.numpy().astype(np.float64) / 255
    normalisation = Normalisation.of(images, 255)
    assert normalisation.mean == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-12)
    assert normalisation.std == pytest.approx(scaled.std((0, 2, 3)), abs=1e-12)


def test_normalisation_of_digits_counts_to_16(digits):
    scaled = load_digits().images[digits.train.indexes.numpy()] / 16
    assert digits.train.normalisation.mean == pytest.approx([scaled.mean()], abs=1e-12)
    assert digits.train.normalisation.std == pytest.approx([scaled.std()], abs=1e-12)


def test_normalisation_by_hand():
    normalised = Normalisation((0.5, 0.0), (0.25, 2.0), white=4)(torch.tensor([4, 4], dtype=torch.uint8).view(1, 2, 1, 1))
    assert normalised.flatten().tolist() == [2.0, 0.5]


def test_a_normalised_training_set_has_mean_0_and_deviation_1():
    train = split(raw((200, 300)), "made", 0).train
    images = train.normalisation(train.images).double()
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert images.std((0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_all_parts_share_the_training_sets_normalisation(digits):
    assert digits.validation.normalisation == digits.test.normalisation == Normalisation.of(digits.train.images, 16)


def test_a_channel_of_one_value_is_not_divided_by_zero():
    images = torch.full((2, 1, 3, 3), 7, dtype=torch.uint8)
    assert Normalisation.of(images, 255)(images).abs().max() < 1e-6


# Image sets


def test_the_shape_of_an_image():
    assert split(raw((20,)), "made", 0).train.image_shape == (3, 4, 4)


def test_a_subset_by_mask_keeps_images_labels_and_indexes_together():
    part = numbered([0, 1, 2], indexes=[7, 8, 9]).subset(torch.tensor([True, False, True]))
    assert (part.images.flatten().tolist(), part.labels.tolist(), part.indexes.tolist()) == ([0, 2], [0, 2], [7, 9])


def test_of_classes_takes_these():
    assert numbered([0, 1, 2, 1]).of_classes(1, 2).indexes.tolist() == [1, 2, 3]


def test_without_classes_takes_the_others():
    assert numbered([0, 1, 2, 1]).without_classes(1, 2).indexes.tolist() == [0]


@FEW
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_joined_restores_the_set_however_it_was_divided(division, random):
    whole = numbered([i % 3 for i in range(len(division))], indexes=sorted(random.sample(range(100), len(division))))
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
    assert sizes[:-1] == [size] * (count // size - (count % size == 0)) and sizes[-1] == (count % size or size)


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
    first, second = ([y for x, _ in images.batches(50, generator=shared) for y in x.flatten().tolist()] for _ in range(2))
    assert first != second


def test_batches_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    list(split(raw((20,)), "made", 0).train.batches(4, generator=generator(), augment=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_augment_when_asked():
    images = ImageSet(torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), torch.zeros(6).long(), torch.arange(6), PLAIN)
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
    down, right = (torch.randint(2 * pad + 1, (count, 1), generator=source).flatten().tolist() for _ in range(2))
    mirrored = (torch.rand(count, 1, generator=source) < 0.5).flatten().tolist()
    result = []
    for i, image in enumerate(images.numpy()):
        crop = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))[:, down[i] : down[i] + height, right[i] : right[i] + width]
        result.append(crop[:, :, ::-1] if mirrored[i] else crop)
    return torch.from_numpy(np.stack(result))


@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (40, 1, 28, 28), (40, 1, 8, 8), (40, 2, 16, 24)])
def test_shifted_and_mirrored_is_pad_crop_flip(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
    assert torch.equal(shifted_and_mirrored(images, generator(5)), one_at_a_time(images, generator(5)))


def test_images_below_eight_pixels_are_only_mirrored():
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=generator())
    result = shifted_and_mirrored(images, generator())
    assert all(torch.equal(after, before) or torch.equal(after, before.flip(-1)) for before, after in zip(images, result, strict=True))


def test_about_half_of_the_images_are_mirrored():
    images = torch.tensor([[[[0, 1]]]], dtype=torch.uint8).expand(2000, 1, 1, 2)
    mirrored = int(shifted_and_mirrored(images, generator())[:, 0, 0, 0].sum())
    assert abs(mirrored - 1000) < 5 * (2000 / 4) ** 0.5


# Forget requests

LABELS = [0] * 4 + [1] * 6 + [2] * 10


def divided(request, labels=LABELS, classes=3, split_seed=0):
    return request.divide(numbered(labels), classes, split_seed)


def test_the_default_is_every_image_of_class_0():
    assert divided(ForgetRequest())[0].indexes.tolist() == [0, 1, 2, 3]


def test_a_class_is_every_image_of_it():
    assert divided(ForgetRequest((1,)))[0].indexes.tolist() == [4, 5, 6, 7, 8, 9]


def test_several_classes_are_every_image_of_each():
    assert divided(ForgetRequest((0, 2)))[0].indexes.tolist() == [*range(4), *range(10, 20)]


def test_a_number_is_that_many_of_the_class():
    assert divided(ForgetRequest((2,), 3))[0].labels.tolist() == [2, 2, 2]


def test_a_number_of_several_classes_is_drawn_from_them_together():
    forget, _ = divided(ForgetRequest((0, 1), 9))
    assert len(forget) == 9 and set(forget.classes) == {0, 1}


def test_a_number_of_any_class_is_that_many():
    forget, _ = divided(ForgetRequest((-1,), 15))
    assert len(forget) == 15 and len(forget.classes) > 1


def test_a_number_may_be_the_whole_class():
    assert len(divided(ForgetRequest((0,), 4))[0]) == 4


def test_listed_indexes_are_exactly_these_images():
    images = numbered([0, 1, 2, 0], indexes=[5, 11, 12, 40])
    forget, retain = ForgetRequest(indexes=(40, 11)).divide(images, 3, 0)
    assert (forget.indexes.tolist(), retain.indexes.tolist()) == ([11, 40], [5, 12])


@FEW
@given(
    st.sampled_from(
        [ForgetRequest((0,)), ForgetRequest((0, 1)), ForgetRequest((1,), 2), ForgetRequest((-1,), 7), ForgetRequest(indexes=(1, 19))]
    ),
    st.integers(0, 20),
)
def test_forget_and_retain_are_the_whole_set(request_, split_seed):
    forget, retain = divided(request_, split_seed=split_seed)
    assert forget.joined(retain).digest == numbered(LABELS).digest


@pytest.mark.parametrize("request_", [ForgetRequest((2,), 4), ForgetRequest((-1,), 4)])
def test_which_images_a_number_means_is_fixed_by_the_split_seed(request_):
    assert divided(request_, split_seed=3)[0].digest == divided(request_, split_seed=3)[0].digest


@pytest.mark.parametrize("request_", [ForgetRequest((2,), 4), ForgetRequest((-1,), 4)])
def test_another_split_seed_means_other_images(request_):
    assert len({divided(request_, split_seed=seed)[0].digest for seed in range(5)}) > 1


def test_a_larger_number_contains_the_smaller():
    few, many = (set(divided(ForgetRequest((2,), number))[0].indexes.tolist()) for number in (3, 7))
    assert few < many


def test_minus_one_alone_is_refused():
    with pytest.raises(ValueError, match="-1 means any class and alone would forget everything"):
        ForgetRequest((-1,))


def test_minus_one_beside_a_class_is_refused():
    with pytest.raises(ValueError, match=r"expected -1 alone or classes, got \[-1, 3\]"):
        ForgetRequest((-1, 3), 5)


@pytest.mark.parametrize("number", [0, -1, -450])
def test_a_number_below_1_is_refused(number):
    with pytest.raises(ValueError, match=f"--num_indexes_to_replace: expected an integer >= 1, got {number}"):
        ForgetRequest((0,), number)


@pytest.mark.parametrize("label", [3, 10, -2])
def test_a_class_that_does_not_exist_is_refused(label):
    with pytest.raises(ValueError, match=f"--class_to_replace: expected a class from 0 to 2, got {label}"):
        divided(ForgetRequest((label,)))


@pytest.mark.parametrize(("classes", "available"), [((0,), 4), ((0, 1), 10), ((-1,), 20)])
def test_more_images_than_there_are_is_refused(classes, available):
    with pytest.raises(ValueError, match=f"--num_indexes_to_replace: expected at most {available}, .*, got {available + 1}"):
        divided(ForgetRequest(classes, available + 1))


@pytest.mark.parametrize("request_", [ForgetRequest((0, 1, 2)), ForgetRequest((-1,), 20), ForgetRequest(indexes=tuple(range(20)))])
def test_a_request_that_takes_everything_is_refused(request_):
    with pytest.raises(ValueError, match="takes every training image and leaves nothing to retain"):
        divided(request_)


@pytest.mark.parametrize(
    "request_", [ForgetRequest(()), ForgetRequest(indexes=()), ForgetRequest((2,))], ids=["no class", "no index", "no image"]
)
def test_a_request_that_takes_nothing_is_refused(request_):
    with pytest.raises(ValueError, match="at least one"):
        divided(request_, labels=[0, 1, 0, 1])


def test_the_index_of_a_validation_image_is_refused(digits):
    stranger = digits.validation.indexes[0].item()
    with pytest.raises(ValueError, match=f"expected indexes of training images, got {stranger} and 0 more"):
        ForgetRequest(indexes=(digits.train.indexes[0].item(), stranger)).divide(digits.train, 10, 0)


@pytest.mark.parametrize("index", [1797, 10**30])
def test_an_index_that_does_not_exist_is_refused(digits, index):
    with pytest.raises(ValueError, match="--forget_indexes: expected indexes of training images"):
        ForgetRequest(indexes=(index,)).divide(digits.train, 10, 0)


@pytest.mark.parametrize(
    ("request_", "slug"),
    [
        (ForgetRequest(), "class0"),
        (ForgetRequest((3,)), "class3"),
        (ForgetRequest((3, 5)), "class3+5"),
        (ForgetRequest((3,), 450), "class3-450"),
        (ForgetRequest((-1,), 4500), "any-4500"),
        (ForgetRequest(indexes=(7, 12)), "indexes-" + hashlib.sha256(b"(7, 12)").hexdigest()[:8]),
    ],
)
def test_slug(request_, slug):
    assert request_.slug == slug


def test_many_classes_have_a_slug_that_a_file_can_be_called():
    classes = tuple(range(20, 100))
    hash8 = hashlib.sha256(repr(classes).encode()).hexdigest()[:8]
    assert ForgetRequest(classes).slug == f"classes80-{hash8}"
    assert ForgetRequest(classes, 450).slug == f"classes80-{hash8}-450"
    assert ForgetRequest(classes).slug != ForgetRequest(tuple(range(19, 99))).slug
    assert ForgetRequest(tuple(range(31))).slug == "class" + "+".join(map(str, range(31)))


def test_other_indexes_have_another_slug():
    assert ForgetRequest(indexes=(7, 12)).slug != ForgetRequest(indexes=(7, 13)).slug


@pytest.mark.parametrize(
    ("request_", "flags"),
    [
        (ForgetRequest(), []),
        (ForgetRequest((3,)), ["--class_to_replace 3"]),
        (ForgetRequest((3, 5)), ["--class_to_replace 3 5"]),
        (ForgetRequest((0,), 20), ["--num_indexes_to_replace 20"]),
        (ForgetRequest((-1,), 4500), ["--class_to_replace -1", "--num_indexes_to_replace 4500"]),
        (ForgetRequest(indexes=(7,), file="forget.txt"), ["--forget_indexes forget.txt"]),
    ],
)
def test_flags(request_, flags):
    assert request_.flags() == flags


# The file of indexes


def written(folder, text):
    file = folder / "forget.txt"
    file.write_text(text)
    return file


def test_indexes_are_read_one_a_line(tmp_path):
    assert read_indexes(written(tmp_path, "12\n\n  7 \n100")) == (7, 12, 100)


@FEW
@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_what_is_written_is_read_in_ascending_order(indexes):
    with tempfile.TemporaryDirectory() as folder:
        assert read_indexes(written(Path(folder), "\n".join(map(str, indexes)))) == tuple(sorted(indexes))


def test_a_missing_file_of_indexes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--forget_indexes: .* there is no file .*nowhere\.txt"):
        read_indexes(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("junk", ["seven", "-7", "7.0", "7,8", "²"])
def test_a_line_that_is_no_index_is_named(tmp_path, junk):
    with pytest.raises(ValueError, match=rf"expected an index >= 0 on line 3 of .*forget\.txt, got '{junk}'"):
        read_indexes(written(tmp_path, f"1\n\n{junk}\n2\n"))


def test_a_file_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "forget.txt"
    file.write_bytes(b"1\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"--forget_indexes: .*forget\.txt"):
        read_indexes(file)


def test_a_repeated_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected each index once"):
        read_indexes(written(tmp_path, "1\n2\n1\n"))


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_file_without_indexes_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="expected at least one index"):
        read_indexes(written(tmp_path, text))


# The published files: MNIST and FashionMNIST

TRAIN_COUNT, TEST_COUNT = 30, 20


def idx(array):
    """An array of bytes in the IDX format: 0, 0, 0x08 (unsigned bytes), the number of dimensions, each as a big-endian int."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture(params=["MNIST", "FashionMNIST"])
def grey(request, tmp_path):
    """Name, folder and content of a small set in MNIST's files."""
    random, raw_folder, content = np.random.default_rng(1), tmp_path / request.param / "raw", {}
    raw_folder.mkdir(parents=True)
    for part, count in (("train", TRAIN_COUNT), ("t10k", TEST_COUNT)):
        content[part] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8), (np.arange(count) % 10).astype(np.uint8)
        (raw_folder / f"{part}-images-idx3-ubyte").write_bytes(idx(content[part][0]))
        (raw_folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(content[part][1]))
    return request.param, tmp_path, content


@pytest.mark.parametrize(("part", "files"), [("train", "train"), ("test", "t10k")])
def test_grey_files_are_read_pixel_by_pixel(grey, part, files):
    name, folder, content = grey
    images, labels = getattr(DATASETS[name](folder), part)
    assert np.array_equal(images.numpy(), content[files][0][:, None]) and np.array_equal(labels.numpy(), content[files][1])


def test_grey_labels_are_int64(grey):
    name, folder, _ = grey
    assert DATASETS[name](folder).train[1].dtype == torch.int64


def test_grey_sets_have_ten_class_names(grey):
    name, folder, _ = grey
    assert len(load_splits(name, folder).class_names) == 10


@pytest.mark.parametrize("kept", [0, 2, 10, 500])
def test_a_truncated_grey_file_is_named_as_damaged(grey, kept):
    name, folder, _ = grey
    file = folder / name / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{name}: the files in .*raw are damaged"):
        DATASETS[name](folder)


def test_images_and_labels_of_different_numbers_are_refused(grey):
    name, folder, _ = grey
    (folder / name / "raw" / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(TRAIN_COUNT - 1, dtype=np.uint8)))
    with pytest.raises(ValueError, match="damaged"):
        DATASETS[name](folder)


# The published files: CIFAR-10


def write_cifar(folder, monkeypatch, *, per_file=4):
    """Small batches in CIFAR-10's layout (a pickle of rows R, G, B), their MD5s told to torchvision; the content by file name."""
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    random, content, md5 = np.random.default_rng(2), {}, {}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = random.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        labels = [(number * per_file + i) % 10 for i in range(per_file)]
        content[name] = rows, labels
        batch = {"batch_label": name, "labels": labels, "data": rows, "filenames": [f"{i}.png" for i in range(per_file)]}
        (base / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = [f"name{i}" for i in range(10)]
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": names, "num_cases_per_batch": per_file}, protocol=2))
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in base.iterdir()}
    dataset = torchvision_module("datasets").CIFAR10
    monkeypatch.setattr(dataset, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(dataset, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]})
    return content


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    return tmp_path, write_cifar(tmp_path, monkeypatch)


def test_cifars_training_files_are_read_pixel_by_pixel(cifar):
    folder, content = cifar
    images, labels = DATASETS["CIFAR10"](folder).train
    rows = np.concatenate([content[f"data_batch_{i}"][0] for i in range(1, 6)])
    assert np.array_equal(images.numpy().reshape(20, 3072), rows)
    assert labels.tolist() == [label for i in range(1, 6) for label in content[f"data_batch_{i}"][1]]


def test_cifars_test_file_is_read_pixel_by_pixel(cifar):
    folder, content = cifar
    images, labels = DATASETS["CIFAR10"](folder).test
    assert np.array_equal(images.numpy().reshape(4, 3072), content["test_batch"][0]) and labels.tolist() == content["test_batch"][1]


def test_cifars_images_are_3_by_32_by_32_bytes(cifar):
    images, _ = DATASETS["CIFAR10"](cifar[0]).train
    assert (tuple(images.shape[1:]), images.dtype, images.is_contiguous()) == ((3, 32, 32), torch.uint8, True)


def test_cifars_class_names_come_from_its_meta_file(cifar):
    assert DATASETS["CIFAR10"](cifar[0]).class_names == tuple(f"name{i}" for i in range(10))


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_cifar_file_with_another_md5_is_refused(cifar, file):
    folder, _ = cifar
    target = folder / "cifar-10-batches-py" / file
    target.write_bytes(target.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"CIFAR10: the files in .*cifar-10-batches-py are damaged"):
        DATASETS["CIFAR10"](folder)


@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_cifar_file_with_another_md5_is_not_unpickled(cifar, file):
    folder, _ = cifar
    (folder / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Touches(folder / "touched")))
    with pytest.raises(ValueError, match="damaged"):
        DATASETS["CIFAR10"](folder)
    assert not (folder / "touched").exists()


# The published files: CIFAR-100


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """400 + 200 images in CIFAR-100's layout (pickles with fine and coarse labels), their MD5s told to torchvision."""
    base = tmp_path / "cifar-100-python"
    base.mkdir()
    random, content = np.random.default_rng(3), {}
    for name, count in (("train", 400), ("test", 200)):
        rows, fine = random.integers(0, 256, (count, 3072), dtype=np.uint8), [i % 100 for i in range(count)]
        content[name] = rows, fine
        batch = {"batch_label": name, "fine_labels": fine, "coarse_labels": [label // 5 for label in fine], "data": rows}
        (base / name).write_bytes(pickle.dumps(batch | {"filenames": [f"{i}.png" for i in range(count)]}, protocol=2))
    names = {"fine_label_names": [f"fine{i}" for i in range(100)], "coarse_label_names": [f"coarse{i}" for i in range(20)]}
    (base / "meta").write_bytes(pickle.dumps(names, protocol=2))
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in base.iterdir()}
    dataset = torchvision_module("datasets").CIFAR100
    monkeypatch.setattr(dataset, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(dataset, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(dataset, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})
    return tmp_path, content


def test_cifar100_has_a_hundred_fine_classes_read_pixel_by_pixel(cifar100):
    folder, content = cifar100
    raw = DATASETS["cifar100"](folder)
    for part, name in ((raw.train, "train"), (raw.test, "test")):
        rows, fine = content[name]
        assert np.array_equal(part[0].numpy().reshape(len(rows), 3072), rows)
        assert part[1].tolist() == fine
    assert raw.class_names == tuple(f"fine{i}" for i in range(100))
    assert load_splits("CIFAR100", folder).classes == 100


def test_a_cifar100_file_with_another_md5_is_not_unpickled(cifar100):
    folder, _ = cifar100
    (folder / "cifar-100-python" / "train").write_bytes(pickle.dumps(Touches(folder / "touched")))
    with pytest.raises(ValueError, match=r"CIFAR100: the files in .*cifar-100-python are damaged"):
        DATASETS["CIFAR100"](folder)
    assert not (folder / "touched").exists()


# Missing files and no network


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


FILES = [
    ("MNIST", "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte", "MNIST/raw"),
    (
        "FashionMNIST",
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte",
        "FashionMNIST/raw",
    ),
    ("CIFAR10", "data_batch_1, .*, data_batch_5, test_batch, batches.meta", "cifar-10-batches-py"),
    ("CIFAR100", "train, test, meta", "cifar-100-python"),
]


@pytest.mark.parametrize(("name", "files", "folder"), FILES)
def test_missing_files_are_named_with_their_folder(offline, tmp_path, name, files, folder):
    with pytest.raises(FileNotFoundError, match=rf"{name}: expected {files} in {tmp_path}/{folder}, and the download failed"):
        DATASETS[name](tmp_path)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
def test_a_download_that_fails_leaves_no_folder_behind(offline, tmp_path, name):
    with pytest.raises(FileNotFoundError):
        DATASETS[name](tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
def test_a_download_that_fails_leaves_the_persons_folder_alone(offline, tmp_path, name):
    with pytest.raises(FileNotFoundError):
        DATASETS[name](tmp_path)
    assert tmp_path.exists() and list(tmp_path.iterdir()) == []


def test_only_the_files_that_are_missing_are_named(offline, grey):
    name, folder, _ = grey
    (folder / name / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: expected t10k-labels-idx1-ubyte in"):
        DATASETS[name](folder)


def test_a_download_that_fails_keeps_the_files_that_are_there(offline, grey):
    name, folder, _ = grey
    (folder / name / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError):
        DATASETS[name](folder)
    assert len(list((folder / name / "raw").iterdir())) == 3


# torchvision beside another torch


@pytest.fixture
def libraries(monkeypatch):
    """The names of the operator libraries defined while the test runs."""
    defined = []

    class Library:
        def __init__(self, name, kind):
            defined.append(name)

        def define(self, schema): ...

    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(torchvision_import, "_kept_alive", [])
    return defined


def test_torchvision_is_imported_in_a_fresh_process():
    script = "from torchvision_import import torchvision_module as m; print(m('datasets').MNIST.__name__, m('models').resnet18.__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("MNIST resnet18\n", 0), done.stderr


def test_vision_data_alone_does_not_import_torchvision():
    script = "import sys, vision_data; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_an_import_that_succeeds_is_left_alone(monkeypatch, libraries):
    module = ModuleType("torchvision.datasets")
    monkeypatch.setattr(torchvision_import.importlib, "import_module", lambda name: module)
    assert torchvision_module("datasets") is module and libraries == []


def test_an_import_that_lacks_the_operator_is_tried_again_with_it(monkeypatch, libraries):
    module, attempts = ModuleType("torchvision.datasets"), []

    def import_module(name):
        attempts.append(name)
        if len(attempts) == 1:
            raise RuntimeError("operator torchvision::nms does not exist")
        return module

    monkeypatch.setattr(torchvision_import.importlib, "import_module", import_module)
    monkeypatch.setattr(torchvision_import.sys, "modules", dict(sys.modules))
    assert torchvision_module("datasets") is module and libraries == ["torchvision"]


def test_an_import_that_fails_otherwise_fails(monkeypatch, libraries):
    def import_module(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(torchvision_import.importlib, "import_module", import_module)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_module("datasets")
