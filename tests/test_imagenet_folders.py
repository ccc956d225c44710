"""ImageNet's parts in the layouts in which they are published."""

import io
import tarfile

import numpy as np
import pytest
import torch
from pictures import class_folders, encoded, noise, plain, write

from lethe.data import DATASETS, load_splits
from lethe.data.living17 import LIVING17
from lethe.system.torchvision_import import torchvision_module

TENCH, GOLDFISH = "n01440764", "n01443537"


def archive(file, members, kind="w:gz"):
    """A tar archive of names and contents."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, kind) as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return file


def jpeg(seed, size=(64, 64)):
    return encoded(noise(seed, size), "JPEG")


# IMAGENET_SMALL


def test_class_folders_of_train_and_val(tmp_path):
    class_folders(tmp_path / "imagenet_small" / "train", {TENCH: 2, GOLDFISH: 3})
    class_folders(tmp_path / "imagenet_small" / "val", {TENCH: 1, GOLDFISH: 1}, start=20)
    raw = DATASETS["imagenet_small"](tmp_path)
    assert (raw.train[1].tolist(), raw.test[1].tolist(), raw.class_names) == (
        [0, 0, 1, 1, 1],
        [0, 1],
        (TENCH, GOLDFISH),
    )


def test_an_archive_per_class(tmp_path):
    contents = {name: [jpeg(seed) for seed in seeds] for name, seeds in ((TENCH, (1, 2)), (GOLDFISH, (3,)))}
    for name, images in contents.items():
        archive(
            tmp_path / "imagenet_small" / f"{name}.tar.gz",
            {f"{name}_{i}.JPEG": image for i, image in enumerate(images)},
        )
    raw = DATASETS["IMAGENET_SMALL"](tmp_path)
    assert (raw.train[1].tolist(), raw.test, raw.class_names) == ([0, 0, 1], None, (TENCH, GOLDFISH))
    write(tmp_path / "plain" / "a" / "1.jpg", plain("red"))
    (tmp_path / "plain" / "a" / "1.jpg").write_bytes(contents[TENCH][0])
    assert torch.equal(DATASETS[f"folder:{tmp_path}/plain"](tmp_path).train[0][0], raw.train[0][0])


def test_the_hubs_archives_name_the_class_in_each_file(tmp_path):
    root = tmp_path / "imagenet-1k" / "data"
    archive(
        root / "train_images_0.tar.gz",
        {f"{TENCH}_10026_{TENCH}.JPEG": jpeg(1), f"{GOLDFISH}_7_{GOLDFISH}.JPEG": jpeg(2)},
    )
    archive(root / "train_images_1.tar.gz", {f"{TENCH}_10027_{TENCH}.JPEG": jpeg(3)})
    archive(root / "val_images.tar.gz", {f"ILSVRC2012_val_00000293_{GOLDFISH}.JPEG": jpeg(4)})
    archive(root / "test_images.tar.gz", {"ILSVRC2012_test_00000001.JPEG": jpeg(5)})
    raw = DATASETS["IMAGENET_SMALL"](tmp_path)
    assert (raw.train[1].tolist(), raw.test[1].tolist()) == ([0, 1, 0], [1])


def test_the_hubs_archives_unpacked_as_their_users_do(tmp_path):
    for folder, seed, file in (
        ("train_images_0", 1, TENCH),
        ("train_images_0", 2, GOLDFISH),
        ("val_images", 3, TENCH),
    ):
        file = tmp_path / "ImageNet-small" / folder / f"x_{seed}_{file}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(seed))
    raw = DATASETS["IMAGENET_SMALL"](tmp_path)
    assert (raw.train[1].tolist(), raw.test[1].tolist()) == ([0, 1], [0])


def test_an_images_own_name_says_no_part(tmp_path):
    for number, name in enumerate(("test_1.JPEG", "val_1.JPEG")):
        write(tmp_path / "imagenet_small" / TENCH / name, noise(number), "JPEG")
    raw = DATASETS["IMAGENET_SMALL"](tmp_path)
    assert (raw.train[1].tolist(), raw.test) == ([0, 0], None)


def test_the_hubs_archives_unpacked_in_place(tmp_path):
    for number, name in enumerate(
        (
            f"{TENCH}_1_{TENCH}",
            f"{GOLDFISH}_7_{GOLDFISH}",
            f"ILSVRC2012_val_00000293_{GOLDFISH}",
            "ILSVRC2012_test_1",
        )
    ):
        write(tmp_path / "imagenet-1k" / "data" / f"{name}.JPEG", noise(number), "JPEG")
    raw = DATASETS["IMAGENET_SMALL"](tmp_path)
    assert (raw.train[1].tolist(), raw.test[1].tolist()) == ([0, 1], [1])


@pytest.mark.parametrize("place", ["train", TENCH])
def test_a_folder_of_a_part_or_a_class_wins_over_an_images_own_name(tmp_path, place):
    write(tmp_path / "imagenet_small" / place / f"ILSVRC2012_val_00000293_{TENCH}.JPEG", noise(1), "JPEG")
    raw = DATASETS["IMAGENET_SMALL"](tmp_path)
    assert (raw.train[1].tolist(), raw.test) == ([0], None)


def test_photographs_become_224_by_224(tmp_path):
    for name in (TENCH, GOLDFISH):
        write(tmp_path / "imagenet_small" / name / "1.JPEG", noise(ord(name[-1]), (500, 375)), "JPEG")
        write(
            tmp_path / "imagenet_small" / name / "2.JPEG",
            noise(1 + ord(name[-1]), (333, 500)).convert("L"),
            "JPEG",
        )
    assert tuple(DATASETS["IMAGENET_SMALL"](tmp_path).train[0].shape) == (4, 3, 224, 224)


def test_an_image_without_a_class_is_named(tmp_path):
    write(tmp_path / "imagenet_small" / "train" / "ILSVRC2012_00000001.JPEG", plain("red"), "JPEG")
    reason = r"expected a class like n01440764 in the name of .*ILSVRC2012_00000001\.JPEG or its folder"
    with pytest.raises(ValueError, match=reason):
        DATASETS["IMAGENET_SMALL"](tmp_path)


@pytest.mark.parametrize("kept", [0, 20, 900])
def test_a_damaged_archive_is_named(tmp_path, kept):
    file = archive(tmp_path / "imagenet_small" / f"{TENCH}.tar.gz", {"1.JPEG": jpeg(1, (200, 200))})
    file.write_bytes(file.read_bytes()[:kept])
    reason = r"n01440764\.tar\.gz: expected a whole tar archive, got a damaged one .*Download it again"
    with pytest.raises(ValueError, match=reason):
        DATASETS["IMAGENET_SMALL"](tmp_path)


def test_a_corrupt_image_in_an_archive_is_named(tmp_path):
    archive(tmp_path / "imagenet_small" / f"{TENCH}.tar.gz", {"1.JPEG": jpeg(1), "2.JPEG": jpeg(2)[:300]})
    archive(tmp_path / "imagenet_small" / f"{GOLDFISH}.tar.gz", {"1.JPEG": jpeg(3)})
    reason = r"IMAGENET_SMALL: 1 of the images can't be read: .*n01440764\.tar\.gz:2\.JPEG"
    with pytest.raises(ValueError, match=reason):
        DATASETS["IMAGENET_SMALL"](tmp_path)


def test_an_archive_without_images_is_named(tmp_path):
    archive(tmp_path / "imagenet_small" / f"{TENCH}.tar", {"readme.txt": b"x"}, "w")
    with pytest.raises(ValueError, match=r"expected images in .*n01440764\.tar, got none"):
        DATASETS["IMAGENET_SMALL"](tmp_path)


def test_one_image_under_two_classes_is_published_so_and_worth_a_word(tmp_path):
    archive(tmp_path / "imagenet_small" / f"{TENCH}.tar.gz", {"1.JPEG": jpeg(1), "2.JPEG": jpeg(2)})
    archive(tmp_path / "imagenet_small" / f"{GOLDFISH}.tar.gz", {"1.JPEG": jpeg(1)})
    with pytest.warns(UserWarning, match=r"the same image has two classes, as published: .*n01440764\)"):
        assert len(DATASETS["IMAGENET_SMALL"](tmp_path).train[1]) == 3


@pytest.mark.parametrize(
    ("name", "folder"),
    [("IMAGENET_SMALL", "imagenet_small"), ("TinyImageNet", "tiny-imagenet-200"), ("Living17", "living17")],
)
def test_a_missing_folder_is_named(tmp_path, name, folder):
    reason = rf"{name}: expected the folder {tmp_path}/{folder}.*Put the files there"
    with pytest.raises(FileNotFoundError, match=reason):
        DATASETS[name](tmp_path)


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "imagenet_small").mkdir()
    reason = r"expected images or archives \(\.tar\.gz\) of ImageNet in .*imagenet_small, got none"
    with pytest.raises(FileNotFoundError, match=reason):
        DATASETS["IMAGENET_SMALL"](tmp_path)


# TinyImageNet


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for name, seeds in ((TENCH, (1, 2)), (GOLDFISH, (3, 4))):
        for number, seed in enumerate(seeds):
            write(root / "train" / name / "images" / f"{name}_{number}.JPEG", noise(seed, (64, 64)), "JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t62\t62\n")
    for number, seed in enumerate((5, 6)):
        write(root / "val" / "images" / f"val_{number}.JPEG", noise(seed, (64, 64)), "JPEG")
    (root / "val" / "val_annotations.txt").write_text(
        f"val_0.JPEG\t{GOLDFISH}\t0\t32\t44\t62\nval_1.JPEG\t{TENCH}\t52\t55\t57\t59\n"
    )
    (root / "wnids.txt").write_text(f"{TENCH}\n{GOLDFISH}\n")
    return tmp_path


def test_tiny_imagenet_as_it_is_unpacked(tiny):
    raw = DATASETS["tinyimagenet"](tiny)
    assert (tuple(raw.train[0].shape), raw.train[1].tolist(), raw.test[1].tolist()) == (
        (4, 3, 64, 64),
        [0, 0, 1, 1],
        [1, 0],
    )
    assert raw.class_names == (TENCH, GOLDFISH)


def test_a_validation_image_that_is_not_annotated_is_named(tiny):
    write(tiny / "tiny-imagenet-200" / "val" / "images" / "val_9.JPEG", noise(9, (64, 64)), "JPEG")
    reason = r"val_annotations\.txt to name the class of every image in .*, got none for val_9\.JPEG"
    with pytest.raises(ValueError, match=reason):
        DATASETS["TinyImageNet"](tiny)


# Living17


def test_living17_is_17_kinds_of_four_classes_each():
    synsets = [synset for four in LIVING17.values() for synset in four]
    assert (len(LIVING17), len(synsets), len(set(synsets))) == (17, 68, 68)


def test_the_kinds_of_living17_are_of_their_part_of_wordnet():
    # Synsets are offsets into WordNet, which goes through the animals in order: each kind's lie close to each
    # other.
    for synsets in LIVING17.values():
        offsets = sorted(int(synset[1:]) for synset in synsets)
        assert offsets[-1] - offsets[0] < 80_000


@pytest.fixture
def living(tmp_path):
    for number, synset in enumerate(sorted(synset for four in LIVING17.values() for synset in four)):
        archive(
            tmp_path / "living17" / "train" / f"{synset}.tar.gz", {f"{synset}_1.JPEG": jpeg(number, (16, 16))}
        )
        write(tmp_path / "living17" / "val" / synset / "1.JPEG", noise(100 + number, (16, 16)), "JPEG")
    archive(tmp_path / "living17" / "train" / f"{TENCH}.tar.gz", {f"{TENCH}_1.JPEG": jpeg(500, (16, 16))})
    return tmp_path


def test_living17_from_archives_and_folders(living):
    splits = load_splits("living17", living)
    raw = DATASETS["Living17"](living)
    assert (splits.class_names, splits.classes) == (tuple(LIVING17), 17)
    assert raw.train[1].bincount().tolist() == raw.test[1].bincount().tolist() == [4] * 17


def test_the_subclass_of_an_image_of_living17_is_its_synset(living):
    raw = DATASETS["Living17"](living)
    kinds = {synset: list(LIVING17).index(kind) for kind, four in LIVING17.items() for synset in four}
    subclasses = raw.columns["subclass"]
    assert [kinds[synset] for synset in subclasses] == raw.train[1].tolist()
    assert sorted(subclasses) == sorted(kinds)


def test_a_class_that_living17_needs_is_named(living):
    (living / "living17" / "train" / "n02481823.tar.gz").unlink()
    reason = r"Living17: expected each of its 68 classes in .*, got none of n02481823"
    with pytest.raises(FileNotFoundError, match=reason):
        DATASETS["Living17"](living)


def test_living17_is_taken_from_imagenets_folder_where_it_has_none_of_its_own(living):
    (living / "living17").rename(living / "imagenet_small")
    assert len(DATASETS["Living17"](living).train[1]) == 68


def test_folders_of_the_17_kinds_are_taken_as_they_are(tmp_path):
    class_folders(tmp_path / "living17" / "train", dict.fromkeys(LIVING17, 1))
    raw = DATASETS["Living17"](tmp_path)
    assert raw.class_names == tuple(sorted(LIVING17)) and len(raw.train[1]) == 17


# Imagenette


@pytest.fixture
def imagenette(tmp_path):
    for part, start in (("train", 0), ("val", 50)):
        class_folders(
            tmp_path / "imagenette2-160" / part,
            dict.fromkeys(torchvision_module("datasets").Imagenette._WNID_TO_CLASS, 2),
            start=start,
        )
        for folder in (tmp_path / "imagenette2-160" / part).iterdir():
            for file in folder.iterdir():
                file.rename(file.with_suffix(".JPEG"))
    (tmp_path / "imagenette2-160" / "noisy_imagenette.csv").write_text("path,noisy_labels_0\n")
    return tmp_path


def test_imagenette_as_it_is_unpacked(imagenette):
    raw = DATASETS["imagenette"](imagenette)
    assert raw.class_names[:3] == ("tench", "English springer", "cassette player")
    assert raw.train[1].bincount().tolist() == raw.test[1].bincount().tolist() == [2] * 10


def test_torchvision_has_the_same_images_in_the_same_order(imagenette):
    raw = DATASETS["Imagenette"](imagenette)
    theirs = torchvision_module("datasets").Imagenette(str(imagenette), split="train", size="160px")
    assert [label for _, label in theirs._samples] == raw.train[1].tolist()
    assert all(
        np.array_equal(np.asarray(image).transpose(2, 0, 1), mine.numpy())
        for (image, _), mine in zip(theirs, raw.train[0], strict=True)
    )


def test_a_class_that_imagenette_does_not_have_is_named(imagenette):
    class_folders(imagenette / "imagenette2-160" / "train", {GOLDFISH: 1}, start=900)
    reason = "Imagenette: expected the dataset's classes in the train part, got n01443537 too"
    with pytest.raises(ValueError, match=reason):
        DATASETS["Imagenette"](imagenette)


def test_imagenette_that_is_not_there_says_what_to_unpack_where(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    failed = r"the download failed .*Unpack imagenette2-160\.tgz in"
    with pytest.raises(FileNotFoundError, match=f"expected train and val in .*imagenette2-160, and {failed}"):
        DATASETS["Imagenette"](tmp_path)
