"""How a person's own images are read: their name, their channels, repetitions, and the architecture that they
get.
"""

import numpy as np
import pytest
import torch
from pictures import class_folders, noise, plain, write
from PIL import Image

from lethe.data import DATASETS, ForgetRequest
from lethe.data.impl import read as read_dataset
from lethe.data.impl import results_folder


def read(own, **given):
    return read_dataset(f"folder:{own}", own.parent / "data", given)


# The name


def test_a_folder_of_the_working_folder_has_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [DATASETS[f"folder:{path}"].name for path in ("signs", "./signs/", f"{tmp_path}/signs")] == [
        "folder-signs"
    ] * 3


def test_two_folders_of_one_last_name_are_two_datasets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [DATASETS[f"folder:{path}"].name for path in ("a/data", "b/data", "/x/a/data", "/x/b/data")]
    assert len(set(names)) == 4 and all(name.startswith("folder-data-") for name in names)
    assert DATASETS[f"folder:{tmp_path}/a/data"].name == names[0]


def test_a_moved_project_keeps_its_names(tmp_path, monkeypatch):
    names = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        names.append(DATASETS["folder:images/data"].name)
    assert names[0] == names[1]


def test_a_link_keeps_the_name_that_it_was_given(tmp_path, monkeypatch):
    class_folders(tmp_path / "elsewhere" / "Dataset", {"cat": 2, "dog": 2})
    (tmp_path / "sign").symlink_to(tmp_path / "elsewhere" / "Dataset")
    monkeypatch.chdir(tmp_path)
    assert DATASETS["folder:sign"].name == "folder-sign"


def test_functions_of_one_name_in_two_files_have_results_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / name for name in ("a/file.py", "b/file.py", "file.py", "other.py")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("def digits(folder): ...\n")
    folders = [results_folder(f"{file.relative_to(tmp_path)}:digits") for file in files]
    assert len({*folders, results_folder("digits")}) == 5
    assert (
        folders[2].as_posix() == "results/file-file.py-digits"
        and results_folder("digits").as_posix() == "results/digits"
    )


# Channels


def grey_in_colour(root):
    for label in ("a", "b"):
        for number in range(2):
            grey = np.random.default_rng(10 * ord(label) + number).integers(0, 256, (8, 8), dtype=np.uint8)
            write(root / label / f"{number}.png", Image.fromarray(grey).convert("RGB"))
    return root


def test_grey_stored_as_rgb_is_one_channel_with_a_word_each_time(tmp_path):
    own = grey_in_colour(tmp_path / "own")
    said = "every training image is grey, stored as RGB: one channel is read. --image_channels 3 reads"
    for _ in range(2):
        with pytest.warns(UserWarning, match=said):
            assert read(own).train[0].shape == (4, 1, 8, 8)


def test_the_flag_decides_how_many_channels(tmp_path):
    own = grey_in_colour(tmp_path / "own")
    three = read(own, image_channels=3).train[0]
    assert three.shape == (4, 3, 8, 8)
    assert torch.equal(read(own, image_channels=1).train[0], three[:, :1])


def test_one_pixel_of_colour_makes_three(tmp_path):
    own = grey_in_colour(tmp_path / "own")
    picture = plain((9, 9, 9))
    picture.putpixel((3, 3), (9, 9, 10))
    write(own / "b" / "9.png", picture)
    assert read(own).train[0].shape == (5, 3, 8, 8)


def test_sets_of_a_fixed_form_have_no_such_flag(tmp_path):
    reason = "--image_channels: expected folder:PATH or hf:NAME with this flag, got digits"
    with pytest.raises(ValueError, match=reason):
        read_dataset("digits", tmp_path, {"image_channels": 3})


# Repetitions


def test_the_message_of_one_file_under_two_classes_says_how_to_go_on(tmp_path):
    class_folders(tmp_path / "own", {"a": 3, "b": 3})
    write(tmp_path / "own" / "b" / "copy.png", noise(0))
    with pytest.raises(ValueError, match="the same file under two: .* with --duplicates drop"):
        read(tmp_path / "own")


def test_duplicates_are_dropped_of_two_classes_both_of_one_all_but_the_first(tmp_path):
    own = tmp_path / "own"
    pixels = class_folders(own / "train", {"a": 3, "b": 3})
    class_folders(own / "test", {"a": 1, "b": 1}, start=20)
    write(own / "train" / "b" / "copy.png", noise(0))  # a/000.png
    write(own / "train" / "a" / "copy.png", noise(1))  # a/001.png
    write(own / "test" / "a" / "copy.png", noise(2))  # of training
    reason = "left out 3 of the train images and 1 of the test images: every file with two classes, and"
    with pytest.warns(UserWarning, match=reason):
        raw = read(own, duplicates="drop")
    assert np.array_equal(raw.train[0].numpy(), pixels[1:])
    assert (raw.train[1].tolist(), raw.test[1].tolist()) == ([0, 0, 1, 1, 1], [0, 1])


# The architecture


@pytest.mark.parametrize(
    ("picture", "gpu", "arch"),
    [
        (plain(7, mode="L", size=(16, 16)), False, "mlp"),
        (plain((7, 7, 7), size=(32, 32)), True, "mlp"),
        (plain(7, mode="L", size=(33, 8)), False, "cnn"),
        (plain("red"), False, "cnn"),
        (plain("red"), True, "resnet18"),
    ],
)
def test_the_default_architecture_goes_by_size_and_processor(tmp_path, monkeypatch, picture, gpu, arch):
    found = torch.device("cuda") if gpu else None
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: found)
    write(tmp_path / "own" / "a" / "1.png", picture)
    assert DATASETS[f"folder:{tmp_path}/own"].facts.arch == arch


# Classes by name


NAMES = ("0", "1", "10", "2", "cat", "Dog")


@pytest.mark.parametrize(("word", "number"), [("cat", 4), ("dog", 5), ("4", 4), ("0", 0), ("1", 1)])
def test_a_class_is_given_by_name_or_number(word, number):
    assert ForgetRequest((word,)).of_classes(NAMES).classes == (number,)


def test_a_name_comes_before_a_number_and_both_are_said():
    reason = "this is the class called '2', number 3 in the order of the names; number 2 is called '10'"
    with pytest.warns(UserWarning, match=reason):
        request = ForgetRequest(("2",)).of_classes(NAMES)
    assert (request.slug, request.in_words(7, NAMES)) == ("class3", "class 3 (2)")


def test_a_request_s_flags_mean_its_classes_again():
    for number in range(len(NAMES)):
        flags = ForgetRequest((number,)).of_classes(NAMES).flags()
        (word,) = flags.get("class_to_replace", ["0"])
        assert ForgetRequest((word,)).of_classes(NAMES).classes == (number,)


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="--class_to_replace: unknown class 'cta'. Did you mean 'cat'?"):
        ForgetRequest(("cta",)).of_classes(NAMES)


def test_a_name_that_was_not_looked_up_has_no_number():
    with pytest.raises(ValueError, match="expected classes as numbers, got the name 'cat'"):
        _ = ForgetRequest(("cat",)).slug
