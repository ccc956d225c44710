"""Datasets of the hub, from small local ones in exactly its format, and what is said where there is no
network.
"""

import os
import pathlib
import re
import zipfile

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import class_folders, encoded, noise, plain

from lethe.data import DATASETS, load_splits

pytestmark = pytest.mark.usefixtures("no_hub")


def rows(labels, start=0, size=(8, 8)):
    """Pictures of which no two are the same, with these labels; the pixels."""
    pictures = [noise(start + number, size) for number in range(len(labels))]
    return pictures, np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])


def part(labels, names=("cat", "dog"), start=0, image="image", label="label"):
    """A dataset as `push_to_hub` makes it of pictures and class labels; the pixels."""
    pictures, pixels = rows(labels, start)
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict({image: pictures, label: labels}, features=features), pixels


def parquet(root, **parts):
    """The files that the hub would hold: data/<part>-00000-of-00001.parquet."""
    for name, found in parts.items():
        (root / "data").mkdir(parents=True, exist_ok=True)
        found.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


# Parquet


def test_the_parquet_of_these_tests_is_as_the_hubs(tmp_path):
    root = parquet(tmp_path / "own", train=part([0, 1])[0])
    table = pq.read_table(root / "data" / "train-00000-of-00001.parquet")
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    assert (
        b'"_type": "Image"' in table.schema.metadata[b"huggingface"]
        and b'"ClassLabel"' in table.schema.metadata[b"huggingface"]
    )
    assert table["image"][0].as_py()["bytes"].startswith(b"\x89PNG")


def test_parquet_is_read_pixel_by_pixel(tmp_path):
    train, pixels = part([1, 0, 1])
    test, test_pixels = part([0, 1], start=20)
    raw = DATASETS[f"hf:{parquet(tmp_path / 'own', train=train, test=test)}"](tmp_path / "data")
    assert np.array_equal(raw.train[0].numpy(), pixels) and np.array_equal(raw.test[0].numpy(), test_pixels)
    assert (raw.train[1].tolist(), raw.test[1].tolist(), raw.class_names) == (
        [1, 0, 1],
        [0, 1],
        ("cat", "dog"),
    )


def test_several_parquet_files_make_a_part_in_their_order(tmp_path):
    first, pixels = part([0, 1])
    second, more = part([1, 1], start=20)
    (tmp_path / "own" / "train").mkdir(parents=True)
    first.to_parquet(tmp_path / "own" / "train" / "0000.parquet")
    second.to_parquet(tmp_path / "own" / "train" / "0001.parquet")
    assert np.array_equal(
        DATASETS[f"hf:{tmp_path}/own"](tmp_path / "data").train[0].numpy(), np.concatenate([pixels, more])
    )


def test_one_parquet_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, pixels = part([0, 1])
    train.to_parquet(tmp_path / "mine.parquet")
    entry = DATASETS[f"HF:{tmp_path}/mine.parquet"]
    assert entry.name == "hf-mine.parquet" and np.array_equal(
        entry(tmp_path / "data").train[0].numpy(), pixels
    )


def test_without_a_test_split_validation_is_the_test_part(tmp_path):
    root = parquet(tmp_path / "own", train=part([0, 1])[0], validation=part([1], start=9)[0])
    assert DATASETS[f"hf:{root}"](tmp_path / "data").test[1].tolist() == [1]


def test_a_split_that_is_left_out_is_worth_a_word(tmp_path):
    root = parquet(
        tmp_path / "own", train=part([0, 1])[0], validation=part([1], start=9)[0], test=part([0], start=19)[0]
    )
    with pytest.warns(UserWarning, match="the split validation is left out"):
        assert DATASETS[f"hf:{root}"](tmp_path / "data").test[1].tolist() == [0]


def test_splits_of_other_names_are_left_out_alike_of_parquet_and_of_what_was_saved(tmp_path):
    made = {
        "train": part([0, 1])[0],
        "unsupervised": part([1, 1], start=9)[0],
        "train_extra": part([1], start=30)[0],
    }
    parquet(tmp_path / "files", **made)
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    for form in ("files", "saved"):
        reason = "the split (unsupervised, train_extra|train_extra, unsupervised) is left out"
        with pytest.warns(UserWarning, match=reason):
            assert DATASETS[f"hf:{tmp_path / form}"](tmp_path / "data").train[1].tolist() == [0, 1]


def test_a_folder_of_another_name_beside_train_is_a_split_of_its_own(tmp_path):
    for below, start in (("train", 0), ("extra", 20), ("unlabelled", 40)):
        (tmp_path / "own" / below).mkdir(parents=True)
        part([0, 1], start=start)[0].to_parquet(tmp_path / "own" / below / "0000.parquet")
    with pytest.warns(UserWarning, match="the split extra, unlabelled is left out"):
        assert DATASETS[f"hf:{tmp_path}/own"](tmp_path / "data").train[1].tolist() == [0, 1]


def test_files_of_which_none_names_a_part_are_all_for_training(tmp_path):
    (tmp_path / "own").mkdir()
    for name, start in (("cats", 0), ("part-1", 20)):
        part([0, 1], start=start)[0].to_parquet(tmp_path / "own" / f"{name}.parquet")
    reason = r"no file is called as a split: all are for training \(cats.parquet, part-1.parquet\)"
    with pytest.warns(UserWarning, match=reason):
        assert DATASETS[f"hf:{tmp_path}/own"](tmp_path / "data").train[1].tolist() == [0, 1, 0, 1]


def made_in(form, root, **parts):
    """The parts in one of the two forms that a local copy has."""
    if form == "parquet":
        return parquet(root, **parts)
    datasets.DatasetDict(parts).save_to_disk(root)
    return root


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_a_test_part_that_numbers_its_classes_otherwise_keeps_their_names(tmp_path, form):
    root = tmp_path / "own"
    if form == "parquet":
        parquet(root, train=part([0, 1])[0], test=part([0, 1, 1], names=("dog", "cat"), start=9)[0])
    else:  # a DatasetDict wants the same features of all
        part([0, 1])[0].save_to_disk(root / "train")
        part([0, 1, 1], names=("dog", "cat"), start=9)[0].save_to_disk(root / "test")
        (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    raw = DATASETS[f"hf:{root}"](tmp_path / "data")
    assert (raw.train[1].tolist(), raw.test[1].tolist(), raw.class_names) == (
        [0, 1],
        [1, 0, 0],
        ("cat", "dog"),
    )


def test_a_test_part_of_names_where_train_has_numbers_for_them(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    test = datasets.Dataset.from_dict(
        {"image": rows([0, 0], start=9)[0], "label": ["dog", "cat"]}, features=features
    )
    assert DATASETS[f"hf:{parquet(tmp_path / 'own', train=part([0, 1])[0], test=test)}"](
        tmp_path / "data"
    ).test[1].tolist() == [1, 0]


def test_numbers_without_names_where_train_has_names_are_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    test = datasets.Dataset.from_dict({"image": rows([0, 0], start=9)[0], "label": [0, 1]}, features=features)
    refused(
        tmp_path,
        {"train": part([0, 1])[0], "test": test},
        "expected the classes' names in the column label of test, as in train, got int64 without names",
    )


def test_a_class_by_another_name_is_refused_by_that_name(tmp_path):
    other = part([0, 1], names=("cat", "wolf"), start=9)[0]
    refused(
        tmp_path,
        {"train": part([0, 1])[0], "test": other},
        "expected the classes of the training images in the test part, got wolf",
    )


def test_two_files_of_a_part_that_number_their_classes_differently_are_refused(tmp_path):
    (tmp_path / "own" / "train").mkdir(parents=True)
    part([0, 1])[0].to_parquet(tmp_path / "own" / "train" / "0000.parquet")
    part([0, 1], names=("dog", "cat"), start=9)[0].to_parquet(tmp_path / "own" / "train" / "0001.parquet")
    got = r"label cat, dog in .*0000.parquet and dog, cat in .*0001"
    with pytest.raises(ValueError, match=rf"same classes.* files of train, got .* {got}"):
        DATASETS[f"hf:{tmp_path}/own"](tmp_path / "data")


@pytest.mark.parametrize("form", ["parquet", "saved"])
@pytest.mark.parametrize("empty", ["train", "test"])
def test_an_empty_split_is_refused_by_name(tmp_path, form, empty):
    made = {"train": part([0, 1])[0], "test": part([1], start=9)[0]}
    root = made_in(form, tmp_path / "own", **made | {empty: made[empty].select([])})
    reason = rf"hf-own: expected training images .*got no row in .*{empty}.*\. Remove it"
    with pytest.raises(ValueError, match=reason):
        DATASETS[f"hf:{root}"](tmp_path / "data")


def test_a_saved_dataset_without_rows_is_refused(tmp_path):
    part([0])[0].select([]).save_to_disk(tmp_path / "own")
    with pytest.raises(ValueError, match="hf-own: expected training images .*got no row in"):
        DATASETS[f"hf:{tmp_path / 'own'}"](tmp_path / "data")


def test_the_second_time_it_is_the_same_without_decoding(tmp_path, monkeypatch):
    root = parquet(tmp_path / "own", train=part([0, 1] * 10)[0])
    first = load_splits(f"hf:{root}", tmp_path / "data").digest
    monkeypatch.setattr("lethe.data.decoded.pixels_of", None)
    assert load_splits(f"hf:{root}", tmp_path / "data").digest == first


# Local copies


def test_what_save_to_disk_wrote(tmp_path):
    train, pixels = part([0, 1])
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, "test": part([1], start=9)[0]}).save_to_disk(tmp_path / "both")
    assert np.array_equal(DATASETS[f"hf:{tmp_path}/one"](tmp_path / "data").train[0].numpy(), pixels)
    assert DATASETS[f"hf:{tmp_path}/both"](tmp_path / "data").test[1].tolist() == [1]


@pytest.mark.parametrize("place", ["somebody/own/small", "own/small", "small"])
def test_a_copy_of_a_configuration_is_taken_before_the_hub_is_asked(tmp_path, place):
    parquet(tmp_path / place, train=part([0, 1])[0])
    assert DATASETS["hf:somebody/own/small"](tmp_path).train[1].tolist() == [0, 1]


@pytest.mark.parametrize("place", ["somebody/own", "own"])
def test_a_copy_in_the_data_folder_is_taken_before_the_hub_is_asked(tmp_path, place):
    parquet(tmp_path / place, train=part([0, 1])[0])
    entry = DATASETS["hf:somebody/own"]
    assert entry.name == "hf-somebody-own" and entry(tmp_path).train[1].tolist() == [0, 1]


def test_plants_in_train_and_test_folders(tmp_path):
    class_folders(tmp_path / "Plant-classification" / "train", {"aloe": 2, "basil": 2})
    class_folders(tmp_path / "Plant-classification" / "test", {"aloe": 1, "basil": 1}, start=20)
    raw = DATASETS["plant_classification"](tmp_path)
    assert (raw.train[1].tolist(), raw.test[1].tolist(), raw.class_names) == (
        [0, 0, 1, 1],
        [0, 1],
        ("aloe", "basil"),
    )


def test_plants_as_parquet(tmp_path):
    parquet(tmp_path / "Plant_Detection_Classification", train=part([0, 1])[0], test=part([1], start=9)[0])
    assert DATASETS["PLANT_CLASSIFICATION"](tmp_path).train[1].tolist() == [0, 1]


def test_pokemon_as_the_hub_has_them_zipped_beside_a_script(tmp_path):
    root = tmp_path / "pokemon-classification"
    (root / "data").mkdir(parents=True)
    (root / "pokemon-classification.py").write_text("raise SystemExit('a script of the hub was run')")
    expected = {}
    for name, start, count in (("train", 0, 2), ("valid", 20, 1), ("test", 40, 1), ("valid-mini", 60, 1)):
        pixels = class_folders(tmp_path / name, {"Abra": count, "Zubat": count}, start=start)
        expected[name] = pixels
        with zipfile.ZipFile(root / "data" / f"{name}.zip", "w") as file:
            for image in sorted((tmp_path / name).rglob("*.png")):
                file.write(image, image.relative_to(tmp_path / name))
    with pytest.warns(UserWarning, match="the split valid is left out"):
        raw = DATASETS["pokemon_classification"](tmp_path)
    assert raw.class_names == ("Abra", "Zubat")
    assert np.array_equal(raw.train[0].numpy(), expected["train"]) and np.array_equal(
        raw.test[0].numpy(), expected["test"]
    )


def zipped(tmp_path, change):
    """pokemon-classification/train.zip of four pictures, whose bytes are then changed."""
    (tmp_path / "pokemon-classification").mkdir()
    file = tmp_path / "pokemon-classification" / "train.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(4):
            packed.writestr(f"Abra/{number}.png", encoded(noise(number)))
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)


def garbled(content):
    """The first member's stream, which begins after a header of 30 bytes and its name, is none that zlib
    knows.
    """
    content[30 + len("Abra/0.png")] = 0xFF


def encrypted(content):
    """The flags of every member say that it has a password."""
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 1)


def of_an_unknown_kind(content):
    """Every member says that it is packed by a method that nobody has."""
    for signature, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(signature)
        while at >= 0:
            content[at + method] = 99
            at = content.find(signature, at + 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (garbled, r"whole zip file, got a damaged one: .*train\.zip \(Error -3.*Download it again"),
        (
            encrypted,
            r"zip file without a password, got one with it: .*train\.zip\. Unpack it into .*train$",
        ),
        (of_an_unknown_kind, r"zip file that Python reads, got .*train\.zip .*Unpack it into .*train$"),
    ],
)
def test_a_zip_file_that_can_not_be_read_is_named(tmp_path, change, match):
    zipped(tmp_path, change)
    with pytest.raises(ValueError, match=f"POKEMON_CLASSIFICATION: expected a {match}"):
        DATASETS["pokemon_classification"](tmp_path)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_pokemon_unpacked(tmp_path):
    for name, start in (("train", 0), ("valid", 20), ("test", 40)):
        class_folders(
            tmp_path / "pokemon-classification" / "data" / name, {"Abra": 1, "Zubat": 1}, start=start
        )
    raw = DATASETS["POKEMON_CLASSIFICATION"](tmp_path)
    assert (raw.train[1].tolist(), raw.test[1].tolist()) == ([0, 1], [0, 1])


def test_a_folder_that_is_only_called_alike_is_not_taken(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="can't be had from the hub"):
        DATASETS["hf:mnist"](tmp_path)


def test_several_configurations_are_refused_and_one_is_taken(tmp_path):
    for kind, start in (("full", 0), ("mini", 20)):
        (tmp_path / "own" / kind / "train").mkdir(parents=True)
        part([0, 1], start=start)[0].to_parquet(tmp_path / "own" / kind / "train" / "0000.parquet")
    reason = r"expected one dataset, got several configurations: full, mini\. Name one: hf:.*own/full"
    with pytest.raises(ValueError, match=reason):
        DATASETS[f"hf:{tmp_path}/own"](tmp_path)
    assert DATASETS[f"hf:{tmp_path}/own/mini"](tmp_path).train[1].tolist() == [0, 1]


def test_a_configuration_of_the_hubs_is_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or part([0, 1])[0])
    for name in ("cifar", "somebody/something", "somebody/something/small"):
        DATASETS[f"hf:{name}"](tmp_path)
    assert asked == [("cifar",), ("somebody/something",), ("somebody/something", "small")]


# Columns


def test_columns_of_any_name(tmp_path):
    both = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.Value("string"), "thumb": datasets.Image()}
    )
    pictures, pixels = rows([0, 0, 0])
    made = datasets.Dataset.from_dict(
        {"picture": pictures, "kind": ["b", "a", "b"], "thumb": pictures}, features=both
    )
    raw = DATASETS[f"hf:{parquet(tmp_path / 'own', train=made)}:picture:kind"](tmp_path / "data")
    assert np.array_equal(raw.train[0].numpy(), pixels)
    assert (raw.train[1].tolist(), raw.class_names) == ([1, 0, 1], ("a", "b"))


def test_numbers_as_labels_are_ordered_as_numbers(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    made = datasets.Dataset.from_dict({"image": rows([0] * 3)[0], "label": [10, 9, 10]}, features=features)
    raw = DATASETS[f"hf:{parquet(tmp_path / 'own', train=made)}"](tmp_path / "data")
    assert (raw.train[1].tolist(), raw.class_names) == ([1, 0, 1], ("9", "10"))


def test_parquet_without_the_hubs_notes_of_types(tmp_path):
    made = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded(noise(i)), "path": None} for i in range(2)], "label": [0, 1]}
    )
    assert DATASETS[f"hf:{parquet(tmp_path / 'own', train=made)}"](tmp_path / "data").train[1].tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("", "expected hf:NAME or hf:NAME:IMAGE_COLUMN:LABEL_COLUMN"),
        ("a/b:image", "Give both columns or none"),
        ("a/b::", "Give both columns or none"),
        ("a/b:image:label:more", "Give both columns or none"),
    ],
)
def test_a_name_that_is_none(spec, match):
    with pytest.raises(ValueError, match=match):
        DATASETS[f"hf:{spec}"]


def refused(tmp_path, made, match, columns=""):
    with pytest.raises(ValueError, match=match):
        DATASETS[f"hf:{parquet(tmp_path / 'own', **made)}{columns}"](tmp_path / "data")


def test_a_column_that_is_not_there(tmp_path):
    refused(
        tmp_path,
        {"train": part([0, 1])[0]},
        r"unknown column 'labell'\. Did you mean 'label'\? Columns: image, label",
        ":image:labell",
    )


def test_columns_that_can_not_be_guessed(tmp_path):
    made = datasets.Dataset.from_dict({"image": rows([0, 0])[0], "text": ["x", "y"]})
    refused(
        tmp_path,
        {"train": made},
        "expected one image column and one label column, got image and none among image, text",
    )


def test_an_image_without_a_label_is_named(tmp_path):
    refused(
        tmp_path,
        {"train": part([0, 1, -1])[0]},
        "expected a class for each image, got -1 in row 2 of train, column label",
    )


def test_a_corrupt_image_is_named_by_its_row(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    cells = [
        {"bytes": encoded(noise(0)), "path": "0.png"},
        {"bytes": encoded(noise(1))[:60], "path": "1.png"},
        None,
    ]
    made = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 1]}, features=features)
    refused(
        tmp_path,
        {"train": made},
        r"2 of the images can't be read: row 1 of train \(1\.png\) .*, row 2 of train",
    )


def test_labels_that_are_lists_are_refused(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Sequence(datasets.Value("int64"))}
    )
    made = datasets.Dataset.from_dict({"image": [noise(0), noise(1)], "label": [[0], [1]]}, features=features)
    refused(tmp_path, {"train": made}, "expected a class for each image in the column label, got a list")


def test_a_changed_file_that_a_cell_names_is_read_again(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    (tmp_path / "own").mkdir()
    files = [tmp_path / "own" / "1.png", tmp_path / "own" / "2.png"]
    for at, file in enumerate(files):
        file.write_bytes(encoded(noise(at)))
    made = datasets.Dataset.from_dict(
        {"image": [str(file) for file in files], "label": [0, 1]}, features=features
    )
    pq.write_table(
        made.data.table, tmp_path / "own" / "train.parquet"
    )  # the datasets library would put the content into the cells
    for seed in (0, 7):
        files[0].write_bytes(encoded(noise(seed)))
        os.utime(files[0], (seed, seed))
        found = DATASETS[f"hf:{tmp_path / 'own'}"](tmp_path / "data").train[0][0]
        assert np.array_equal(found.numpy(), np.asarray(noise(seed)).transpose(2, 0, 1))


def test_a_class_in_test_that_train_lacks(tmp_path):
    refused(
        tmp_path, {"train": part([0, 0])[0], "test": part([1], start=9)[0]}, "in the test part, got dog too"
    )


def test_an_image_with_two_labels_is_worth_a_word(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict(
        {"image": [plain("red"), plain("red"), plain("blue")], "label": [0, 1, 1]}, features=features
    )
    reason = r"two classes, as published: row 0 of train \(a\) and row 1 of train \(b\)"
    with pytest.warns(UserWarning, match=reason):
        DATASETS[f"hf:{parquet(tmp_path / 'own', train=made)}"](tmp_path / "data")


def test_no_train_split(tmp_path):
    refused(
        tmp_path,
        {"test": part([0])[0], "validation": part([1], start=9)[0]},
        "expected one split called train, got test, validation",
    )


def test_a_damaged_file_is_named(tmp_path):
    root = parquet(tmp_path / "own", train=part([0, 1])[0])
    file = root / "data" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    reason = r"hf-own: expected a dataset in .*own, and it can't be read .*Download it again"
    with pytest.raises(ValueError, match=reason):
        DATASETS[f"hf:{root}"](tmp_path / "data")


# No network


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("hf:somebody/something", "somebody/something"),
        ("PLANT_CLASSIFICATION", "jameelkhalidawan/Plant_Detection_Classification"),
        ("POKEMON_CLASSIFICATION", "fcakyon/pokemon-classification"),
    ],
)
def test_without_network_it_is_said_which_files_to_put_where(tmp_path, name, files):
    place = tmp_path / files.split("/")[1]
    reason = rf"expected {files} in {place}, and it can't be had from the hub .*--local-dir {place}"
    with pytest.raises(FileNotFoundError, match=reason):
        DATASETS[name](tmp_path)


def test_without_network_a_configuration_is_said_to_be_fetched_with_its_dataset_and_then_found(tmp_path):
    with pytest.raises(FileNotFoundError) as refusal:
        DATASETS["hf:somebody/own/small"](tmp_path)
    owner_and_name, place = re.search(
        r"hf download (\S+) --repo-type dataset --local-dir (\S+),", str(refusal.value)
    ).groups()
    assert owner_and_name == "somebody/own" and f"expected somebody/own/small in {place}/small" in str(
        refusal.value
    )
    parquet_file = pathlib.Path(place) / "small" / "train-00000-of-00001.parquet"
    parquet_file.parent.mkdir(parents=True)
    part([0, 1])[0].to_parquet(parquet_file)
    assert DATASETS["hf:somebody/own/small"](tmp_path).train[1].tolist() == [0, 1]
