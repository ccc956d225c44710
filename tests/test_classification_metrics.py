"""Losses, probabilities, scores, entropies and margins by hand, by scikit-learn and by their definitions,
image by image.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch import nn

from lethe.evaluation import Outputs, outputs_of
from lethe.evaluation.classification import mean, percent
from lethe.evaluation.entropies import cross_entropy, entropy, modified_entropy
from tests.drawn_outputs import drawn, model_outputs


def outputs(probabilities, labels):
    return Outputs(torch.tensor(probabilities, dtype=torch.float64).log(), torch.tensor(labels))


logits_and_labels = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.floats(-60, 60, width=32), min_size=4, max_size=4), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
    )
)


# Loss, probability, score

FORGET = outputs([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], [0, 1])
RETAIN = outputs([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.4, 0.5, 0.1], [0.3, 0.4, 0.3]], [1, 2, 1, 2])
TEST = outputs([[0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.2, 0.4, 0.4]], [0, 1, 1, 2])
BY_HAND = {
    "forget_loss": (math.log(2) + math.log(5)) / 2,
    "retain_loss": -(2 * math.log(0.8) + math.log(0.5) + math.log(0.3)) / 4,
    "forget_probability": 0.35,
    "forget_score": 50.0,
    "retain_score": 75.0,
    "test_loss": -(math.log(0.9) + math.log(0.4) + math.log(0.8) + math.log(0.4)) / 4,
    "test_score": 50.0,
}
WHOLE_CLASS_BY_HAND = {
    "test_forget_loss": -math.log(0.9),
    "test_forget_probability": 0.9,
    "test_forget_score": 100.0,
    "test_retain_loss": -(math.log(0.4) + math.log(0.8) + math.log(0.4)) / 3,
    "test_retain_score": 100 / 3,
}


@pytest.mark.parametrize(("name", "expected"), BY_HAND.items())
def test_metrics_by_hand(name, expected):
    assert model_outputs(forget=FORGET, retain=RETAIN, test=TEST).metric(name) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize(("name", "expected"), WHOLE_CLASS_BY_HAND.items())
def test_whole_class_metrics_by_hand(name, expected):
    forget = FORGET.subset(FORGET.labels == 0)
    model = model_outputs(forget=forget, retain=RETAIN, test=TEST, forget_classes=(0,))
    assert model.metric(name) == pytest.approx(expected, abs=1e-12)


def test_cross_entropy_is_the_log_loss_of_scikit_learn():
    some = drawn(50, classes=5)
    expected = log_loss(some.labels.numpy(), some.probabilities.numpy(), labels=range(5))
    assert mean(cross_entropy(some.logits, some.labels)) == pytest.approx(expected, rel=1e-12)


def test_the_mean_is_over_samples_not_batches():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(2, 3)
    images, labels = (
        torch.randn(7, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 0, 1, 2, 0]),
    )
    whole = outputs_of(model, [(images, labels)])
    batched = outputs_of(model, zip(images.split(5), labels.split(5), strict=True))
    assert mean(batched.losses) == pytest.approx(mean(whole.losses), rel=1e-6)
    by_batches = (mean(whole.losses[:5]) + mean(whole.losses[5:])) / 2
    assert mean(batched.losses) != pytest.approx(by_batches, rel=1e-3)


def test_the_mean_is_summed_in_float64():
    assert mean(torch.full((3,), 0.1)) == pytest.approx(float(torch.tensor(0.1)), rel=1e-15)
    assert mean(torch.tensor([1e8] + [1.0] * 999)) == pytest.approx((1e8 + 999) / 1000, rel=1e-15)


def test_the_mean_of_no_image_is_an_error():
    with pytest.raises(ValueError, match="expected at least 1 image, got 0"):
        mean(torch.zeros(0))


@given(st.lists(st.booleans(), min_size=1))
def test_scores_are_percentages(correct):
    assert percent(torch.tensor(correct)) == pytest.approx(100 * sum(correct) / len(correct))
    assert 0 <= percent(torch.tensor(correct)) <= 100


# Entropies


def test_entropy_by_hand():
    got = entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]).log())
    expected = [0.0, math.log(2), -0.2 * math.log(0.2) - 0.8 * math.log(0.8)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)


def test_modified_entropy_by_hand():
    got = modified_entropy(torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log(), torch.tensor([1]))
    assert got.item() == pytest.approx(
        -0.8 * math.log(0.2) - 0.7 * math.log(0.3) - 0.1 * math.log(0.9), rel=1e-12
    )


def test_modified_entropy_is_finite_where_a_probability_is_zero_or_one():
    certain = torch.tensor([[1.0, 0.0, 0.0]]).log().repeat(2, 1)
    got = modified_entropy(certain, torch.tensor([0, 1]))
    assert got[0] == 0.0
    assert got[1].item() == pytest.approx(-2 * math.log(1e-30))


def test_modified_entropy_keeps_its_digits_where_a_probability_rounds_to_one():
    # p = (1 - e^-50, e^-50): log(1 - p_0) = -50, which 1 - p in float64 has lost.
    got = modified_entropy(torch.tensor([[50.0, 0.0]]), torch.tensor([1]))
    assert got.item() == pytest.approx(100.0, rel=1e-12)


@given(logits_and_labels)
def test_modified_entropy_is_its_definition_image_by_image(case):
    logits, labels = torch.tensor(case[0]), torch.tensor(case[1])
    expected = []
    for row, y in zip(case[0], case[1], strict=True):
        top = max(row)
        weights = [math.exp(z - top) for z in row]
        p = [w / sum(weights) for w in weights]
        rest = [math.fsum(w for k, w in enumerate(weights) if k != j) / sum(weights) for j in range(4)]

        def log(q):
            return math.log(max(q, 1e-30))

        expected.append(-rest[y] * log(p[y]) - sum(p[j] * log(rest[j]) for j in range(4) if j != y))
    torch.testing.assert_close(
        modified_entropy(logits, labels), torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-9
    )


@given(logits_and_labels, st.randoms(use_true_random=False))
def test_modified_entropy_depends_on_the_image_alone(case, random):
    logits, labels = torch.tensor(case[0]), torch.tensor(case[1])
    together = modified_entropy(logits, labels)
    alone = torch.cat([modified_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
    order = torch.tensor(random.sample(range(len(labels)), len(labels)))
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        modified_entropy(logits[order], labels[order]), together[order], atol=1e-12, rtol=1e-12
    )
    assert bool((together >= 0).all() and together.isfinite().all())


# Margins


def test_margin_is_the_log_odds_of_the_true_class():
    some = drawn(50, sharpness=3.0)
    p = some.true_probabilities
    torch.testing.assert_close(some.margins, torch.log(p / (1 - p)))


def test_margin_keeps_its_digits_where_the_probability_rounds_to_1_and_may_be_infinite():
    logits = torch.tensor([[100.0, 0.0, 0.0], [0.0, -math.inf, 0.0], [0.0, -math.inf, -math.inf]])
    assert Outputs(logits, torch.tensor([0, 1, 0])).margins.tolist() == [
        100.0 - math.log(2),
        -math.inf,
        math.inf,
    ]
