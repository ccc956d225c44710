"""Small sets in exactly the formats of the published files: IDX, libsvm in bzip2, MATLAB, raw bytes."""

import bz2
import functools
import gzip
import hashlib
import io
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.io
import torch

from lethe.data import DATASETS, load_splits
from lethe.system.torchvision_import import torchvision_module
from tests.idx_format import idx


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def random(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# KMNIST and EMNIST


def test_kmnist_is_read_pixel_by_pixel(tmp_path):
    (tmp_path / "KMNIST" / "raw").mkdir(parents=True)
    images, labels = random(30, 28, 28), (np.arange(30) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / "KMNIST" / "raw" / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / "KMNIST" / "raw" / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    raw = DATASETS["kmnist"](tmp_path)
    assert np.array_equal(raw.train[0].numpy(), images[:, None]) and np.array_equal(
        raw.test[1].numpy(), labels
    )
    assert raw.class_names == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def emnist(folder, kind, first, classes):
    """The files of one kind; upright images and labels from 0 on."""
    raw = folder / "EMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    upright, labels = random(2 * classes, 28, 28), (np.arange(2 * classes) % classes).astype(np.uint8)
    for part in ("train", "test"):
        (raw / f"emnist-{kind}-{part}-images-idx3-ubyte").write_bytes(idx(upright.transpose(0, 2, 1)))
        (raw / f"emnist-{kind}-{part}-labels-idx1-ubyte").write_bytes(idx(labels + np.uint8(first)))
    return upright, labels


@pytest.mark.parametrize(
    ("name", "kind", "first", "classes"),
    [
        ("EMNIST_letters", "letters", 1, 26),
        ("EMNIST-balanced", "balanced", 0, 47),
        ("emnist", "balanced", 0, 47),
    ],
)
def test_emnist_is_upright_and_counts_from_0(tmp_path, name, kind, first, classes):
    upright, labels = emnist(tmp_path, kind, first, classes)
    raw = DATASETS[name](tmp_path)
    assert np.array_equal(raw.train[0].numpy(), upright[:, None]) and np.array_equal(
        raw.test[1].numpy(), labels
    )
    assert len(raw.class_names) == classes == load_splits(name, tmp_path).classes


def test_the_names_of_emnists_classes(tmp_path):
    for kind, first, classes in (("letters", 1, 26), ("balanced", 0, 47)):
        emnist(tmp_path, kind, first, classes)
    letters, balanced = (
        DATASETS["EMNIST_letters"](tmp_path).class_names,
        DATASETS["EMNIST_balanced"](tmp_path).class_names,
    )
    assert (letters[0], letters[25], balanced[:11], balanced[36:]) == (
        "a",
        "z",
        (*"0123456789", "A"),
        tuple("abdefghnqrt"),
    )


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_emnists_download_is_a_zip_of_gzipped_files(tmp_path, monkeypatch):
    upright, labels = emnist(tmp_path / "source", "letters", 1, 26)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in (tmp_path / "source" / "EMNIST" / "raw").iterdir():
            archive.writestr(f"gzip/{file.name}.gz", gzip.compress(file.read_bytes()))
    (tmp_path / "gzip.zip").write_bytes(content.getvalue())
    theirs = torchvision_module("datasets").EMNIST
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(theirs, "url", f"http://127.0.0.1:{server.server_port}/gzip.zip")
        monkeypatch.setattr(theirs, "md5", md5(tmp_path / "gzip.zip"))
        raw = DATASETS["EMNIST_letters"](tmp_path / "data")
        server.shutdown()
    assert np.array_equal(raw.train[0].numpy(), upright[:, None]) and np.array_equal(
        raw.train[1].numpy(), labels
    )


# USPS


def libsvm(images, labels):
    """Lines `label 1:value ... 256:value`, labels from 1 on, values from -1 to 1, compressed."""
    values = images.reshape(len(images), 256) / 255 * 2 - 1
    lines = [
        f"{label + 1} " + " ".join(f"{i + 1}:{v:.6f}" for i, v in enumerate(row))
        for label, row in zip(labels, values, strict=True)
    ]
    return bz2.compress(("\n".join(lines) + "\n").encode())


@pytest.fixture
def usps(tmp_path):
    images, labels = random(20, 16, 16), np.arange(20) % 10
    (tmp_path / "usps.bz2").write_bytes(libsvm(images, labels))
    (tmp_path / "usps.t.bz2").write_bytes(libsvm(images[:10], labels[:10]))
    return tmp_path, images, labels


def test_usps_is_read_pixel_by_pixel(usps):
    folder, images, labels = usps
    raw = DATASETS["usps"](folder)
    assert tuple(raw.train[0].shape) == (20, 1, 16, 16) and raw.test[1].tolist() == list(range(10))
    assert (
        np.abs(raw.train[0].numpy()[:, 0].astype(int) - images).max() <= 1
        and raw.train[1].tolist() == labels.tolist()
    )


@pytest.mark.parametrize("kept", [0, 10, 300])
def test_a_truncated_usps_file_is_named_as_damaged(usps, kept):
    folder, *_ = usps
    (folder / "usps.bz2").write_bytes((folder / "usps.bz2").read_bytes()[:kept])
    with pytest.raises(ValueError, match="USPS: the files in .* are damaged"):
        DATASETS["USPS"](folder)


# SVHN


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """MATLAB files of images (32, 32, 3, N) and labels (N, 1) in which 10 stands for the digit 0, their MD5s
    told to torchvision.
    """
    images, labels = random(20, 32, 32, 3), np.arange(20) % 10
    split_list = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(
            file,
            {
                "X": images.transpose(1, 2, 3, 0),
                "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
            },
        )
        split_list[part] = ["unused", file.name, md5(file)]
    monkeypatch.setattr(
        torchvision_module("datasets").SVHN,
        "split_list",
        split_list | {"extra": ["unused", "extra_32x32.mat", ""]},
    )
    return tmp_path, images, labels


def test_svhn_is_read_pixel_by_pixel_and_ten_is_zero(svhn):
    folder, images, labels = svhn
    raw = DATASETS["svhn"](folder)
    assert np.array_equal(raw.train[0].numpy(), images.transpose(0, 3, 1, 2)) and raw.train[0].is_contiguous()
    assert raw.train[1].tolist() == labels.tolist() and raw.test[1].dtype == torch.int64


def test_an_svhn_file_with_another_md5_is_refused(svhn):
    folder, *_ = svhn
    file = folder / "test_32x32.mat"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match="SVHN: the files in .* are damaged"):
        DATASETS["SVHN"](folder)


# STL10


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """Raw bytes in columns (N, 3, width, height), labels from 1 on, their MD5s told to torchvision."""
    base = tmp_path / "stl10_binary"
    base.mkdir()
    images, labels = random(20, 3, 96, 96), (np.arange(20) % 10).astype(np.uint8)
    for part, count in (("train", 20), ("test", 10)):
        (base / f"{part}_X.bin").write_bytes(images[:count].transpose(0, 1, 3, 2).tobytes())
        (base / f"{part}_y.bin").write_bytes((labels[:count] + np.uint8(1)).tobytes())
    (base / "unlabeled_X.bin").write_bytes(images[:1].tobytes())
    theirs = torchvision_module("datasets").STL10
    monkeypatch.setattr(
        theirs,
        "train_list",
        [[name, md5(base / name)] for name in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")],
    )
    monkeypatch.setattr(
        theirs, "test_list", [[name, md5(base / name)] for name in ("test_X.bin", "test_y.bin")]
    )
    return tmp_path, images, labels


def test_stl10_is_read_pixel_by_pixel(stl10):
    folder, images, labels = stl10
    raw = DATASETS["stl10"](folder)
    assert np.array_equal(raw.train[0].numpy(), images) and raw.train[0].is_contiguous()
    assert raw.train[1].tolist() == labels.tolist() and len(raw.test[1]) == 10 and raw.class_names[2] == "car"


def test_an_stl10_file_with_another_md5_is_refused(stl10):
    folder, *_ = stl10
    (folder / "stl10_binary" / "test_y.bin").write_bytes(bytes(10))
    with pytest.raises(ValueError, match="STL10: the files in .*stl10_binary are damaged"):
        DATASETS["STL10"](folder)


# Missing files and no network


def test_only_the_file_that_is_missing_is_named(offline, svhn):
    folder, *_ = svhn
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match="SVHN: expected test_32x32.mat in"):
        DATASETS["SVHN"](folder)
