"""Attributes of images from files: folders in class folders, attributes.csv, columns of a hub dataset."""

import datasets
import pytest
from pictures import class_folders, noise, write

from lethe.data import DATASETS, ForgetRequest, load_splits
from lethe.data.reading import reading

TABLE = "path,source,person\ncat/000.png,A,1\ncat/001.png,B,2\ndog/000.png,B,1\n"


@pytest.fixture
def photos(tmp_path):
    """A folder of two cats and a dog."""
    class_folders(tmp_path / "photos", {"cat": 2, "dog": 1})
    return tmp_path / "photos"


def columns_of(path, tmp_path):
    """The attributes of a folder's training images, read."""
    return {
        name: list(texts) for name, texts in DATASETS[f"folder:{path}"](tmp_path / "data").columns.items()
    }


def test_a_second_level_of_folders_is_the_subclass(tmp_path):
    for number, place in enumerate(("cat/a.png", "cat/lynx/b.png", "cat/lynx/young/c.png", "dog/pug/d.png")):
        write(tmp_path / "photos" / place, noise(number))
    assert columns_of(tmp_path / "photos", tmp_path) == {"subclass": ["", "lynx", "lynx", "pug"]}


def test_folders_without_one_have_no_attributes(photos, tmp_path):
    assert columns_of(photos, tmp_path) == {}


def test_a_table_in_the_folder_has_attributes(photos, tmp_path):
    (photos / "attributes.csv").write_text(TABLE)
    assert columns_of(photos, tmp_path) == {"source": ["A", "B", "B"], "person": ["1", "2", "1"]}


@pytest.mark.parametrize("place", ["attributes.csv", "train/attributes.csv"])
@pytest.mark.parametrize("within", ["", "./", "train/"])
def test_a_table_of_the_training_split_has_its_paths(place, within, tmp_path):
    root = tmp_path / "photos"
    class_folders(root / "train", {"cat": 2, "dog": 1})
    class_folders(root / "test", {"cat": 1, "dog": 1}, start=50)
    lines = "".join(f"{within}{line}\n" for line in TABLE.splitlines()[1:])
    (root / place).write_text(f"path,source,person\n{lines}test/cat/000.png,C,9\n")
    assert columns_of(root, tmp_path)["source"] == ["A", "B", "B"]


def test_an_image_that_is_left_out_as_a_copy_leaves_its_line_out(photos, tmp_path):
    (photos / "cat" / "002.png").write_bytes((photos / "cat" / "000.png").read_bytes())
    (photos / "attributes.csv").write_text(TABLE + "cat/002.png,C,3\n")
    entry = DATASETS[f"folder:{photos}"]
    with pytest.warns(UserWarning, match="left out 1 of the train images"):
        raw = entry(tmp_path / "data", reading(duplicates="drop"))
    assert list(raw.columns["source"]) == ["A", "B", "B"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "expected names of columns on the first line, .* got nothing"),
        ("path\ncat/000.png\n", "expected names of columns on the first line"),
        ("path,a,a\n", "expected names of columns on the first line, each another"),
        ("path,a,\n", "expected names of columns on the first line"),
        (TABLE + "cat/000.png,A,1\n", r"expected each image once, got 'cat/000.png' again on line 5"),
        (TABLE + "cat/009.png,A,1\n", r"line 5 of .*: expected the path of an image, .* got 'cat/009.png'"),
        (TABLE + "../photos/cat/000.png,A,1\n", "line 5 of .*: expected the path of an image"),
        (TABLE + "/etc/passwd,A,1\n", "line 5 of .*: expected the path of an image"),
        (TABLE + "cat/\0.png,A,1\n", "line 5 of .*: expected the path of an image"),
        (TABLE + "cat/001.png,A\n", "line 5 of .*: expected 3 cells as on the first line, got 2"),
        (TABLE + '"cat/001.png,A\n', "line 5 of .*: expected cells between commas"),
        (
            "path,source\ncat/000.png,A\n",
            "a line for each training image, got none for cat/001.png and 1 more",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, message, photos, tmp_path):
    (photos / "attributes.csv").write_text(table)
    raw = DATASETS[f"folder:{photos}"](tmp_path / "data")  # nobody asks for an attribute here
    with pytest.raises(ValueError, match=message):
        list(raw.columns)


def test_a_table_that_is_no_text_is_refused(photos, tmp_path):
    (photos / "attributes.csv").write_bytes(b"path,source\ncat/000.png,\xff\xfe\n")
    with pytest.raises(ValueError, match="expected text in UTF-8"):
        columns_of(photos, tmp_path)


def test_a_table_may_not_name_the_subclass_of_folders_again(tmp_path):
    write(tmp_path / "photos" / "cat" / "lynx" / "0.png", noise(0))
    write(tmp_path / "photos" / "dog" / "0.png", noise(1))
    (tmp_path / "photos" / "attributes.csv").write_text("path,subclass\ncat/lynx/0.png,a\ndog/0.png,b\n")
    with pytest.raises(ValueError, match="expected other columns than 'subclass'"):
        columns_of(tmp_path / "photos", tmp_path)


def test_other_columns_of_a_hub_dataset_are_attributes(tmp_path, no_hub):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "source": datasets.Value("string"),
            "person": datasets.Value("int32"),
            "indoor": datasets.Value("bool"),
            "fine": datasets.ClassLabel(names=["lynx", "pug"]),
            "weight": datasets.Value("float32"),
            "boxes": datasets.Sequence(datasets.Value("int32")),
        }
    )
    rows = {
        "image": [noise(number) for number in range(3)],
        "label": [0, 1, 1],
        "source": ["A", None, "B"],
        "person": [7, 8, 7],
        "indoor": [True, False, None],
        "fine": [0, 1, -1],
        "weight": [0.5] * 3,
        "boxes": [[1]] * 3,
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "own.parquet")
    raw = DATASETS[f"hf:{tmp_path / 'own.parquet'}:image:label"](tmp_path / "data")
    assert {name: list(texts) for name, texts in raw.columns.items()} == {
        "source": ["A", "", "B"],
        "person": ["7", "8", "7"],
        "indoor": ["true", "false", ""],
        "fine": ["lynx", "pug", ""],
    }


def test_a_subclass_of_folders_is_forgotten(tmp_path):
    for number in range(40):
        place = f"cat/{'lynx' if number % 2 else 'puma'}/{number}.png"
        write(tmp_path / "photos" / place, noise(number))
        write(tmp_path / "photos" / "dog" / f"{number}.png", noise(100 + number))
    splits = load_splits(f"folder:{tmp_path / 'photos'}", tmp_path / "data")
    request = ForgetRequest.chosen(subclass="lynx").resolved(splits)
    # Sorted by path, the 20 lynxes come first.
    assert set(request.indexes) == set(splits.train.indexes.tolist()) & set(range(20))
