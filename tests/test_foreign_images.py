"""Datasets that somebody else made: nothing that is read is endless, lies elsewhere, or is of another format
than was promised.
"""

import io
import os
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import class_folders, encoded, noise

from lethe.data import DATASETS
from lethe.data.encoded_image import EncodedImage, header_of, pixels_of
from lethe.data.imagenet_folders import BoundedMember
from lethe.data.scanned import in_parallel
from lethe.data.torchvision_sets import IDX_FILES

TENCH = "n01440764"
POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"
)


@pytest.fixture
def own(tmp_path):
    """Two classes of two images."""
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    return tmp_path / "own"


def refused(own, match):
    with pytest.raises(ValueError, match=match):
        DATASETS[f"folder:{own}"](own.parent / "data")


# Formats


@pytest.mark.parametrize(
    "content", [POSTSCRIPT, b"GRIB" + bytes(100), b"BUFR" + bytes(100)], ids=["PostScript", "GRIB", "BUFR"]
)
def test_a_format_that_starts_a_program_is_no_image(content):
    image = EncodedImage("x.png", "a", lambda: content)

    assert header_of(image) == "no image of the formats JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM"
    assert pixels_of(image, (3, 8, 8)) == header_of(image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_every_promised_format_is_read(kind):
    assert header_of(EncodedImage("x", "a", lambda: encoded(noise(1), kind))).height == 8


# Folders


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda path: path.symlink_to("/dev/zero"),
            "expected a path inside .*own, got one that leads to /dev/zero",
        ),
        (os.mkfifo, "expected a regular file, got a named pipe"),
        (
            lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
            "expected a regular file, got a named pipe",
        ),
    ],
    ids=["a link to a device", "a pipe", "a link to a pipe"],
)
@pytest.mark.filterwarnings("ignore:.*no image by its ending")
def test_an_endless_file_is_named(own, make, says):
    make(own / "cat" / "x.png")

    refused(own, rf"1 of the images can't be read: .*x\.png \(.*x\.png: {says}")


def test_an_image_of_a_gigabyte_is_refused_by_its_size(own):
    with (own / "cat" / "x.png").open("wb") as file:
        file.truncate(10**9)

    refused(own, r"x\.png: expected at most 256 MB, got 1 GB")


@pytest.mark.parametrize("link", ["cat/x.png", "cat/more", "bird"])
def test_a_link_out_of_the_folder_is_refused_with_its_target(own, tmp_path, link):
    class_folders(tmp_path / "elsewhere", {"private": 1}, start=9)
    (image,) = (tmp_path / "elsewhere" / "private").iterdir()
    (own / link).symlink_to(image if link.endswith("png") else image.parent)

    refused(
        own,
        rf"{link}: expected a path inside .*own, got one that leads to .*private.*, set LETHE_FOLLOW_LINKS=1",
    )


@pytest.mark.parametrize("link", ["cat/x.png", "cat/more", "bird"])
def test_links_that_a_person_trusts_are_followed(own, tmp_path, link, monkeypatch):
    class_folders(tmp_path / "elsewhere", {"private": 1}, start=9)
    (image,) = (tmp_path / "elsewhere" / "private").iterdir()
    (own / link).symlink_to(image if link.endswith("png") else image.parent)
    monkeypatch.setenv("LETHE_FOLLOW_LINKS", "1")

    assert len(DATASETS[f"folder:{own}"](tmp_path / "data").train[1]) == 5


def test_folders_that_go_on_in_each_other_are_refused(own):
    (own / "cat" / "/".join(["a"] * 200)).mkdir(parents=True)

    refused(own, "expected at most 100 nested folders")


def test_links_within_the_folder_are_followed(tmp_path):
    class_folders(tmp_path / "own", {"cat": 1, "dog": 1})
    (tmp_path / "own" / "cat" / "more").symlink_to("../dog")

    refused(tmp_path / "own", "the same file under two")  # it was followed: one picture is a cat and a dog


@pytest.mark.slow
def test_the_names_of_classes_are_utf8_whatever_the_locale(tmp_path):
    class_folders(tmp_path / "own", {"bär": 1, "café": 1})
    program = (
        "from lethe.data.impl import read; "
        f"print(ascii(read('folder:{tmp_path}/own', '{tmp_path}/data').class_names))"
    )
    plain = os.environ | {
        "LC_ALL": "POSIX",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "OMP_NUM_THREADS": "1",
    }
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=plain, capture_output=True, text=True, timeout=120
    )

    assert (done.stdout.strip(), done.returncode) == (r"('b\xe4r', 'caf\xe9')", 0)


# Archives


def zipped(folder, members):
    folder.mkdir(parents=True)
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "train.zip", "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in members:
            file.writestr(name, content)
    return folder


def test_members_of_one_name_in_a_zip_are_each_their_own(tmp_path):
    members = [(f"{label}/same.png", encoded(noise(seed))) for seed, label in enumerate("aaabb")]
    train, labels = DATASETS[f"hf:{zipped(tmp_path / 'own', members)}"](tmp_path / "data").train

    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert np.array_equal(
        train[:].numpy(), np.stack([np.asarray(noise(seed)).transpose(2, 0, 1) for seed in range(5)])
    )


def test_a_zip_that_leads_out_of_the_dataset_is_not_read(tmp_path):
    zipped(tmp_path / "other", [("a/1.png", encoded(noise(1)))])
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.zip").symlink_to("../other/train.zip")

    with pytest.raises(ValueError, match=r"train\.zip: expected a path inside .*own"):
        DATASETS[f"hf:{tmp_path}/own"](tmp_path / "data")


def test_a_member_of_a_zip_that_is_larger_than_an_image_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lethe.data.image_zips.IMAGE", 10_000)
    own = zipped(tmp_path / "own", [("a/1.png", encoded(noise(1))), ("a/big.png", bytes(10_001))])

    with pytest.raises(ValueError, match=r"train\.zip:a/big\.png: expected at most 10 kB, got 10 kB"):
        DATASETS[f"hf:{own}"](tmp_path / "data")


def sparse(name, size):
    """A tar archive that says of a member that it has so many bytes, all of them holes."""
    about = tarfile.TarInfo(name)
    about.size, about.type = 512, tarfile.GNUTYPE_SPARSE
    header = bytearray(about.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (size - 512, 512)
    header[483:495] = b"%011o\0" % 0 if size >= 8**11 else b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(512) + bytes(1024)


def test_a_member_of_holes_in_a_tar_is_refused_before_it_is_read(tmp_path):
    folder = tmp_path / "imagenet_small"
    folder.mkdir()
    (folder / f"{TENCH}.tar").write_bytes(sparse("big.png", 8 * 10**9))

    with pytest.raises(ValueError, match=rf"{TENCH}\.tar:big\.png: expected at most 256 MB, got 8 GB"):
        DATASETS["IMAGENET_SMALL"](tmp_path)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_a_header_of_a_tar_that_is_larger_than_a_name_is_refused(kind):
    about = tarfile.TarInfo("x")
    about.size, about.type = 10**9, kind
    content = io.BytesIO(about.tobuf(tarfile.GNU_FORMAT) + bytes(1024))

    with pytest.raises(tarfile.ReadError, match="expected names and headers of at most 1 MB, got 1 GB"):
        tarfile.open(fileobj=content, mode="r|", tarinfo=BoundedMember)  # noqa: SIM115  # it raises


def test_no_more_images_are_held_than_memory_is_to_hold(monkeypatch):
    monkeypatch.setattr("lethe.data.scanned.BYTES_AT_ONCE", 100)
    alive = 0

    def images():
        nonlocal alive
        for number in range(20):
            alive += 1
            yield EncodedImage(str(number), "a", bytes, held=50)

    for done, _ in enumerate(in_parallel(lambda image: image.read(), images(), "reading")):
        assert alive - done <= 2


# Cells of tables


def table(folder, paths):
    folder.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict(
        {"image": [str(path) for path in paths], "label": [0, 1]}, features=features
    )
    pq.write_table(
        made.data.table, folder / "train.parquet"
    )  # the datasets library would put the content into the cells
    return folder


@pytest.mark.parametrize(
    "path", ["{}/private.png", "../private.png", "/dev/zero", "../pipe", "link.png", "own.png\0"]
)
def test_a_cell_names_no_file_outside_of_the_dataset(tmp_path, path):
    (tmp_path / "private.png").write_bytes(encoded(noise(1)))
    os.mkfifo(tmp_path / "pipe")
    own = table(tmp_path / "own", [path.format(tmp_path), "own.png"])
    (own / "own.png").write_bytes(encoded(noise(2)))
    (own / "link.png").symlink_to("../private.png")

    reason = r"1 of the images can't be read: row 0 of train .*(expected a path inside|embedded null byte)"
    with pytest.raises(ValueError, match=reason):
        DATASETS[f"hf:{own}"](tmp_path / "data")


def test_a_cell_names_a_file_of_the_dataset_from_its_folder(tmp_path):
    own = table(tmp_path / "own", ["images/1.png", tmp_path / "own" / "2.png"])
    (own / "images").mkdir()
    (own / "images" / "1.png").write_bytes(encoded(noise(1)))
    (own / "2.png").write_bytes(encoded(noise(2)))

    assert DATASETS[f"hf:{own}"](tmp_path / "data").train[1].tolist() == [0, 1]


def test_a_table_that_is_a_pipe_is_refused(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    os.mkfifo(own / "train.parquet")

    with pytest.raises(ValueError, match="expected a regular file, got a named pipe"):
        DATASETS[f"hf:{own}"](tmp_path / "data")


# What the datasets library saved, and the files of torchvision's


def saved(folder):
    pictures = [noise(seed) for seed in (0, 1)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features).save_to_disk(folder)
    return folder


def test_a_saved_dataset_is_read(tmp_path):
    assert DATASETS[f"hf:{saved(tmp_path / 'own')}"](tmp_path / "data").train[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (
            '{"_data_files": [{"filename": "../other/data-00000-of-00001.arrow"}]}',
            "expected a path inside .*own, got one that leads to ",
        ),
        ('{"_data_files": [1]}', "it can't be read"),
        ("[1]", "it can't be read"),
        ("[" * 100_000, "it can't be read"),
        ('{"_data_files": 9' + "9" * 5000 + "}", "it can't be read"),
    ],
)
def test_the_state_of_a_saved_dataset_is_checked(tmp_path, state, says):
    saved(tmp_path / "other")
    own = saved(tmp_path / "own")
    (own / "state.json").write_text(state)

    reason = f"hf-own: expected a dataset in .*own, and it can't be read.*{says}|{says}"
    with pytest.raises(ValueError, match=reason):
        DATASETS[f"hf:{own}"](tmp_path / "data")


@pytest.mark.parametrize("name", ["dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_pipe_in_a_saved_dataset_is_refused(tmp_path, name):
    own = saved(tmp_path / "own")
    (own / name).unlink()
    os.mkfifo(own / name)

    with pytest.raises(ValueError, match=rf"{name}: expected a regular file, got a named pipe"):
        DATASETS[f"hf:{own}"](tmp_path / "data")


def test_a_pipe_in_the_place_of_a_published_file_is_refused(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        os.mkfifo(raw / name)

    with pytest.raises(ValueError, match=r"MNIST/raw/.*ubyte: expected a regular file, got a named pipe"):
        DATASETS["MNIST"](tmp_path)


def test_a_table_of_classes_that_leads_out_of_the_folder_is_not_read(tmp_path):
    val = tmp_path / "tiny-imagenet-200" / "val"
    (val / "images").mkdir(parents=True)
    class_folders(tmp_path / "tiny-imagenet-200" / "train", {"a": 1})
    (val / "val_annotations.txt").symlink_to("/etc/passwd")

    reason = r"expected a path inside .*tiny-imagenet-200, got one that leads to /etc/passwd"
    with pytest.raises(ValueError, match=rf"val_annotations\.txt: {reason}"):
        DATASETS["TinyImageNet"](tmp_path)
