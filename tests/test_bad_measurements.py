"""What can't be measured, as a person would have it: a line that says what was expected, and the rest of the
numbers.
"""

import re
from pathlib import Path

import pytest
import torch

import mlflow_forget
from lethe.evaluation import ModelOutputs, Outputs, evaluate
from lethe.evaluation.prediction_distance import jensen_shannon
from tests.own_store import there  # noqa: F401 (a fixture of every test here)

MINE = '''
import torch
from torch import nn
from lethe.unlearn import copy_of
from lethe.data import RawDataset

def images(count, classes):
    labels = torch.arange(count) % classes
    noise = torch.randint(60, (count, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return noise + (60 * labels)[:, None, None, None].to(torch.uint8), labels

def few(folder):
    """Six test images."""
    return RawDataset(images(150, 3), images(6, 3), ("a", "b", "c"))

def alone(folder):
    """One class."""
    return RawDataset(images(60, 1), images(20, 1), ("a",))

def broken(model, data):
    """Finite weights, infinite logits."""
    student = copy_of(model)
    for value in student.parameters():
        value.data.fill_(1e30)
    return student

def not_finite(model, data):
    student = copy_of(model)
    next(student.parameters()).data.fill_(float("nan"))
    return student

class Sure(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).softmax(1)

def softened(model, data):
    return Sure(copy_of(model))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("bad")
    (place / "mine.py").write_text(MINE)
    return place


def job(capsys, words):
    code = mlflow_forget.main([*words.split(), "--epochs", "1", "--ideal", "skip"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_sets_too_small_for_an_attack_say_the_minimum_and_the_rest_is_measured(capsys):
    code, out, _ = job(capsys, "--unlearn default --dataset mine.py:few --arch mlp")

    assert code == 0
    assert "forget_score" in out
    minimum = (
        "expected at least 10 members (retain), 10 non-members (test) and 1 forget image, got 4, 4 and 45. "
        "Evaluate on larger sets."
    )
    (line,) = [line for line in out.splitlines() if line.endswith(minimum)]
    assert {f"mia_{name}," for name in ("correctness", "confidence", "entropy", "m_entropy", "prob")} < set(
        line.split()
    )
    assert any(
        line.endswith(
            "expected at least 1 forget and 100 test images, got 45 and 6. Evaluate on larger sets."
        )
        for line in out.splitlines()
    )


def test_one_class_alone_is_refused(capsys):
    code, _, err = job(capsys, "--unlearn default --dataset mine.py:alone --arch mlp")

    assert code == 2
    reason = "the forget request takes every training image and leaves nothing to retain. Ask for fewer"
    assert err == f"error: {reason}\n"


def test_logits_of_one_class_are_refused():
    with pytest.raises(ValueError, match=r"expected logits \(N, C\) with C >= 2, got shape \(3, 1\)"):
        Outputs(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))


def test_a_test_set_of_the_forgotten_class_alone_is_a_reason():
    def outputs(labels):
        return Outputs(torch.randn(len(labels), 2), torch.tensor(labels))

    own = ModelOutputs(outputs([0] * 20), outputs([1] * 40), outputs([0] * 30), None, (0,), seed=1)
    values, reasons = evaluate(model=own, names=["mia", "test_retain_score", "test_forget_score"])
    assert list(values) == ["test_forget_score"]
    assert reasons["mia"].reason.endswith("got 0, 0 and 20. Evaluate on larger sets.")
    assert (
        reasons["test_retain_score"].reason
        == "expected at least 1 image, got 0. Evaluate on a set that is not empty."
    )


def test_logits_that_are_not_finite_end_the_run(capsys):
    code, _, err = job(capsys, "--unlearn mine.py:broken --metrics forget_score")

    assert code == 1
    got = r"expected logits with a finite maximum, got NaN or infinity for \d+ of 128 images\. "
    assert re.match(f"error: the unlearned model: {got}", err.splitlines()[-1])


def test_weights_that_are_not_finite_end_the_run(capsys):
    code, _, err = job(capsys, "--unlearn mine.py:not_finite --metrics forget_score")

    assert code == 1
    assert err.splitlines()[-1].startswith("error: not_finite diverged: weights that are not finite. ")


def test_a_model_that_gives_probabilities_is_warned_of(capsys):
    code, out, _ = job(capsys, "--unlearn mine.py:softened")

    assert code == 0
    assert (
        "warning: softened class0 seed1: the unlearned model gives probabilities: expected logits, got rows "
        "that are not negative" in out
    )
    assert "the initial model gives" not in out
    assert "weight_distance, weights_changed: expected a model with the initial model's parameters" in out


@pytest.mark.parametrize("p", [[[0.5, 0.6]], [[1.2, -0.2]], [[0.0, 0.0]], [[float("nan"), 1.0]]])
def test_probabilities_that_do_not_sum_to_1_are_refused(p):
    reason = "expected rows of probabilities that are not negative and sum to 1, got 1 of 1 that are not"
    with pytest.raises(ValueError, match=reason):
        jensen_shannon(torch.tensor(p), torch.tensor([[0.5, 0.5]]))
