"""Forget requests: which images they mean, their slugs and flags, and the file of indexes."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.data import ForgetRequest, read_indexes
from tests.hypothesis_settings import FEW
from tests.numbered_images import numbered

# Forget requests

LABELS = [0] * 4 + [1] * 6 + [2] * 10


def divided(request, labels=LABELS, classes=3, split_seed=0):
    division = request.divide(numbered(labels), classes, split_seed)
    return division.forget, division.retain


def test_the_default_is_every_image_of_class_0():
    assert divided(ForgetRequest())[0].indexes.tolist() == [0, 1, 2, 3]


def test_a_class_is_every_image_of_it():
    assert divided(ForgetRequest((1,)))[0].indexes.tolist() == [4, 5, 6, 7, 8, 9]


def test_several_classes_are_every_image_of_each():
    assert divided(ForgetRequest((0, 2)))[0].indexes.tolist() == [*range(4), *range(10, 20)]


def test_a_number_is_that_many_of_the_class():
    assert divided(ForgetRequest((2,), 3))[0].labels.tolist() == [2, 2, 2]


def test_a_number_of_several_classes_is_drawn_from_them_together():
    forget, _ = divided(ForgetRequest((0, 1), 9))
    assert len(forget) == 9 and set(forget.classes) == {0, 1}


def test_a_number_of_any_class_is_that_many():
    forget, _ = divided(ForgetRequest((-1,), 15))
    assert len(forget) == 15 and len(forget.classes) > 1


def test_a_number_may_be_the_whole_class():
    assert len(divided(ForgetRequest((0,), 4))[0]) == 4


def test_the_classes_that_go_are_those_that_retain_nothing():
    images = numbered([0, 1, 1, 2])
    assert ForgetRequest(indexes=(0, 1, 3)).divide(images, 3, 0).gone == (0, 2)


def test_listed_indexes_are_exactly_these_images():
    images = numbered([0, 1, 2, 0], indexes=[5, 11, 12, 40])
    division = ForgetRequest(indexes=(40, 11)).divide(images, 3, 0)
    forget, retain = division.forget, division.retain
    assert (forget.indexes.tolist(), retain.indexes.tolist()) == ([11, 40], [5, 12])


@FEW
@given(
    st.sampled_from(
        [
            ForgetRequest((0,)),
            ForgetRequest((0, 1)),
            ForgetRequest((1,), 2),
            ForgetRequest((-1,), 7),
            ForgetRequest(indexes=(1, 19)),
        ]
    ),
    st.integers(0, 20),
)
def test_forget_and_retain_are_the_whole_set(request_, split_seed):
    forget, retain = divided(request_, split_seed=split_seed)
    assert forget.joined(retain).digest == numbered(LABELS).digest


@pytest.mark.parametrize("request_", [ForgetRequest((2,), 4), ForgetRequest((-1,), 4)])
def test_which_images_a_number_means_is_fixed_by_the_split_seed(request_):
    assert divided(request_, split_seed=3)[0].digest == divided(request_, split_seed=3)[0].digest


@pytest.mark.parametrize("request_", [ForgetRequest((2,), 4), ForgetRequest((-1,), 4)])
def test_another_split_seed_means_other_images(request_):
    assert len({divided(request_, split_seed=seed)[0].digest for seed in range(5)}) > 1


def test_a_larger_number_contains_the_smaller():
    few, many = (set(divided(ForgetRequest((2,), number))[0].indexes.tolist()) for number in (3, 7))
    assert few < many


def test_minus_one_alone_is_refused():
    with pytest.raises(ValueError, match="-1 means any class and alone would forget everything"):
        ForgetRequest((-1,))


def test_minus_one_beside_a_class_is_refused():
    with pytest.raises(ValueError, match=r"expected -1 alone or classes, got \[-1, 3\]"):
        ForgetRequest((-1, 3), 5)


@pytest.mark.parametrize("number", [0, -1, -450])
def test_a_number_below_1_is_refused(number):
    with pytest.raises(ValueError, match=f"--num_indexes_to_replace: expected an integer >= 1, got {number}"):
        ForgetRequest((0,), number)


@pytest.mark.parametrize("label", [3, 10, -2])
def test_a_class_that_does_not_exist_is_refused(label):
    with pytest.raises(ValueError, match=f"--class_to_replace: expected a class from 0 to 2, got {label}"):
        divided(ForgetRequest((label,)))


@pytest.mark.parametrize(("classes", "available"), [((0,), 4), ((0, 1), 10), ((-1,), 20)])
def test_more_images_than_there_are_is_refused(classes, available):
    reason = f"--num_indexes_to_replace: expected at most {available}, .*, got {available + 1}"
    with pytest.raises(ValueError, match=reason):
        divided(ForgetRequest(classes, available + 1))


@pytest.mark.parametrize(
    "request_", [ForgetRequest((0, 1, 2)), ForgetRequest((-1,), 20), ForgetRequest(indexes=tuple(range(20)))]
)
def test_a_request_that_takes_everything_is_refused(request_):
    with pytest.raises(ValueError, match="takes every training image and leaves nothing to retain"):
        divided(request_)


@pytest.mark.parametrize(
    "request_",
    [ForgetRequest(()), ForgetRequest(indexes=()), ForgetRequest((2,))],
    ids=["no class", "no index", "no image"],
)
def test_a_request_that_takes_nothing_is_refused(request_):
    with pytest.raises(ValueError, match="at least one"):
        divided(request_, labels=[0, 1, 0, 1])


def test_the_index_of_a_validation_image_is_refused(digits):
    stranger = digits.validation.indexes[0].item()
    with pytest.raises(ValueError, match=f"expected indexes of training images, got {stranger} and 0 more"):
        ForgetRequest(indexes=(digits.train.indexes[0].item(), stranger)).divide(digits.train, 10, 0)


@pytest.mark.parametrize("index", [1797, 10**30])
def test_an_index_that_does_not_exist_is_refused(digits, index):
    with pytest.raises(ValueError, match="--forget_indexes: expected indexes of training images"):
        ForgetRequest(indexes=(index,)).divide(digits.train, 10, 0)


@pytest.mark.parametrize(
    ("request_", "slug"),
    [
        (ForgetRequest(), "class0"),
        (ForgetRequest((3,)), "class3"),
        (ForgetRequest((3, 5)), "class3+5"),
        (ForgetRequest((3,), 450), "class3-450"),
        (ForgetRequest((-1,), 4500), "any-4500"),
        (ForgetRequest(indexes=(7, 12)), "indexes-" + hashlib.sha256(b"(7, 12)").hexdigest()[:8]),
    ],
)
def test_slug(request_, slug):
    assert request_.slug == slug


def test_many_classes_have_a_slug_that_a_file_can_be_called():
    classes = tuple(range(20, 100))
    hash8 = hashlib.sha256(repr(classes).encode()).hexdigest()[:8]
    assert ForgetRequest(classes).slug == f"classes80-{hash8}"
    assert ForgetRequest(classes, 450).slug == f"classes80-{hash8}-450"
    assert ForgetRequest(classes).slug != ForgetRequest(tuple(range(19, 99))).slug
    assert ForgetRequest(tuple(range(31))).slug == "class" + "+".join(map(str, range(31)))


def test_other_indexes_have_another_slug():
    assert ForgetRequest(indexes=(7, 12)).slug != ForgetRequest(indexes=(7, 13)).slug


@pytest.mark.parametrize(
    ("request_", "flags"),
    [
        (ForgetRequest(), {}),
        (ForgetRequest((3,)), {"class_to_replace": ["3"]}),
        (ForgetRequest((3, 5)), {"class_to_replace": ["3", "5"]}),
        (ForgetRequest((0,), 20), {"num_indexes_to_replace": ["20"]}),
        (ForgetRequest((-1,), 4500), {"class_to_replace": ["-1"], "num_indexes_to_replace": ["4500"]}),
        (ForgetRequest(indexes=(7,), file="forget.txt"), {"forget_indexes": ["forget.txt"]}),
    ],
)
def test_flags(request_, flags):
    assert request_.flags() == flags


# The file of indexes


def written(folder, text):
    file = folder / "forget.txt"
    file.write_text(text)
    return file


def test_indexes_are_read_one_a_line(tmp_path):
    assert read_indexes(written(tmp_path, "12\n\n  7 \n100")) == (7, 12, 100)


@FEW
@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_what_is_written_is_read_in_ascending_order(indexes):
    with tempfile.TemporaryDirectory() as folder:
        assert read_indexes(written(Path(folder), "\n".join(map(str, indexes)))) == tuple(sorted(indexes))


def test_a_missing_file_of_indexes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--forget_indexes: .* there is no file .*nowhere\.txt"):
        read_indexes(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("junk", ["seven", "-7", "7.0", "7,8", "²"])
def test_a_line_that_is_no_index_is_named(tmp_path, junk):
    with pytest.raises(ValueError, match=rf"expected an index >= 0 on line 3 of .*forget\.txt, got '{junk}'"):
        read_indexes(written(tmp_path, f"1\n\n{junk}\n2\n"))


def test_a_file_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "forget.txt"
    file.write_bytes(b"1\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"--forget_indexes: .*forget\.txt"):
        read_indexes(file)


def test_a_repeated_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected each index once"):
        read_indexes(written(tmp_path, "1\n2\n1\n"))


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_file_without_indexes_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="expected at least one index"):
        read_indexes(written(tmp_path, text))
