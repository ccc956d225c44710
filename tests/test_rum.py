"""RUM: the parts by rank, what each method is given, and scores from a file."""

import pytest
import torch
from torch.nn import functional as F

from lethe.unlearn import unlearn
from lethe.unlearn.rum import curvature, thirds
from tests.three_classes import data_of, flat, perceptron, whole


def file_of(tmp_path, text):
    file = tmp_path / "memorization.csv"
    file.write_text(text)
    return str(file)


def scores_file(tmp_path, scores):
    return file_of(tmp_path, "\n".join(["index,memorization", *(f"{i},{s}" for i, s in scores.items())]))


def test_three_parts_by_rank_of_nearly_one_size():
    parts = thirds(torch.tensor([0.5, 0.1, 0.9, 0.3, 0.1, 0.7, 0.2, 0.2]))
    assert [part.tolist() for part in parts] == [[1, 4, 6], [7, 3, 0], [5, 2]]
    assert [len(part) for part in thirds(torch.tensor([1.0]))] == [1, 0, 0]


def test_the_curvature_by_hand():
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)

    def gradient(image, label):
        image = image.clone().requires_grad_(True)
        return torch.autograd.grad(F.cross_entropy(model(image[None]), label[None]), image)[0]

    expected = []
    for image, label in zip(x, y, strict=True):
        here = gradient(image, label)
        away = 0.5 * here.sign() / here.sign().norm()
        expected.append((gradient(image + away, label) - here).norm())
    found = curvature(model, data.forget, data.device, 0.5)
    torch.testing.assert_close(found, torch.stack(expected))


def test_three_parts_left_alone_return_the_initial_model_and_say_so():
    model = perceptron()
    result = unlearn("RUM", model, data_of(), rum_mid="default", rum_high="default")
    assert torch.equal(flat(result.model), flat(model))
    assert "unchanged" in result.facts


def test_a_single_image_is_one_methods_alone():
    model, data = perceptron(), data_of(forget=[4])
    result = unlearn("RUM", model, data, rum_low="NegGrad")
    assert torch.equal(flat(result.model), flat(unlearn("NegGrad", model, data).model))
    assert result.facts == {"low_images": 1, "mid_images": 0, "high_images": 0}


def test_each_method_gets_its_part_and_the_same_retain_set(tmp_path, monkeypatch):
    seen = []

    def noted(name, student, data):
        seen.append((name, data.forget.indexes.tolist(), data.retain.indexes.tolist()))
        return unlearn("default", student, data)

    monkeypatch.setattr("lethe.unlearn.rum.unlearn", noted)
    data = data_of(forget=[3, 4, 5, 9])
    file = scores_file(tmp_path, {3: 0.9, 4: -0.1, 5: 0.4, 9: 0.2, 100: 5.0})
    unlearn("RUM", perceptron(), data, memorization=file)
    retain = [index for index in range(18) if index not in (3, 4, 5, 9)]
    assert seen == [("default", [4, 9], retain), ("FT", [5], retain), ("SalUn", [3], retain)]


# What is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RUM", "--rum_high: expected a method that forgets any images .*, got RUM, RUM itself"),
        ("UNSIR", "got UNSIR, one for whole classes"),
        ("dm_direct", "got dm_direct, one that puts a module around the model"),
        ("retrain", "got retrain, one that needs more than images: ideal model"),
        ("amnesiac_updates", "one that needs more than images: training log"),
        ("SalUnn", "--rum_high: expected a registered method; .*Did you mean 'SalUn'"),
        ("x.py:f", "--rum_high: expected a registered method"),
    ],
)
def test_a_method_that_cant_forget_a_part_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        unlearn("RUM", perceptron(), data_of(), rum_high=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,score\n0,1\n", "expected the columns index and memorisation in .*, got index, score"),
        ("", "expected the columns index and memorisation in .*, got nothing"),
        ("index,memorization\n0,nan\n", "an index >= 0 and a finite number on line 2"),
        ("index,memorization\n0,1\n-1,1\n", "an index >= 0 and a finite number on line 3"),
        ("index,memorization\n0\n", "an index >= 0 and a finite number on line 2"),
        ("index,memorization\n0,1\n0,2\n", "expected each index once, and .* repeats 0"),
        (f"index,memorization\n0,{'1' * 200_000}\n", "line 2 of .* is none .*field larger than"),
        ("index,memorization\n0,1\n", r"has none of index 3 \(5 are missing\)"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=f"^--memorization: .*{message}"):
        unlearn("RUM", perceptron(), data_of(), memorization=file_of(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--memorization: expected a CSV file .* there is no file"):
        unlearn("RUM", perceptron(), data_of(), memorization=str(tmp_path / "none.csv"))
