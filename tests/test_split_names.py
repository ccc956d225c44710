"""Which split is for training and which for the test: one table for folders, Parquet, saved sets and what a
README says.
"""

import re

import datasets
import pytest
from pictures import class_folders, noise, write

from lethe.data import DATASETS
from lethe.data.split_names import NOTHING_ASKED, Asked, choose, meaning_of

pytestmark = pytest.mark.usefixtures("no_hub")


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("training_set", "train"),
        ("seg_test", "test"),
        ("val", "validation"),
        ("dev-2", "validation"),
        ("full", None),
        ("trained", None),
        ("", None),
    ],
)
def test_what_a_name_means(name, meaning):
    assert meaning_of(name) == meaning


def chosen(splits, labelled=lambda split, train: True, asked=NOTHING_ASKED):
    found = choose("own", splits, labelled, asked)
    return found.train, found.test


def test_a_word_in_a_name_counts_where_no_split_has_the_whole_name():
    assert chosen(["seg_train", "seg_test"]) == ("seg_train", "seg_test")


def test_another_split_is_never_added_to_train():
    said = "own: the split train_extra, unsupervised is left out: train is for training, a part of train for"
    with pytest.warns(UserWarning, match=said):
        assert chosen(["train", "train_extra", "unsupervised"]) == ("train", None)


def test_a_test_split_without_labels_gives_way_to_validation():
    with pytest.warns(UserWarning, match="own: no labels in the split test: val is for the test"):
        assert chosen(["train", "val", "test"], lambda split, train: split != "test") == ("train", "val")


def test_where_no_other_split_has_labels_a_part_of_train_is_the_test():
    with pytest.warns(UserWarning, match="no labels in the split test: a part of train is for the test"):
        assert chosen(["train", "test"], lambda split, train: False) == ("train", None)


@pytest.mark.parametrize("splits", [["full", "extra"], ["a_train", "b_train"]])
def test_where_no_split_or_several_mean_train_a_person_has_to_say(splits):
    reason = rf"expected one split called train, got {', '.join(splits)}\. Name the one .* --train_split"
    with pytest.raises(ValueError, match=reason):
        chosen(splits)
    with pytest.warns(UserWarning, match=f"the split {splits[1]} is left out"):
        assert chosen(splits, asked=Asked(train=splits[0].upper()))[0] == splits[0]


def test_a_single_split_is_for_training():
    assert chosen(["full"]) == ("full", None)


def test_the_splits_that_are_asked_for_are_taken():
    assert chosen(["full", "extra"], asked=Asked("full", "extra")) == ("full", "extra")


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"own: --test_split: unknown split 'tset'\. Did you mean 'test'\?"):
        chosen(["train", "test"], asked=Asked(test="tset"))


# Folders


@pytest.fixture
def own(tmp_path):
    return tmp_path / "own"


def read(own, **given):
    from lethe.data.impl import read as read_dataset

    return read_dataset(f"folder:{own}", own.parent / "data", given)


@pytest.mark.parametrize("unlabelled", ["flat", "empty", "nested"])
def test_val_stands_for_a_test_folder_without_classes(own, unlabelled):
    class_folders(own / "train", {"cat": 2, "dog": 2})
    class_folders(own / "val", {"cat": 1, "dog": 2}, start=20)
    (own / "test").mkdir()
    if unlabelled != "empty":
        write(own / "test" / ("1.png" if unlabelled == "flat" else "unknown/1.png"), noise(50))
    with pytest.warns(UserWarning, match="no labels in the split test: val is for the test"):
        assert read(own).test[1].tolist() == [0, 1, 1]


def test_folders_of_splits_may_have_more_words(own):
    class_folders(own / "training_set", {"cat": 2, "dog": 2})
    class_folders(own / "test_set", {"cat": 1, "dog": 1}, start=20)
    raw = read(own)
    assert (raw.class_names, len(raw.test[1])) == (("cat", "dog"), 2)


def test_a_class_with_such_a_word_is_a_class(own):
    class_folders(own, {"test_tube": 2, "train_station": 2})
    assert read(own).class_names == ("test_tube", "train_station")


def test_a_split_of_another_name_beside_train_is_no_class(own):
    class_folders(own / "train", {"cat": 2, "dog": 2})
    class_folders(own / "extra", {"cat": 2, "dog": 2}, start=20)
    with pytest.warns(UserWarning, match="the split extra is left out"):
        assert read(own).class_names == ("cat", "dog")


def test_folders_that_look_like_splits_of_other_names_are_classes_with_a_word(own):
    class_folders(own / "full", {"cat": 2, "dog": 2})
    class_folders(own / "extra", {"cat": 2, "dog": 2}, start=20)
    said = "extra, full are taken for classes, and each has the same folders: cat, dog. If they are splits"
    with pytest.warns(UserWarning, match=said):
        assert read(own).class_names == ("extra", "full")
    raw = read(own, train_split="full", test_split="extra")
    assert (raw.class_names, len(raw.train[1]), len(raw.test[1])) == (("cat", "dog"), 4, 4)


# The hub's forms


def rows(labels, start=0):
    pictures = [noise(start + number) for number in range(len(labels))]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)


def hub(root, **given):
    from lethe.data.impl import read as read_dataset

    return read_dataset(f"hf:{root}", root.parent / "data", given)


def saved(root, **splits):
    for name, found in splits.items():
        root.mkdir(exist_ok=True)
        found.to_parquet(root / f"{name}-00000-of-00001.parquet")
    return root


def test_parquet_splits_of_other_names_are_not_merged(own):
    saved(own, full=rows([0, 1, 0]), extra=rows([1, 1], start=20))
    remedy = "Name the one for training with --train_split"
    with pytest.raises(ValueError, match=f"expected one split called train, got extra, full. {remedy}"):
        hub(own)
    assert len(hub(own, train_split="full", test_split="extra").train[1]) == 3


@pytest.mark.parametrize("labels", [[-1, -1], [None, None], None])
def test_a_test_split_whose_labels_are_not_public_gives_way(own, labels):
    test = rows(labels or [0, 0], start=40)
    saved(
        own,
        train=rows([0, 1]),
        validation=rows([1], start=20),
        test=test if labels else test.remove_columns("label"),
    )
    with pytest.warns(UserWarning, match="no labels in the split test: validation is for the test"):
        assert hub(own).test[1].tolist() == [1]


README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: {0}
  - split: test
    path: {1}
---
"""


def test_a_readme_says_which_file_is_which_split(own):
    (own / "d").mkdir(parents=True)
    rows([0, 1, 0]).to_parquet(own / "d" / "part_a.parquet")
    rows([1], start=20).to_parquet(own / "d" / "part_b.parquet")
    (own / "README.md").write_text(README.format("d/part_a.parquet", "d/part_b*"))
    raw = hub(own)
    assert (raw.train[1].tolist(), raw.test[1].tolist()) == ([0, 1, 0], [1])


def test_a_readme_may_name_image_files(own):
    class_folders(own / "x", {"cat": 2, "dog": 1})
    class_folders(own / "y", {"cat": 1, "dog": 1}, start=20)
    (own / "README.md").write_text(README.format("x/**", "y/*/*.png"))
    raw = hub(own)
    assert (raw.class_names, raw.train[1].tolist(), raw.test[1].tolist()) == (
        ("cat", "dog"),
        [0, 0, 1],
        [0, 1],
    )


SEVERAL = """---
configs:
- {config_name: a, data_files: d/a.parquet}
- {config_name: b, data_files: d/b.parquet}
---
"""


def test_a_readme_s_configuration_is_chosen_behind_the_path(own):
    (own / "d").mkdir(parents=True)
    for name, labels in {"a": [0, 1, 0], "b": [1, 0]}.items():
        rows(labels).to_parquet(own / "d" / f"{name}.parquet")
    (own / "README.md").write_text(SEVERAL)
    assert hub(own / "a").train[1].tolist() == [0, 1, 0]
    assert hub(own / "b").train[1].tolist() == [1, 0]
    reason = r"unknown configuration 'c'\. Configurations: a, b \(of .*README.md\)\. Name one of them"
    with pytest.raises(ValueError, match=reason):
        hub(own / "c")


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        (
            README.format("../secret.parquet", "b"),
            "got ../secret.parquet for the split train in its README.md",
        ),
        (README.format("/etc/a.parquet", "b"), "got /etc/a.parquet for the split train"),
        (
            README.format("gone.parquet", "b"),
            "expected gone.parquet for the split train, as README.md says, and there is no such file",
        ),
        ("---\nconfigs: [\n---\n", "expected YAML at the top of .*README.md"),
        (
            "---\nconfigs:\n- {config_name: a, data_files: x.parquet}\n- {config_name: b, data_files: "
            "y.parquet}\n---\n",
            "expected one default configuration in .*README.md, got a, b. Name one, e.g. hf:.*own/a",
        ),
    ],
)
def test_a_readme_that_can_not_be_followed_is_named(own, readme, message):
    saved(own, train=rows([0, 1]))
    (own / "README.md").write_text(readme)
    with pytest.raises(ValueError, match=message if ".*" in message else re.escape(message)):
        hub(own)


def test_hidden_parquet_files_are_nobodys(own):
    saved(own, train=rows([0, 1]))
    (own / "._train-00000-of-00001.parquet").write_bytes(b"\0\5\26\7")
    (own / ".cache").mkdir()
    rows([0, 0], start=20).to_parquet(own / ".cache" / "train-00000-of-00001.parquet")
    assert DATASETS[f"hf:{own}"](own.parent / "data").train[1].tolist() == [0, 1]
