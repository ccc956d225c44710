"""Datasets of one's own: whatever form they are in, they give the same images, labels and indexes."""

import pickle
import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

import lethe
from lethe import ForgetData, ForgetRequest, ImageSet, Normalisation
from lethe.system.torchvision_import import torchvision_module

transforms, tv_tensors = torchvision_module("transforms"), torchvision_module("tv_tensors")
VisionDataset, FakeData = (
    torchvision_module("datasets").VisionDataset,
    torchvision_module("datasets").FakeData,
)

COUNT, CLASSES = 12, 3
BYTES = torch.arange(COUNT * 3 * 5 * 4, dtype=torch.int64).mul(7).remainder(251).byte().view(COUNT, 3, 5, 4)
LABELS = torch.arange(COUNT) % CLASSES
HALF = Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
LAST = BYTES.permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
PICTURES = [Image.fromarray(pixels) for pixels in LAST]
FLOATS = HALF(BYTES)


class Pictures(VisionDataset):
    """As torchvision's datasets are: Pillow images and integers, changed by transforms, and class names."""

    classes = ("cat", "dog", "frog")

    def __init__(self, transform=None, target_transform=None):
        super().__init__("", transform=transform, target_transform=target_transform)

    def __len__(self):
        return COUNT

    def __getitem__(self, position):
        image, label = PICTURES[position], int(LABELS[position])
        image = image if self.transform is None else self.transform(image)
        return image, label if self.target_transform is None else self.target_transform(label)


AS_THE_MODEL_TAKES_THEM = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))]
)


def rows(image="image", label="label", **more):
    features = datasets.Features(
        {image: datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog", "frog"])}
    )
    return datasets.Dataset.from_dict({image: PICTURES, label: LABELS.tolist()}, features=features)


def shuffled(dataset):
    return DataLoader(dataset, batch_size=5, shuffle=True)


OF_BYTES = {
    "tensors": (BYTES, LABELS),
    "arrays": (BYTES.numpy(), LABELS.numpy()),
    "channels last": (LAST, LABELS.numpy().astype(np.uint8)),
    "labels in a column": (LAST, LABELS.numpy()[:, None]),
    "labels in a list": (LAST, LABELS.tolist()),
    "read-only array": (np.frombuffer(LAST.tobytes(), np.uint8).reshape(LAST.shape), LABELS),
    "TensorDataset": TensorDataset(BYTES, LABELS),
    "pairs": list(zip(BYTES, LABELS.tolist(), strict=True)),
    "pairs of arrays": list(zip(LAST, LABELS.numpy(), strict=True)),
    "labels of one number": [(pixels, np.array([label])) for pixels, label in zip(LAST, LABELS, strict=True)],
    "images of torchvision": [(tv_tensors.Image(x), y) for x, y in zip(BYTES, LABELS, strict=True)],
    "Pillow": list(zip(PICTURES, LABELS.tolist(), strict=True)),
    "torchvision": Pictures(),
    "loader": shuffled(Pictures()),
    "loader that draws a few": DataLoader(Pictures(), sampler=RandomSampler(Pictures(), num_samples=5)),
    "Subset": Subset(Pictures(), range(COUNT)),
    "ConcatDataset": ConcatDataset([Subset(Pictures(), range(7)), Subset(Pictures(), range(7, COUNT))]),
    "Hugging Face": rows(),
    "other names": rows("img", "fine_label"),
    "torch format": rows().with_format("torch"),
    "numpy format": rows().with_format("numpy"),
    "dictionaries": [{"x": x, "target": y, "id": y} for x, y in zip(PICTURES, LABELS.tolist(), strict=True)],
}
OF_FLOATS = {
    "tensors": (FLOATS, LABELS),
    "arrays of float64": (FLOATS.numpy().astype(np.float64), LABELS.numpy()),
    "channels last": (FLOATS.permute(0, 2, 3, 1).numpy(), LABELS.numpy()),
    "torchvision": Pictures(AS_THE_MODEL_TAKES_THEM),
    "loader": shuffled(Pictures(AS_THE_MODEL_TAKES_THEM)),
    "with_transform": rows().with_transform(
        lambda some: {
            "pixel_values": [AS_THE_MODEL_TAKES_THEM(x) for x in some["image"]],
            "label": some["label"],
        }
    ),
}


@pytest.mark.parametrize("source", OF_BYTES.values(), ids=OF_BYTES.keys())
def test_bytes_come_out_as_they_are_whatever_the_form(source):
    images = ImageSet.of_dataset(source, HALF)

    assert torch.equal(images.images, BYTES)
    assert torch.equal(images.labels, LABELS)
    assert images.indexes.tolist() == list(range(COUNT))
    assert images.images.is_contiguous()


@pytest.mark.parametrize("source", OF_FLOATS.values(), ids=OF_FLOATS.keys())
def test_floats_are_what_the_model_takes(source):
    images = ImageSet.of_dataset(source)

    torch.testing.assert_close(next(images.batches(COUNT))[0], FLOATS)
    assert torch.equal(images.labels, LABELS)


@pytest.mark.parametrize(
    "source",
    [
        (BYTES[:, 0].numpy(), LABELS),
        (BYTES[:, 0], LABELS),
        (BYTES[:, :1].permute(0, 2, 3, 1).numpy(), LABELS),
        [(Image.fromarray(x.numpy()), int(y)) for x, y in zip(BYTES[:, 0], LABELS, strict=True)],
    ],
    ids=["array", "tensor", "channel last", "Pillow"],
)
def test_grey_images_have_one_channel(source):
    assert torch.equal(ImageSet.of_dataset(source, Normalisation((0.5,), (0.2,))).images, BYTES[:, :1])


def test_other_modes_of_pillow_become_rgb():
    palette = PICTURES[0].convert("P")

    images = ImageSet.of_dataset([(palette, 0)], HALF).images

    assert torch.equal(images[0], torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1))


def test_tensors_and_arrays_are_not_copied():
    for source in ((BYTES, LABELS), TensorDataset(BYTES, LABELS), (BYTES.numpy(), LABELS)):
        assert ImageSet.of_dataset(source, HALF).images.data_ptr() == BYTES.data_ptr()


FEW = {
    "list": [4, 7],
    "set": {4, 7},
    "range": range(4, 8, 3),
    "array": np.array([4, 7], dtype=np.int32),
    "tensor": torch.tensor([4, 7]),
    "numbers of NumPy": list(np.array([4, 7])),
    "mask": torch.arange(COUNT).eq(4) | torch.arange(COUNT).eq(7),
    "mask of NumPy": np.isin(np.arange(COUNT), [4, 7]),
    "list of bools": [position in (4, 7) for position in range(COUNT)],
    "request": ForgetRequest(indexes=(4, 7)),
}


@pytest.mark.parametrize("forget", FEW.values(), ids=FEW.keys())
def test_what_to_forget_is_positions_in_the_dataset_or_a_mask(forget):
    data = ForgetData.of_dataset(shuffled(Pictures()), forget, HALF)

    assert data.forget.indexes.tolist() == [4, 7]
    assert torch.equal(data.forget.images[:], BYTES[[4, 7]])
    assert len(data.retain) == COUNT - 2
    assert data.classes == CLASSES


@pytest.mark.parametrize(
    "source",
    [Pictures(), Subset(Pictures(), range(COUNT)), rows()],
    ids=["pictures", "a part of them", "rows of the hub"],
)
def test_a_class_is_forgotten_by_the_name_that_the_dataset_gives_it(source):
    data = ForgetData.of_dataset(source, ForgetRequest(("dog",)), HALF)

    assert data.forget_classes == (1,)
    assert len(data.forget) == 4


def test_classes_are_those_that_the_dataset_names_or_that_are_given():
    two = [position for position in range(COUNT) if LABELS[position] != 2]

    assert ForgetData.of_dataset(Subset(Pictures(), two), [0], HALF).classes == 3
    assert ForgetData.of_dataset((BYTES, LABELS), [0], HALF, classes=10).classes == 10
    parity = Pictures(target_transform=lambda label: label % 2)
    assert ForgetData.of_dataset(parity, [0], HALF).classes == 2


def test_forget_takes_a_dataset_and_leaves_the_model_alone():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 3))
    before = model[1].weight.clone()
    data = ForgetData.of_dataset(Pictures(AS_THE_MODEL_TAKES_THEM), [4, 7], seed=3)

    result = lethe.forget(model, data, "NegGrad", unlearn_epochs=1)

    assert isinstance(result, lethe.Unlearned)
    assert torch.equal(model[1].weight, before)
    assert not torch.equal(result.model[1].weight, before)
    with pytest.raises(ValueError, match=r"unknown method 'NegGrat'\. Did you mean 'NegGrad'"):
        lethe.forget(model, data, "NegGrat")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(OF_BYTES["pairs"])


def spoilt(value):
    broken = FLOATS.clone()
    broken[5, 0, 0, 0] = value
    return broken, LABELS


NOISE = transforms.Compose([transforms.ToTensor(), lambda pixels: pixels + torch.rand(())])
REFUSED = {
    "stream": (
        Stream(),
        "the dataset: expected one with a length and positions, .* got Stream. Read it into a list",
    ),
    "loader of a stream": (DataLoader(Stream()), "the dataset: expected one with a length and positions"),
    "generator": (iter(OF_BYTES["pairs"]), "the dataset: expected one with a length .* got list_iterator"),
    "split": (
        datasets.DatasetDict(train=rows(), test=rows()),
        "expected one split .* dictionary of train, test",
    ),
    "empty list": ([], "the dataset: expected at least one image, got none"),
    "empty arrays": ((LAST[:0], LABELS[:0]), "images: expected at least one, got none"),
    "images alone": (BYTES, r"item 0 of the dataset: expected a pair \(image, label\), got a Tensor"),
    "three": ([(BYTES[0], 0, 7)], r"item 0 .* expected a pair .* got a tuple of 3"),
    "later": ([(BYTES[0], 0), None], "item 1 .* expected a pair .* got a NoneType"),
    "no image": ([("cat.png", 0)], "image 0: expected an image as a tensor, .* got str"),
    "sizes": (
        [(BYTES[0], 0), (BYTES[1, :, :4], 1)],
        r"image 1: expected torch.uint8 \(3, 5, 4\) .* one size",
    ),
    "int pixels": (
        (LAST.astype(np.int64), LABELS),
        r'expected bytes .* got int64.*images\.astype\("uint8"\)',
    ),
    "int tensor": ((BYTES.long(), LABELS), r"expected bytes .* got torch.int64.* images\.to\(torch.uint8\)"),
    "which side": (
        (np.zeros((4, 3, 9, 3), np.uint8), [0, 1, 2, 0]),
        "images: .* the channels may be first or last",
    ),
    "no channels": (
        (np.zeros((2, 9, 9, 9), np.uint8), [0, 1]),
        "images: .* the channels may be first or last",
    ),
    "vectors": (
        (np.zeros((2, 9), np.uint8), [0, 1]),
        r"images: expected bytes \(N, C, H, W\).* got \(2, 9\)",
    ),
    "float labels": ((BYTES, LABELS.float()), "labels: expected integers, got torch.float32"),
    "float labels of arrays": ((LAST, LABELS.numpy() / 1), "labels: expected integers, got float64"),
    "float label": ([(BYTES[0], 1.0)], r"the label of image 0: expected an integer, got 1\.0"),
    "word": ([(BYTES[0], "cat")], "the label of image 0: expected an integer, got 'cat'. Number the classes"),
    "one-hot": ([(BYTES[0], torch.eye(3)[0])], r"label of image 0: expected an integer, got Tensor \(3,\)"),
    "negative": ([(BYTES[0], 0), (BYTES[1], -1)], "the label of image 1: expected a class from 0 on, got -1"),
    "negative array": ((BYTES, LABELS - 1), "labels: expected classes from 0 on, got -1"),
    "huge": ([(BYTES[0], 10**30)], "the label of image 0: expected a class from 0 on"),
    "lengths": ((BYTES, LABELS[:3]), r"labels: expected torch.int64 \(12,\), got torch.int64 \(3,\)"),
    "random": (
        Pictures(NOISE),
        "expected the same image and label at every reading, .* Leave out the random",
    ),
    "subset sampler": (
        DataLoader(Pictures(), sampler=SubsetRandomSampler([1])),
        r"SubsetRandomSampler of 1 of",
    ),
    "list of positions as sampler": (
        DataLoader(Pictures(), sampler=[0, 3, 5]),
        r"got a list of 3 of its 12 images\. Give torch\.utils\.data\.Subset\(dataset, indices\)",
    ),
    "subset sampler of batches": (
        DataLoader(Pictures(), batch_sampler=BatchSampler(SubsetRandomSampler([1]), 2, drop_last=False)),
        r"SubsetRandomSampler of 1 of",
    ),
    "collate": (
        DataLoader(Pictures(), collate_fn=lambda some: some),
        "expected one with torch's own collate_fn",
    ),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_dataset_of_images_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        ImageSet.of_dataset(source, HALF)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="images: expected finite numbers, got NaN or infinity in image 5"):
        ImageSet.of_dataset(spoilt(value))


def test_bytes_need_a_normalisation_with_a_number_a_channel():
    with pytest.raises(ValueError, match=r"or uint8 and a normalisation, got torch\.uint8 and None"):
        ImageSet.of_dataset(Pictures())
    with pytest.raises(ValueError, match="expected a mean of 1 or 3 numbers for images of 3 channels, got 2"):
        ImageSet.of_dataset(Pictures(), Normalisation((0.5, 0.5), (0.2, 0.2)))


@pytest.mark.parametrize(
    ("item", "columns", "message"),
    [
        (
            {"img": PICTURES[0], "fine": 1, "coarse": 0},
            None,
            "the labels fine, coarse among .* columns=.*img.*fine",
        ),
        (
            {"a": PICTURES[0], "b": PICTURES[0], "label": 0},
            None,
            "the images a, b and the labels label among",
        ),
        ({"text": "a cat", "label": 0}, None, "the images none and"),
        ({"img": PICTURES[0], "label": 0}, ("image", "label"), "unknown column 'image'"),
        ((PICTURES[0], 0), ("image", "label"), "columns: expected items with names"),
    ],
)
def test_columns_are_asked_for_where_several_may_be_meant(item, columns, message):
    with pytest.raises(ValueError, match=message):
        ImageSet.of_dataset([item], HALF, columns=columns)


def test_the_columns_that_are_named_are_taken():
    item = {"img": PICTURES[0], "fine_label": 2, "coarse_label": 1}

    assert ImageSet.of_dataset([item], HALF, columns=("img", "coarse_label")).labels.tolist() == [1]


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([12], "each once, got 12"),
        ([-1], "each once, got -1"),
        ([3, 4, 3], "each once, got 3 twice"),
        ([True, False], r"expected bool \(12,\).* got torch.bool \(2,\)"),
        (np.zeros(12, np.uint8), "got torch.uint8"),
        ([0.5], r"expected the positions of images, or a bool for each, got \[0\.5\]"),
        ("cat", "expected the positions of images, or a bool for each, got 'cat'"),
        (7, "expected the positions of images, or a bool for each, got 7"),
        ([], "the forget set: expected at least one image"),
    ],
)
def test_what_names_no_images_is_refused(forget, message):
    with pytest.raises(ValueError, match=message):
        ForgetData.of_dataset((BYTES, LABELS), forget, HALF)


def test_labels_that_leave_a_class_out_are_refused_unless_the_classes_are_given():
    from_one = LABELS + 1

    with pytest.raises(ValueError, match=r"got no image of class 0\. .* or give classes=4"):
        ForgetData.of_dataset((BYTES, from_one), [0], HALF)
    with pytest.raises(ValueError, match="classes: expected at least 4, .* got 3"):
        ForgetData.of_dataset((BYTES, from_one), [0], HALF, classes=3)
    assert ForgetData.of_dataset((BYTES, from_one), [0], HALF, classes=4).classes == 4


def test_images_that_do_not_fit_into_memory_are_refused_before_any_is_read(monkeypatch):
    monkeypatch.setattr("lethe.data.labelled_images.free_memory", lambda: 700)

    with pytest.raises(ValueError, match=re.escape("12 images (3, 5, 4) of torch.uint8: expected at most")):
        ImageSet.of_dataset(Pictures(), HALF)


def test_torchvisions_own_fake_data_is_read():
    dataset = FakeData(5, (3, 8, 8), 2, transforms.ToTensor())

    images = ImageSet.of_dataset(dataset)

    assert torch.equal(images.images[3], dataset[3][0])


FLAT = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (FLAT, Pictures(), "NegGrad"),
            "data: expected ForgetData, got Pictures. Make it: ForgetData.of_dataset",
        ),
        (
            ("NegGrad", FLAT, FLAT),
            r"method: expected a name, got Sequential\. Write lethe\.forget\(model, data",
        ),
        ((None, None, "NegGrad"), "expected a model, an nn.Module, got NoneType"),
    ],
    ids=["a dataset as data", "in another order", "nothing"],
)
def test_forget_says_what_goes_where(arguments, message):
    with pytest.raises(ValueError, match=message):
        lethe.forget(*arguments)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "SSD",
            {"dampenin": 1.0},
            "unknown flag of SSD 'dampenin'. Did you mean 'dampening'? Flags of SSD",
        ),
        ("SSD", {"dampening": "x"}, "dampening: expected a number > 0, got 'x'. Give e.g. "),
        ("MIMU", {"mask_layer": "fc1"}, "mask_layer: unknown layer 'fc1'. Linear layers: 1"),
    ],
    ids=["an unknown setting", "a value", "a layer"],
)
def test_forget_names_settings_as_python_does(method, settings, message):
    data = ForgetData.of_dataset((FLOATS, LABELS), [0])

    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as raised:
        lethe.forget(FLAT, data, method, **settings)
    assert "--" not in str(raised.value)


def test_measure_names_metrics_as_python_does():
    data = ForgetData.of_dataset((FLOATS, LABELS), [0])

    with pytest.raises(ValueError, match=r"^metrics: unknown metric 'mai'\. Did you mean 'mia'"):
        lethe.measure(FLAT, {"initial": FLAT}, data, data.retain, metrics=["mai"])


def test_data_goes_to_another_process():
    data = ForgetData.of_dataset((FLOATS, LABELS), [4, 7], seed=3)

    copy = pickle.loads(pickle.dumps(data))

    assert torch.equal(copy.forget.images[:], data.forget.images[:])
    assert copy.retain.indexes.tolist() == data.retain.indexes.tolist()
    assert (copy.seed, copy.classes) == (3, CLASSES)


def test_data_are_shown_in_a_line():
    data = ForgetData.of_dataset((FLOATS, LABELS), [4, 7])

    assert repr(data) == "<ForgetData: 2 images to forget, 10 to retain, 3 classes, on cpu>"
    assert repr(data.forget) == "<ImageSet: 2 images of 3 x 5 x 4>"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base_models": FLAT}, r"base_models: expected the initial model by name, got Sequential\. Write"),
        ({"base_models": {"ideal": FLAT}}, "base_models: expected the initial model by name, got ideal"),
        (
            {"base_models": {"initial": FLAT, "idael": FLAT}},
            "unknown base model 'idael'. Did you mean 'ideal'",
        ),
        (
            {"test": Pictures()},
            "the test set: expected an ImageSet, got Pictures. Make it: ImageSet.of_dataset",
        ),
        ({"metrics": ["forget_scroe"]}, "unknown metric 'forget_scroe'. Did you mean 'forget_score'"),
    ],
    ids=["a model", "no initial", "a wrong name", "a dataset", "a metric"],
)
def test_measure_says_what_goes_where(changed, message):
    given = {"base_models": {"initial": FLAT}, "test": ImageSet.of_dataset((FLOATS, LABELS))} | changed

    with pytest.raises(ValueError, match=message):
        lethe.measure(FLAT, data=ForgetData.of_dataset((FLOATS, LABELS), [1]), **given)


def test_metrics_may_be_named():
    data, test = ForgetData.of_dataset((FLOATS, LABELS), [1]), ImageSet.of_dataset((FLOATS, LABELS))

    found = lethe.measure(FLAT, {"initial": FLAT}, data, test, metrics=["forget_score", "test_score"])

    assert found.model.keys() == {"forget_score", "test_score"}


@pytest.mark.parametrize("classes", [3, "cat"])
def test_a_class_of_a_request_stands_in_a_tuple(classes):
    with pytest.raises(ValueError, match=re.escape(f"Write ForgetRequest(({classes!r},))")):
        ForgetRequest(classes)


def test_of_is_for_splits():
    with pytest.raises(
        ValueError, match=r"expected the splits of load_splits, got Pictures\. Use ForgetData"
    ):
        ForgetData.of(Pictures(), ForgetRequest((0,)))
