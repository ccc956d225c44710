"""One's own images in folders: what is read, in which size, and what is refused."""

import errno
import io
import json
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import class_folders, encoded, noise, plain, write
from PIL import Image, ImageOps

import lethe.data.decoded as decoding
import main_baseline
from lethe.data import DATASETS, ForgetRequest, load_splits
from lethe.data.encoded_image import EncodedImage, Header, header_of, pixels_of
from lethe.data.scanned import common_shape


def read(path, folder):
    return DATASETS[f"folder:{path}"](folder)


def pixels(content, shape):
    """What one encoded image is decoded to; an error as text."""
    return pixels_of(EncodedImage("one", "a", lambda: content), shape)


def header(height, width, grey=False):
    return Header(height, width, grey, b"")


# What is read


def test_a_folder_per_class_is_read_pixel_by_pixel_in_sorted_order(tmp_path):
    expected = class_folders(tmp_path / "own", {"dog": 3, "cat": 2})
    raw = read(tmp_path / "own", tmp_path / "data")
    assert np.array_equal(raw.train[0].numpy(), expected)
    assert (raw.train[1].tolist(), raw.class_names, raw.test, raw.white) == (
        [0, 0, 1, 1, 1],
        ("cat", "dog"),
        None,
        255,
    )


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Test"])
def test_train_and_test_folders_are_the_parts(tmp_path, test):
    train = class_folders(tmp_path / "own" / "train", {"cat": 2, "dog": 3})
    other = class_folders(tmp_path / "own" / test, {"cat": 1, "dog": 1}, start=50)
    raw = read(tmp_path / "own", tmp_path / "data")
    assert np.array_equal(raw.train[0].numpy(), train) and np.array_equal(raw.test[0].numpy(), other)
    assert raw.test[1].tolist() == [0, 1]


def test_where_there_are_val_and_test_val_is_left_out_with_a_word(tmp_path):
    class_folders(tmp_path / "own" / "train", {"cat": 2, "dog": 2})
    class_folders(tmp_path / "own" / "val", {"cat": 1, "dog": 1}, start=20)
    expected = class_folders(tmp_path / "own" / "test", {"cat": 1, "dog": 1}, start=40)
    reason = "the split val is left out: train is for training, test for the test"
    with pytest.warns(UserWarning, match=reason):
        raw = read(tmp_path / "own", tmp_path / "data")
    assert np.array_equal(raw.test[0].numpy(), expected)


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path / "own", {"train": 2, "plane": 2})
    assert read(tmp_path / "own", tmp_path / "data").class_names == ("plane", "train")


def test_images_may_lie_deeper(tmp_path):
    write(tmp_path / "own" / "a" / "deep" / "er" / "1.png", plain("red"))
    write(tmp_path / "own" / "b" / "1.png", plain("blue"))
    assert read(tmp_path / "own", tmp_path / "data").train[1].tolist() == [0, 1]


def test_the_name_keeps_its_case_and_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "Own", {"a": 2, "b": 2})
    entry = DATASETS[f"FOLDER:{tmp_path}/Own"]
    assert entry.name == "folder-Own" and entry(tmp_path / "data").class_names == ("a", "b")


def test_the_whole_way_to_forget_and_retain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "own", {"a": 20, "b": 20})
    splits = load_splits(f"folder:{tmp_path}/own", tmp_path / "data")
    assert (len(splits.train), len(splits.validation), len(splits.test), splits.dataset) == (
        28,
        4,
        8,
        "folder-own",
    )
    division = ForgetRequest((1,)).divide(splits.train, 2, 0)
    forget, retain = division.forget, division.retain
    assert (len(forget), len(retain)) == (14, 14)


# The common size


def test_images_of_one_size_stay_as_they_are():
    assert common_shape([header(20, 30)] * 3) == (3, 20, 30)


def test_others_become_squares_of_the_median_short_side_down_to_a_multiple_of_32():
    assert common_shape([header(75, 100), header(100, 70), header(300, 400)]) == (3, 64, 64)


def test_the_largest_side_is_224():
    assert common_shape([header(375, 500), header(500, 333), header(400, 400)]) == (3, 224, 224)
    assert common_shape([header(3000, 2000)] * 2) == (3, 224, 224)


def test_below_32_it_is_the_median_itself():
    assert common_shape([header(20, 30), header(21, 30), header(22, 30)]) == (3, 21, 21)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), min_size=1, max_size=9))
def test_the_common_size_does_not_depend_on_the_order_and_is_at_most_224(sizes):
    headers = [header(*size) for size in sizes]
    channels, height, width = common_shape(headers)
    assert (channels, height, width) == common_shape(headers[::-1])
    assert 1 <= height <= 224 and 1 <= width <= 224


def test_grey_images_have_one_channel_and_one_in_colour_makes_three():
    assert common_shape([header(8, 8, True)] * 2)[0] == 1
    assert common_shape([header(8, 8, True), header(8, 8)])[0] == 3


def test_other_sizes_are_resized_and_cut_in_the_middle_as_pillow_does(tmp_path):
    photo = noise(0, (100, 60))
    write(tmp_path / "own" / "a" / "1.png", photo)
    write(tmp_path / "own" / "b" / "1.png", noise(1, (64, 64)))
    write(tmp_path / "own" / "b" / "2.png", noise(2, (64, 64)))
    images = read(tmp_path / "own", tmp_path / "data").train[0]
    assert tuple(images.shape) == (3, 3, 64, 64)
    assert np.array_equal(
        images[0].numpy(),
        np.asarray(ImageOps.fit(photo, (64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1),
    )


# Kinds of images


@pytest.mark.parametrize(
    ("picture", "kind", "expected"),
    [
        (plain((250, 128, 3)), "PNG", (250, 128, 3)),
        (plain(77, mode="L"), "PNG", (77, 77, 77)),
        (plain(1, mode="1"), "PNG", (255, 255, 255)),
        (plain((250, 128, 3)).convert("P", palette=Image.Palette.ADAPTIVE), "PNG", (250, 128, 3)),
        (plain((250, 128, 3, 255), mode="RGBA"), "PNG", (250, 128, 3)),
        (plain((250, 128, 3, 0), mode="RGBA"), "PNG", (255, 255, 255)),
        (plain((100, 255), mode="LA"), "PNG", (100, 100, 100)),
        (plain((0, 0, 0, 0), mode="CMYK"), "JPEG", (255, 255, 255)),
        (plain((0, 255, 255, 0), mode="CMYK"), "JPEG", (255, 0, 0)),
        (plain((255, 255, 255)), "BMP", (255, 255, 255)),
        (plain((200, 100, 50)), "WEBP", (200, 100, 50)),
        (plain((250, 128, 3)), "GIF", (250, 128, 3)),
    ],
)
def test_every_mode_becomes_rgb(picture, kind, expected):
    lossless = {"lossless": True} if kind == "WEBP" else {}
    found = pixels(encoded(picture, kind, **lossless), (3, 8, 8))
    assert np.abs(found.reshape(3, -1).T.astype(int) - expected).max() <= 2


def test_half_transparent_is_half_white():
    assert np.abs(pixels(encoded(plain((0, 0, 0, 128), mode="RGBA")), (3, 8, 8)).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("value", [0, 257, 12850, 65535])
def test_sixteen_bits_are_scaled_and_not_clipped(value):
    picture = Image.fromarray(np.full((8, 8), value, dtype=np.uint16))
    assert (pixels(encoded(picture), (1, 8, 8)) == round(value / 257)).all()
    assert (pixels(encoded(picture, "TIFF"), (3, 8, 8)) == round(value / 257)).all()


def test_floats_have_no_known_white():
    assert "no known white" in pixels(encoded(plain(0.5, mode="F"), "TIFF"), (1, 8, 8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation, tmp_path):
    upright = noise(5, (12, 8))
    undone = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # how Pillow calls the inverse of the turn that the orientation asks for
    stored = upright.transpose(Image.Transpose(undone[orientation])) if orientation in undone else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a", "b"):
        write(tmp_path / "own" / name / "1.png", stored, exif=exif)
        write(tmp_path / "own" / name / "2.png", noise(ord(name), (12, 8)))
    write(tmp_path / "own" / "b" / "1.png", noise(9, (12, 8)))
    images = read(tmp_path / "own", tmp_path / "data").train[0]
    assert tuple(images.shape) == (4, 3, 8, 12)
    assert np.array_equal(images[0].numpy(), np.asarray(upright).transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation):
    stored, exif = noise(5, (12, 8)), Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "TIFF", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(stored, "PNG", exif=exif))))
    found = header_of(EncodedImage("one", "a", lambda: content))
    assert (found.width, found.height) == upright.size
    assert np.array_equal(
        pixels(content, (3, upright.height, upright.width)), np.asarray(upright).transpose(2, 0, 1)
    )


@pytest.mark.parametrize(
    "field",
    [
        "011a000900000001f7ee153d",  # of a type that the tag can't have
        "010000010000000180fe389b",
        "011a00010000000406bfd181",
        "0132000b00000001b4f9cc58",
        "8769000800000001ee9efc10",  # a directory before the file's start
    ],
)
def test_malformed_exif_beside_the_orientation_does_no_harm(field):
    picture = plain("red")
    picture.paste("blue", (0, 0, 8, 4))
    exif = bytes.fromhex("4d4d002a00000008 0002 011200030000000100060000" + field + "00000000")
    image = EncodedImage("one", "a", lambda: encoded(picture, exif=exif))
    assert not isinstance(header_of(image), str)
    turned = np.asarray(picture.transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    assert np.array_equal(pixels_of(image, (3, 8, 8)), turned)


@pytest.mark.parametrize(
    "exif", [b"", b"XX", b"MM\0*\0", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\xff\xff\xff\xff"]
)
def test_exif_that_can_not_be_read_is_none(exif):
    content = encoded(plain("red"), "JPEG", exif=b"Exif\0\0" + exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of the corrupt EXIF
        assert not isinstance(pixels(content, (3, 8, 8)), str)


# Parts, links, and what lies beside


def test_a_folder_beside_the_parts_is_left_out_with_a_word(tmp_path):
    for at, place in enumerate(("train", "test", "unlabelled", "__MACOSX")):
        class_folders(tmp_path / "own" / place, {"cat": 2, "dog": 2}, start=20 * at)
    reason = "the split unlabelled is left out: train is for training, test for the test"
    with pytest.warns(UserWarning, match=reason):
        raw = read(tmp_path / "own", tmp_path / "data")
    assert (raw.class_names, len(raw.train[1]), len(raw.test[1])) == (("cat", "dog"), 4, 4)


def test_a_test_part_without_a_train_part_is_refused(tmp_path):
    class_folders(tmp_path / "own" / "val", {"cat": 2, "dog": 2})
    class_folders(tmp_path / "own" / "images", {"cat": 2, "dog": 2}, start=20)
    refused(tmp_path, "expected a folder train beside .*val, got none")


def test_a_class_folder_may_be_a_link_that_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_FOLLOW_LINKS", "1")
    class_folders(tmp_path / "elsewhere", {"cat": 2})
    expected = class_folders(tmp_path / "own", {"dog": 2}, start=20)
    (tmp_path / "own" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    raw = read(tmp_path / "own", tmp_path / "data")
    assert raw.train[1].tolist() == [0, 0, 1, 1] and np.array_equal(raw.train[0][2:].numpy(), expected)


def test_folders_in_a_class_may_be_links_that_are_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_FOLLOW_LINKS", "1")
    more = class_folders(tmp_path / "elsewhere", {"2025": 2})
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2}, start=20)
    (tmp_path / "own" / "cat" / "2025").symlink_to(tmp_path / "elsewhere" / "2025")
    raw = read(tmp_path / "own", tmp_path / "data")
    assert raw.train[1].tolist() == [0, 0, 0, 0, 1, 1] and np.array_equal(raw.train[0][2:4].numpy(), more)


@pytest.mark.parametrize("target", ["own/cat", "own", "."])
def test_a_link_back_to_a_folder_that_it_is_in_is_left_out_with_a_word(tmp_path, target):
    """To the folder of its class, to that of all classes, which would put every image into this one, or
    further up.
    """
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    (tmp_path / "own" / "cat" / "again").symlink_to(tmp_path / target)
    with pytest.warns(UserWarning, match=r"own/cat/again: leads back to a folder that it is in, left out"):
        assert read(tmp_path / "own", tmp_path / "data").train[1].tolist() == [0, 0, 1, 1]


def test_a_class_that_is_a_link_may_not_lead_back_to_all_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_FOLLOW_LINKS", "1")
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    (tmp_path / "own" / "cat").rename(tmp_path / "elsewhere")
    (tmp_path / "own" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "all").symlink_to(tmp_path / "own")
    with pytest.warns(UserWarning, match=r"own/cat/all: leads back to a folder that it is in, left out"):
        assert read(tmp_path / "own", tmp_path / "data").train[1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("lost", ["cat/9.png", "cat/more", "bird", "cat/9.JPG"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, lost):
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    (tmp_path / "own" / lost).symlink_to(tmp_path / "gone")
    reason = r"expected a link to an existing file, got one to .*gone\. Restore that file, or remove the link"
    refused(tmp_path, f"own/{lost}: {reason}")


def test_a_link_to_nowhere_that_is_no_image_is_left_out_with_a_word(tmp_path):
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    (tmp_path / "own" / "cat" / "notes.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "own" / "cat" / ".#lock").symlink_to(tmp_path / "gone")
    with pytest.warns(UserWarning, match=r"cat/notes\.txt: no image by its ending, left out"):
        assert len(read(tmp_path / "own", tmp_path / "data").train[1]) == 4


def test_a_class_whose_name_is_no_text_is_named(tmp_path):
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    (tmp_path / "own" / "cat").rename(tmp_path / "own" / os.fsdecode(b"caf\xe9"))
    refused(tmp_path, r"expected class folders whose names are UTF-8, got .*own/caf\\xe9\. Rename it")


def test_images_in_no_class_folder_are_counted(tmp_path):
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    for name in ("1.png", "2.png"):
        write(tmp_path / "own" / name, noise(90 + int(name[0])))
    with pytest.warns(UserWarning, match=r"own/1\.png and 1 more: in no class folder, left out"):
        assert len(read(tmp_path / "own", tmp_path / "data").train[1]) == 4


def test_the_images_may_lie_in_the_folder_of_data(tmp_path):
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    (tmp_path / "own" / "huggingface").mkdir()
    for _ in range(2):
        assert read(tmp_path / "own", tmp_path / "own").class_names == ("cat", "dog")


def test_two_folders_of_one_name_with_files_alike_are_two_datasets(tmp_path):
    expected = []
    for at, place in enumerate(("one", "two")):
        for label in ("a", "b"):
            picture = plain((at * 50, 9, ord(label)))
            os.utime(write(tmp_path / place / "own" / label / "1.bmp", picture, "BMP"), (1, 1))
            expected.append((at * 50, 9, ord(label)))
    found = [
        tuple(image[:, 0, 0].tolist())
        for place in ("one", "two")
        for image in read(tmp_path / place / "own", tmp_path / "data").train[0]
    ]
    assert found == expected


# What is wrong


def refused(tmp_path, match, error=ValueError):
    with pytest.raises(error, match=match):
        read(tmp_path / "own", tmp_path / "data")


def test_a_folder_that_is_not_there(tmp_path):
    refused(
        tmp_path,
        r"folder-own: expected a folder with a folder of images per class, and there is no folder .*own",
        FileNotFoundError,
    )


def test_no_path_at_all():
    with pytest.raises(ValueError, match="expected a folder after the colon"):
        DATASETS["folder:"]


def test_a_folder_without_class_folders(tmp_path):
    write(tmp_path / "own" / "1.png", plain("red"))
    refused(tmp_path, "expected a folder of images per class in .*own, got no folder")


def test_an_empty_class_folder_is_named(tmp_path):
    class_folders(tmp_path / "own", {"a": 2})
    (tmp_path / "own" / "nobody").mkdir()
    refused(tmp_path, "expected images in the class folder .*nobody, got none")


@pytest.mark.parametrize(
    "content", [b"", b"no image", encoded(noise(1))[:60], encoded(noise(1, (64, 64)), "JPEG")[:900]]
)
def test_a_corrupt_image_is_named(tmp_path, content):
    class_folders(tmp_path / "own", {"a": 3, "b": 3}, size=(64, 64))
    (tmp_path / "own" / "b" / "broken.jpg").write_bytes(content)
    refused(tmp_path, r"1 of the images can't be read: .*own/b/broken\.jpg \(.+\)\. Replace or remove")
    (tmp_path / "own" / "b" / "broken.jpg").unlink()
    assert len(read(tmp_path / "own", tmp_path / "data").train[1]) == 6


def test_every_corrupt_image_is_counted_and_three_are_named(tmp_path):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    for number in range(5):
        (tmp_path / "own" / "a" / f"broken{number}.png").write_bytes(encoded(noise(number))[:70])
    refused(tmp_path, "5 of the images can't be read: .*broken0.*broken1.*broken2.* and 2 more")
    assert [place.suffix for place in (tmp_path / "data" / "decoded").iterdir()] == [".lock"]


def test_a_class_in_test_that_train_lacks_is_named(tmp_path):
    class_folders(tmp_path / "own" / "train", {"a": 2, "b": 2})
    class_folders(tmp_path / "own" / "test", {"a": 1, "zebra": 1}, start=20)
    refused(tmp_path, "expected the classes of the training images in the test part, got zebra too")


def test_the_same_file_under_two_classes_is_named(tmp_path):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    write(tmp_path / "own" / "b" / "copy.png", noise(0))
    refused(tmp_path, r"the same file under two: .*own/a/000\.png \(a\) and .*own/b/copy\.png \(b\)")


def test_the_same_file_twice_in_a_class_is_worth_a_word_each_time(tmp_path):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    write(tmp_path / "own" / "a" / "copy.png", noise(0))
    said = r"the same image is there twice: .*000\.png and .*copy\.png\. Forgetting one leaves the other"
    for _ in range(2):
        with pytest.warns(UserWarning, match=said):
            read(tmp_path / "own", tmp_path / "data")


def test_what_is_no_image_is_left_out_with_a_word(tmp_path):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    (tmp_path / "own" / "a" / "notes.txt").write_text("mine")
    (tmp_path / "own" / "a" / ".DS_Store").write_text("")
    with pytest.warns(UserWarning, match=r"notes\.txt: no image by its ending, left out"):
        assert len(read(tmp_path / "own", tmp_path / "data").train[1]) == 4


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    (tmp_path / "data").write_text("a file")
    refused(tmp_path, "folder-own: .*data.* can't be written or read .*name another folder with --data")


def read_only(folder, monkeypatch):
    """From now on nothing can be made in the folder, by root neither."""

    def refusing(make):
        def made(path, *rest, **named):
            writes = make is os.mkdir or (rest[0] & (os.O_WRONLY | os.O_RDWR))
            if (
                writes
                and folder in (Path(path), *Path(path).parents)
                and Path(path) != folder
                and not Path(path).is_dir()
            ):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return make(path, *rest, **named)

        return made

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(os, "mkdir", refusing(os.mkdir))


def test_what_is_decoded_already_is_read_from_a_folder_that_can_not_be_written(tmp_path, monkeypatch):
    expected = class_folders(tmp_path / "data", {"cat": 2, "dog": 2})
    read(tmp_path / "data", tmp_path / "data")
    for lock in (tmp_path / "data" / "decoded").glob("*.lock"):
        lock.unlink()
    read_only(tmp_path / "data", monkeypatch)
    assert np.array_equal(read(tmp_path / "data", tmp_path / "data").train[0].numpy(), expected)


def test_images_of_a_folder_that_can_not_be_written_are_decoded_into_data(tmp_path, monkeypatch):
    expected = class_folders(tmp_path / "share", {"cat": 2, "dog": 2})
    monkeypatch.chdir(tmp_path)
    read_only(tmp_path / "share", monkeypatch)
    reason = r"share.decoded can't be written \(Read-only file system\): data.decoded is used instead"
    with pytest.warns(UserWarning, match=reason):
        assert np.array_equal(read(tmp_path / "share", tmp_path / "share").train[0].numpy(), expected)
    monkeypatch.setattr(decoding, "pixels_of", None)  # the second time nothing is decoded
    assert np.array_equal(read(tmp_path / "share", tmp_path / "share").train[0].numpy(), expected)
    assert [file.name for file in (tmp_path / "share").iterdir() if file.name not in ("cat", "dog")] == []


def test_too_little_room_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    monkeypatch.setattr(
        decoding.shutil,
        "disk_usage",
        lambda place: os.terminal_size((0, 0)) and type("Usage", (), {"free": 10}),
    )
    refused(tmp_path, "expected 0.0 GB free in .*, got 0.0. Make room")
    assert [place.suffix for place in (tmp_path / "data" / "decoded").iterdir()] == [".lock"]


# Decoded once


def decoded_folder(tmp_path):
    (found,) = [place for place in (tmp_path / "data" / "decoded").iterdir() if place.is_dir()]
    return found


def test_the_second_time_nothing_is_decoded(tmp_path, monkeypatch):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    first = read(tmp_path / "own", tmp_path / "data")
    monkeypatch.setattr(decoding, "pixels_of", None)
    assert torch.equal(first.train[0], read(tmp_path / "own", tmp_path / "data").train[0])


def test_a_changed_image_is_decoded_anew(tmp_path):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    read(tmp_path / "own", tmp_path / "data")
    write(tmp_path / "own" / "a" / "000.png", plain("red"))
    assert read(tmp_path / "own", tmp_path / "data").train[0][0].flatten(1).unique(
        dim=1
    ).flatten().tolist() == [255, 0, 0]


def test_what_was_killed_goes_on_where_it_stopped(tmp_path, monkeypatch):
    expected = class_folders(tmp_path / "own", {"a": 5, "b": 5})
    monkeypatch.setattr("lethe.data.scanned.AT_ONCE", 2)
    monkeypatch.setattr(decoding, "BYTES_AT_ONCE", 1)
    done = []

    def until_killed(image, shape):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(image.name)
        return pixels_of(image, shape)

    monkeypatch.setattr(decoding, "pixels_of", until_killed)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "own", tmp_path / "data")
    assert json.loads((decoded_folder(tmp_path) / "train_progress.json").read_text())["done"] == 6
    rest = []
    monkeypatch.setattr(
        decoding, "pixels_of", lambda image, shape: rest.append(image.name) or pixels_of(image, shape)
    )
    assert np.array_equal(read(tmp_path / "own", tmp_path / "data").train[0].numpy(), expected)
    assert len(rest) == 4 and not set(rest) & set(done)


def test_a_kill_between_write_and_record_costs_only_what_was_not_recorded(tmp_path, monkeypatch):
    expected = class_folders(tmp_path / "own", {"a": 5, "b": 5})
    read(tmp_path / "own", tmp_path / "data")
    place = decoded_folder(tmp_path)
    (place / "about.json").rename(place / "scanned.json")
    (place / "train_progress.json").write_text('{"done": 3, "bad": []}')
    with (place / "train.u8").open("r+b") as file:
        file.truncate(4 * 192 + 17)
    assert np.array_equal(read(tmp_path / "own", tmp_path / "data").train[0].numpy(), expected)


def test_a_decoded_file_that_lost_its_end_is_named(tmp_path):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    read(tmp_path / "own", tmp_path / "data")
    file = decoded_folder(tmp_path) / "train.u8"
    file.write_bytes(file.read_bytes()[:-1])
    refused(tmp_path, r"train\.u8: expected 768 bytes, got 767\. Delete .* and run again")


def _digest(arguments):
    path, folder = arguments
    return load_splits(f"folder:{path}", folder).digest


@pytest.mark.slow
def test_two_processes_that_decode_at_once_get_the_same(tmp_path):
    class_folders(tmp_path / "own", {"a": 30, "b": 30})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_digest, [(str(tmp_path / "own"), str(tmp_path / "data"))] * 2)
    assert first == second


def test_the_command_line_says_it_in_one_line(tmp_path, capfd):
    class_folders(tmp_path / "own", {"a": 2, "b": 2})
    (tmp_path / "own" / "a" / "broken.png").write_bytes(b"no")
    argv = ["--dataset", f"folder:{tmp_path}/own", "--data", f"{tmp_path}/data", "--epochs", "1"]
    assert main_baseline.main(argv) == 2

    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: folder-own: 1 of the images can't be read:")


@pytest.mark.parametrize("around", ["own", "own/more", "archive"])
@pytest.mark.parametrize("below", ["", "train"])
def test_folders_around_the_classes_are_looked_into_with_a_word(tmp_path, around, below):
    class_folders(tmp_path / "own" / around / below, {"cat": 2, "dog": 2})
    with pytest.warns(UserWarning, match=f"own/{around} is read, the one folder in"):
        raw = read(tmp_path / "own", tmp_path / "data")
    assert (raw.class_names, raw.train[1].tolist()) == (("cat", "dog"), [0, 0, 1, 1])


def test_archives_that_are_still_packed_are_named(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "photos.zip").touch()
    with pytest.raises(ValueError, match="got no folder. Unpack photos.zip there"):
        read(tmp_path / "own", tmp_path / "data")
    with pytest.raises(ValueError, match="got the file .*photos.zip. Unpack it, and name the folder"):
        read(tmp_path / "own" / "photos.zip", tmp_path / "data")
