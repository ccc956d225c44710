"""The published files of MNIST, FashionMNIST and CIFAR, read pixel by pixel; files that are missing or
damaged.
"""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lethe.data import DATASETS, ForgetRequest, load_splits
from lethe.system.torchvision_import import torchvision_module
from tests.idx_format import idx

# The published files: MNIST and FashionMNIST

TRAIN_COUNT, TEST_COUNT = 30, 20


@pytest.fixture(params=["MNIST", "FashionMNIST"])
def grey(request, tmp_path):
    """Name, folder and content of a small set in MNIST's files."""
    random, raw_folder, content = np.random.default_rng(1), tmp_path / request.param / "raw", {}
    raw_folder.mkdir(parents=True)
    for part, count in (("train", TRAIN_COUNT), ("t10k", TEST_COUNT)):
        content[part] = (
            random.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            (np.arange(count) % 10).astype(np.uint8),
        )
        (raw_folder / f"{part}-images-idx3-ubyte").write_bytes(idx(content[part][0]))
        (raw_folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(content[part][1]))
    return request.param, tmp_path, content


@pytest.mark.parametrize(("part", "files"), [("train", "train"), ("test", "t10k")])
def test_grey_files_are_read_pixel_by_pixel(grey, part, files):
    name, folder, content = grey
    images, labels = getattr(DATASETS[name](folder), part)
    assert np.array_equal(images.numpy(), content[files][0][:, None]) and np.array_equal(
        labels.numpy(), content[files][1]
    )


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


def test_a_folder_in_a_files_place_is_named_with_what_is_in_it(grey):
    name, folder, _ = grey
    file = folder / name / "raw" / "train-images-idx3-ubyte"
    content = file.read_bytes()
    file.unlink()
    file.mkdir()
    (file / "train-images.idx3-ubyte").write_bytes(content)
    got = r"got a folder of that name with train-images\.idx3-ubyte in it"
    with pytest.raises(ValueError, match=rf"{got}\. Replace the folder by the file in it, and name that"):
        DATASETS[name](folder)


def test_files_one_folder_too_deep_are_named(grey):
    name, folder, _ = grey
    (folder / name / "raw").rename(folder / name / "unpacked")
    (folder / name / "raw").mkdir()
    (folder / name / "unpacked").rename(folder / name / "raw" / "archive")
    got = "got .*raw/archive/train-images-idx3-ubyte, one folder too deep"
    with pytest.raises(ValueError, match=rf"{got}\. Move the files of .*archive up"):
        DATASETS[name](folder)


def test_images_and_labels_of_different_numbers_are_refused(grey):
    name, folder, _ = grey
    (folder / name / "raw" / "train-labels-idx1-ubyte").write_bytes(
        idx(np.zeros(TRAIN_COUNT - 1, dtype=np.uint8))
    )
    with pytest.raises(ValueError, match="damaged"):
        DATASETS[name](folder)


# The published files: CIFAR-10


def write_cifar(folder, monkeypatch, *, per_file=4):
    """Small batches in CIFAR-10's layout (a pickle of rows R, G, B), their MD5s told to torchvision; the
    content by file name.
    """
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    random, content, md5 = np.random.default_rng(2), {}, {}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = random.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        labels = [(number * per_file + i) % 10 for i in range(per_file)]
        content[name] = rows, labels
        batch = {
            "batch_label": name,
            "labels": labels,
            "data": rows,
            "filenames": [f"{i}.png" for i in range(per_file)],
        }
        (base / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = [f"name{i}" for i in range(10)]
    (base / "batches.meta").write_bytes(
        pickle.dumps({"label_names": names, "num_cases_per_batch": per_file}, protocol=2)
    )
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in base.iterdir()}
    dataset = torchvision_module("datasets").CIFAR10
    monkeypatch.setattr(
        dataset, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)]
    )
    monkeypatch.setattr(dataset, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(
        dataset, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    )
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
    assert (
        np.array_equal(images.numpy().reshape(4, 3072), content["test_batch"][0])
        and labels.tolist() == content["test_batch"][1]
    )


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
    """400 + 200 images in CIFAR-100's layout (pickles with fine and coarse labels), their MD5s told to
    torchvision.
    """
    base = tmp_path / "cifar-100-python"
    base.mkdir()
    random, content = np.random.default_rng(3), {}
    for name, count in (("train", 400), ("test", 200)):
        rows, fine = random.integers(0, 256, (count, 3072), dtype=np.uint8), [i % 100 for i in range(count)]
        content[name] = rows, fine
        batch = {
            "batch_label": name,
            "fine_labels": fine,
            "coarse_labels": [label // 5 for label in fine],
            "data": rows,
        }
        (base / name).write_bytes(
            pickle.dumps(batch | {"filenames": [f"{i}.png" for i in range(count)]}, protocol=2)
        )
    names = {
        "fine_label_names": [f"fine{i}" for i in range(100)],
        "coarse_label_names": [f"coarse{i}" for i in range(20)],
    }
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


def test_cifar20_has_the_coarse_labels_and_the_fine_ones_as_subclasses(cifar100):
    folder, content = cifar100
    raw = DATASETS["CIFAR20"](folder)
    rows, fine = content["train"]
    assert np.array_equal(raw.train[0].numpy().reshape(len(rows), 3072), rows)
    assert raw.train[1].tolist() == [label // 5 for label in fine]
    assert raw.test[1].tolist() == [label // 5 for label in content["test"][1]]
    assert raw.class_names == tuple(f"coarse{i}" for i in range(20))
    request = ForgetRequest.chosen(subclass="fine7").resolved(load_splits("CIFAR20", folder))
    assert {fine[index] for index in request.indexes} == {7}


def test_a_cifar100_file_with_another_md5_is_not_unpickled(cifar100):
    folder, _ = cifar100
    (folder / "cifar-100-python" / "train").write_bytes(pickle.dumps(Touches(folder / "touched")))
    with pytest.raises(ValueError, match=r"CIFAR100: the files in .*cifar-100-python are damaged"):
        DATASETS["CIFAR100"](folder)
    assert not (folder / "touched").exists()


# Missing files and no network


IDX = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
EMNIST = "emnist-{0}-train-images-idx3-ubyte, .*, emnist-{0}-test-labels-idx1-ubyte"
FILES = [
    ("MNIST", IDX, "MNIST/raw"),
    ("FashionMNIST", IDX, "FashionMNIST/raw"),
    ("CIFAR10", "data_batch_1, .*, data_batch_5, test_batch, batches.meta", "cifar-10-batches-py"),
    ("CIFAR100", "train, test, meta", "cifar-100-python"),
    ("KMNIST", IDX, "KMNIST/raw"),
    ("EMNIST_letters", EMNIST.format("letters"), "EMNIST/raw"),
    ("EMNIST_balanced", EMNIST.format("balanced"), "EMNIST/raw"),
    ("USPS", "usps.bz2, usps.t.bz2", ""),
    ("SVHN", "train_32x32.mat, test_32x32.mat", ""),
    ("STL10", "train_X.bin, train_y.bin, unlabeled_X.bin, test_X.bin, test_y.bin", "stl10_binary"),
]


@pytest.mark.parametrize(("name", "files", "folder"), FILES)
def test_missing_files_are_named_with_their_folder(offline, tmp_path, name, files, folder):
    reason = rf"{name}: expected {files} in {tmp_path / folder}, and the download failed"
    with pytest.raises(FileNotFoundError, match=reason):
        DATASETS[name](tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "CIFAR20"])
def test_a_download_that_fails_leaves_no_folder_behind(offline, tmp_path, name):
    with pytest.raises(FileNotFoundError):
        DATASETS[name](tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "CIFAR20"])
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
