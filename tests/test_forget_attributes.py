"""Forget requests of images with an attribute: which images they mean, and what they say."""

from dataclasses import replace

import pytest
import torch
from numbered_images import numbered

from lethe.data import ForgetRequest, RawDataset, Splits, split
from lethe.data.choice import Choice
from lethe.data.condition import Condition
from lethe.evaluation.memorisation import Memorisation
from lethe.experiment.memorised import memorisation_csv
from lethe.flag_error import FlagError

# Index:          0      1      2       3       4       5      6       7       8
LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 1]
SUBCLASSES = ["bear", "bear", "seal", "seal", "maple", "oak", "oak", "palm", "palm"]
SOURCES = ["A", "B", "A", "B", "A", "B", "A", "B", "site B"]


def splits_of(trained_on=range(9), **columns):
    """Splits whose training images are those of the published ones with these indexes."""
    train = numbered([LABELS[index] for index in trained_on], list(trained_on))
    columns = columns or {"subclass": SUBCLASSES, "source": SOURCES}
    return Splits(train, train, train, "photos", ("animal", "tree"), 0, columns=columns)


def chosen(splits=None, **asked):
    splits = splits or splits_of()
    return list(ForgetRequest.chosen(**asked).resolved(splits).indexes)


@pytest.mark.parametrize(
    ("asked", "indexes"),
    [
        ({"subclass": "bear"}, [0, 1]),
        ({"subclass": "BEAR"}, [0, 1]),
        ({"subclass": ("palm", "bear")}, [0, 1, 7, 8]),
        ({"where": 'source == "B"'}, [1, 3, 5, 7]),
        ({"where": "source != A"}, [1, 3, 5, 7, 8]),
        ({"where": "source == site B"}, [8]),
        ({"where": "'source' == 'B'", "classes": (1,)}, [5, 7]),
        ({"where": "source == B", "classes": ("animal",)}, [1, 3]),
        ({"where": "source == B", "subclass": ("palm", "oak")}, [5, 7]),
        ({"where": "source == B", "classes": (-1,)}, [1, 3, 5, 7]),
    ],
)
def test_these_images_are_meant(asked, indexes):
    assert chosen(**asked) == indexes


def test_an_attribute_is_that_of_the_published_index():
    assert chosen(splits_of(trained_on=[8, 1, 3, 5]), where="source == B") == [1, 3, 5]


def test_a_number_of_them_is_drawn_by_the_split_seed():
    drawn = {
        tuple(chosen(replace(splits_of(), split_seed=seed), where="source == B", number=2))
        for seed in range(9)
    }
    assert len(drawn) > 1
    assert all(len(each) == 2 and set(each) <= {1, 3, 5, 7} for each in drawn)


def test_the_request_is_known_by_its_list():
    resolved = ForgetRequest.chosen(subclass="bear").resolved(splits_of())
    listed = ForgetRequest(indexes=(0, 1))
    assert (resolved.identity, resolved.slug, resolved.digest) == (
        listed.identity,
        listed.slug,
        listed.digest,
    )
    assert resolved.resolved(splits_of()) == resolved
    assert resolved.divide(splits_of().train, 2, 0).forget.indexes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("asked", "flags", "words"),
    [
        ({"subclass": "bear"}, {"forget_subclass": ["bear"]}, "2 images of the subclass bear"),
        (
            {"subclass": ("seal", "bear"), "number": 3},
            {"num_indexes_to_replace": ["3"], "forget_subclass": ["bear", "seal"]},
            "3 images of the subclasses bear or seal",
        ),
        (
            {"where": 'source == "B"', "classes": (1,)},
            {"class_to_replace": ["1"], "forget_where": ['source == "B"']},
            "2 images of class 1 (tree) where source == B",
        ),
    ],
)
def test_flags_and_words_are_as_asked(asked, flags, words):
    request = ForgetRequest.chosen(**asked).resolved(splits_of())
    assert request.flags() == flags
    assert request.in_words(len(request.indexes), ("animal", "tree")) == words


@pytest.mark.parametrize(
    "choice",
    [
        Choice(("bear",)),
        Choice(("polar bear", "sea 'lion'"), "source == B"),
        Choice(where='"a b" != ""'),
        Choice(end="hardest", number=50),
        Choice(("bear",), end="typical", number=3, scores="my scores.csv"),
    ],
)
def test_params_are_read_back(choice):
    assert Choice.of_params(choice.params()) == choice


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"forget_hardest": "many"}, "expected one number of images .* 'many'"),
        ({"forget_hardest": "5", "forget_easiest": "5"}, "expected one number of images"),
        ({"forget_where": "source"}, "--forget_where: expected a condition"),
    ],
)
def test_params_that_somebody_changed_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Choice.of_params(params)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"subclass": "beer"}, "--forget_subclass: unknown subclass 'beer'. Did you mean 'bear'"),
        (
            {"where": "sorce == B"},
            "--forget_where: unknown column 'sorce'. .*'source'.* Columns: source, subclass",
        ),
        ({"where": "source == C"}, "--forget_where: unknown value of 'source' 'C'. Values: A, B, site B"),
        ({"where": "source != C"}, "--forget_where: unknown value"),
        (
            {"subclass": "bear", "classes": (1,)},
            r"--forget_subclass: .* class 1 \(tree\) and the subclass bear, got none",
        ),
        ({"subclass": "bear", "number": 3}, "--num_indexes_to_replace: expected at most 2, .* got 3"),
        ({"subclass": "bear", "classes": ("bush",)}, "--class_to_replace: unknown class 'bush'"),
        ({"subclass": "bear", "classes": (7,)}, "--class_to_replace: expected a class from 0 to 1, got 7"),
    ],
)
def test_what_no_image_has_is_refused(asked, message):
    with pytest.raises(FlagError, match=message):
        chosen(**asked)


@pytest.mark.parametrize(
    ("asked", "columns", "message"),
    [
        (
            {"subclass": "bear"},
            {},
            "--forget_subclass: expected images with subclasses, .* photos have none. .*CIFAR20",
        ),
        ({"where": "a == b"}, {}, "--forget_where: expected images with attributes, .* photos have none"),
        ({"subclass": "bear"}, {"fine": SUBCLASSES}, "the columns fine. .*--forget_where"),
        ({"where": "a == b"}, {"a": ["b"]}, "'a' of photos: expected a text for each .* 9 .*, got 1"),
        ({"where": "a == b"}, None, "the columns of photos: expected a mapping of names to texts, got None"),
        ({"where": "a == b"}, {"a": "bbbbbbbbb"}, "'a' of photos: expected a list of texts, got 'bbb"),
        ({"where": "a == b"}, {"a": None}, "'a' of photos: expected a list of texts, got None"),
        ({"where": "a == 1"}, {"a": [1] * 9}, "'a' of photos: expected texts, got 1"),
    ],
)
def test_columns_that_are_missing_or_wrong_are_refused(asked, columns, message):
    with pytest.raises(FlagError, match=message):
        chosen(replace(splits_of(), columns=columns), **asked)


@pytest.mark.parametrize(
    "text",
    ["", "source", "source = B", "source === B", "== B", "source ==", "source == 'B", "a == b == c", "a < b"],
)
def test_other_conditions_are_refused(text):
    with pytest.raises(ValueError, match="--forget_where: expected a condition such as .*Put values"):
        ForgetRequest.chosen(where=text)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("source==B", Condition("source", True, "B")),
        ("  taken at !=  the lake ", Condition("taken at", False, "the lake")),
        ("'a == b' == \"it's\"", Condition("a == b", True, "it's")),
        ('source == ""', Condition("source", True, "")),
    ],
)
def test_conditions(text, condition):
    assert Condition.parse(text) == condition


def test_a_choice_has_no_images_before_it_is_resolved():
    request = ForgetRequest.chosen(subclass="bear")
    for use in (lambda: request.identity, lambda: request.divide(splits_of().train, 2, 0)):
        with pytest.raises(
            ValueError, match=r"a choice of them by --forget_subclass. Call resolved\(splits\)"
        ):
            use()


def test_the_columns_of_a_dataset_become_those_of_its_splits():
    images = numbered(LABELS)
    raw = RawDataset((images.images, images.labels), None, ("animal", "tree"), columns={"source": SOURCES})
    splits = split(raw, "photos", 0)
    expected = [index for index in sorted(splits.train.indexes.tolist()) if SOURCES[index] == "A"]
    assert sorted(chosen(splits, where="source == A")) == expected


# By memorisation, of images 0 to 8

SCORES = [0.1, 0.9, 0.5, 0.5, 0.0, 0.2, 0.4, 0.7, 0.375]


@pytest.fixture
def scores(tmp_path):
    lines = [f"{index},{score}\n" for index, score in enumerate(SCORES)]
    (tmp_path / "scores.csv").write_text("index,memorization\n" + "".join(reversed(lines)))
    return str(tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("asked", "indexes"),
    [
        ({"hardest": 2}, [1, 7]),
        ({"hardest": 3}, [1, 2, 7]),  # 2 and 3 are equal
        ({"easiest": 2}, [0, 4]),
        ({"typical": 2}, [6, 8]),  # the median is 0.4
        ({"hardest": 1, "classes": (1,)}, [7]),
        ({"typical": 1, "classes": ("tree",)}, [8]),
        ({"hardest": 1, "subclass": "seal", "where": "source == B"}, [3]),
    ],
)
def test_an_end_of_the_memorisation_is_meant(asked, indexes, scores):
    assert chosen(**asked, scores=scores) == indexes
    request = ForgetRequest.chosen(**asked)
    assert list(request.resolved(splits_of(), lambda: torch.tensor(SCORES)).indexes) == indexes


def test_of_equally_memorised_images_the_margin_form_decides(tmp_path):
    path = tmp_path / "memorisation.csv"
    rows = [(0, 0, 3), (1, 0, -1), (2, 0, 1), (3, 1, 0), (4, 0, 0), (5, 0, 2)]
    lines = [f"{index},{score},{margin}\n" for index, score, margin in rows]
    path.write_text("index,memorisation,margin_form\n" + "".join(lines))
    splits = splits_of(trained_on=range(6))
    assert chosen(splits, hardest=3, scores=str(path)) == [0, 3, 5]
    assert chosen(splits, easiest=2, scores=str(path)) == [1, 4]
    assert chosen(splits, typical=1, scores=str(path)) == [4]  # the median margin is 0


def test_the_worst_have_the_least_loss_for_models_without_them(tmp_path):
    path = tmp_path / "memorisation.csv"
    path.write_text("index,memorisation,out_loss\n0,.1,.7\n1,.2,.01\n2,.3,.5\n3,.4,.02\n")
    splits = splits_of(trained_on=range(4))
    assert chosen(splits, worst=2, scores=str(path)) == [1, 3]
    assert chosen(splits, worst=1, subclass="seal", scores=str(path)) == [3]


def test_the_audits_table_chooses_images(tmp_path):
    values = torch.tensor(SCORES, dtype=torch.float64)
    count = torch.full((9,), 4)
    found = Memorisation(values, values, values, values, count, count, 8, 0.5, -values)
    (tmp_path / "memorisation.csv").write_text(memorisation_csv(found, splits_of().train, ("animal", "tree")))
    for end in ("hardest", "worst"):
        assert chosen(**{end: 2}, scores=str(tmp_path / "memorisation.csv")) == [1, 7]


def test_a_file_is_of_published_indexes(scores):
    assert chosen(splits_of(trained_on=[8, 7, 0, 3]), hardest=2, scores=scores) == [3, 7]


def test_the_hardest_are_named(scores):
    request = ForgetRequest.chosen(hardest=2, classes=(1,), scores=scores).resolved(splits_of())
    assert request.in_words(2, ("animal", "tree")) == "the 2 hardest images of class 1 (tree)"
    assert request.flags() == {"class_to_replace": ["1"], "forget_hardest": ["2"], "forget_scores": [scores]}
    assert Choice.of_params(request.choice_params()) == request.choice


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"hardest": 10}, "--forget_hardest: expected at most 9, the training images asked about, got 10"),
        ({"typical": 5, "classes": (0,)}, "--forget_typical: expected at most 4"),
        ({"easiest": 0}, "--forget_easiest: expected an integer >= 1, got 0"),
        ({"hardest": 2, "typical": 2}, "^--forget_hardest says how many images. Leave out --forget_typical"),
        ({"easiest": 2, "number": 2}, "^--forget_easiest says .* Leave out --num_indexes_to_replace"),
        (
            {"hardest": 2},
            "--forget_hardest: expected --forget_scores FILE .*, got none. Make the file: .*memorisation",
        ),
        (
            {"subclass": "bear", "scores": "a.csv"},
            "--forget_scores: expected one of --forget_hardest, .*, got none",
        ),
        ({"hardest": 2, "scores": "absent.csv"}, "--forget_scores: expected .* no file absent.csv"),
    ],
)
def test_what_does_not_choose_images_by_memorisation_is_refused(asked, message):
    with pytest.raises(FlagError, match=message):
        chosen(**asked)


def test_the_worst_need_the_audits_table(scores):
    with pytest.raises(
        FlagError, match="--forget_scores: expected the columns index and out_loss in .*scores.csv"
    ):
        chosen(worst=1, scores=scores)


def test_a_file_without_an_image_is_refused(tmp_path):
    (tmp_path / "some.csv").write_text("index,memorization\n0,0.5\n1,0.5\n")
    with pytest.raises(FlagError, match="--forget_scores: .*some.csv has none of index 2 and 6 more"):
        chosen(hardest=1, scores=str(tmp_path / "some.csv"))
