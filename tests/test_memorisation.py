"""Memorisation scores: a table computed by hand, SciPy's standard errors, and planted labels."""

import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from seeded import generator, normal
from sklearn.metrics import roc_auc_score

from lethe.data import ForgetRequest, load_splits
from lethe.evaluation.memorisation import memorisation, reliability, spearman
from lethe.experiment import memorised
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.memorised import memorisation_of

pytestmark = pytest.mark.usefixtures("empty_place")

SMALL = {"epochs": 1, "arch_options": {"hidden": (6,)}}

# Five models (rows) and three images; the first two models are trained on the first image, ...
MEMBER = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 1, 0]]).bool()
CORRECT = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1], [0, 1, 1]]).bool()


def base(**config):
    return BaseModels(BaseConfig(**SMALL | config))


def test_scores_are_those_of_a_table_computed_by_hand():
    found = memorisation(CORRECT, torch.zeros(5, 3), MEMBER)

    # p_in - p_out: 2/2 - 0/3, 2/3 - 1/2, 2/3 - 1/2
    assert found.scores.tolist() == pytest.approx([1, 1 / 6, 1 / 6])
    # sqrt(p_in (1 - p_in) / n_in + p_out (1 - p_out) / n_out)
    second = (2 / 3 * 1 / 3 / 3 + 1 / 2 * 1 / 2 / 2) ** 0.5
    assert found.standard_errors.tolist() == pytest.approx([0, second, second])
    assert found.n_in.tolist() == [2, 3, 3]
    assert found.n_out.tolist() == [3, 2, 2]
    assert (found.shadows, found.share, len(found)) == (5, pytest.approx(8 / 15), 3)


def test_the_margin_form_has_welchs_standard_error():
    margins = normal(5, 3)

    found = memorisation(CORRECT, margins, MEMBER)

    for image in range(3):
        own = MEMBER[:, image]
        welch = scipy.stats.ttest_ind(margins[own, image], margins[~own, image], equal_var=False)
        difference = margins[own, image].mean() - margins[~own, image].mean()
        assert found.margin_scores[image] == pytest.approx(difference)
        assert found.margin_scores[image] / found.margin_errors[image] == pytest.approx(welch.statistic)


def test_the_out_loss_is_the_cross_entropy_of_the_models_that_did_not_see_the_image():
    logits = normal(5, 3, 2)
    found = memorisation(CORRECT, logits[..., 1] - logits[..., 0], MEMBER)

    losses = -logits.log_softmax(-1)[..., 1]
    for image in range(3):
        assert found.out_losses[image] == pytest.approx(losses[~MEMBER[:, image], image].mean())


def test_infinite_margins_count_as_a_hundred_nats():
    margins = torch.where(MEMBER, torch.inf, -torch.inf)

    found = memorisation(CORRECT, margins, MEMBER)

    assert found.margin_scores.tolist() == [200, 200, 200]
    assert found.margin_errors.tolist() == [0, 0, 0]


def test_the_standard_error_is_the_spread_of_scores_of_new_models():
    member = torch.arange(40).unsqueeze(1).expand(-1, 4000) < 20
    chance = torch.where(member, 0.8, 0.3)
    correct = torch.rand(member.shape, generator=generator()) < chance

    found = memorisation(correct, torch.zeros(member.shape), member)

    assert found.scores.mean() == pytest.approx(0.5, abs=0.01)
    assert found.standard_errors.mean() == pytest.approx(found.scores.std().item(), rel=0.05)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"correct": CORRECT[:4]}, r"correct: expected bool \(5, 3\), got torch.bool \(4, 3\)"),
        ({"member": MEMBER.float()}, r"member: expected bool \(5, 3\), got torch.float32 \(5, 3\)"),
        ({"margins": torch.full((5, 3), torch.nan)}, "expected numbers, got NaN in 15 of 15"),
        (
            {"member": MEMBER & torch.tensor([True, True, False])},
            "at least 2 shadow models trained on it, got 0. Train more shadow models",
        ),
    ],
)
def test_other_tables_are_refused(changed, message):
    table = {"correct": CORRECT, "margins": torch.zeros(5, 3), "member": MEMBER}

    with pytest.raises(ValueError, match=message):
        memorisation(**table | changed)


def test_ranks_are_by_the_score_and_then_by_the_margin_form():
    margins = torch.zeros(4, 3)
    margins[:2] = torch.tensor([1.0, 3.0, 2.0])
    member = torch.tensor([[True] * 3] * 2 + [[False] * 3] * 2)
    correct = member & torch.tensor([True, False, False])

    found = memorisation(correct, margins, member)

    assert found.scores.tolist() == [1, 0, 0]
    assert found.ranks.tolist() == [2, 1, 0]
    assert found.subset(torch.tensor([0, 2])).ranks.tolist() == [1, 0]


def test_spearman_is_scipys_with_ties():
    one, other = torch.tensor([0.0, 0, 0.5, 1, 1, 1]), torch.tensor([0.2, 0, 0, 0.7, 1, 0])

    assert spearman(one, other) == pytest.approx(scipy.stats.spearmanr(one, other).statistic)


def test_the_reliability_compares_the_scores_of_every_second_pair_of_models():
    halves = torch.rand(10, 30, generator=generator(1)) < 0.5
    member = torch.stack([halves, ~halves], dim=1).flatten(0, 1)
    correct = torch.rand(20, 30, generator=generator(2)) < torch.linspace(0.2, 1, 30)
    first = torch.tensor([0, 1, 4, 5, 8, 9, 12, 13, 16, 17])
    second = first + 2

    scores = [
        memorisation(correct[rows], torch.zeros(10, 30), member[rows]).scores for rows in (first, second)
    ]

    expected = scipy.stats.spearmanr(*scores).statistic
    assert reliability(correct, member) == pytest.approx(expected)


def test_scores_that_are_all_the_same_have_no_reliability():
    member = torch.arange(8).unsqueeze(1).expand(-1, 5) % 2 == 0

    with pytest.raises(ValueError, match="all images have the same score"):
        reliability(torch.ones(8, 5, dtype=torch.bool), member)


def planted():
    """Digits' splits, the label of every 40th training image one class further, and which these are."""
    splits = load_splits("digits", "./data")
    wrong = torch.arange(len(splits.train)) % 40 == 0
    labels = torch.where(wrong, (splits.train.labels + 1) % 10, splits.train.labels)
    return replace(splits, train=replace(splits.train, labels=labels)), wrong


def test_planted_wrong_labels_come_first():
    splits, wrong = planted()
    recipe = {"train_lr": 0.03, "train_batch_size": 64, "train_weight_decay": 0.0}
    config = BaseConfig(epochs=60, arch_options={"hidden": (64,)}, training=recipe)

    found = memorisation_of(BaseModels(config, splits=splits), 32)

    assert found.scores[wrong].mean() > 0.95  # the models learn the wrong labels, if they see them
    assert roc_auc_score(wrong, found.scores) > 0.99
    assert roc_auc_score(wrong, found.margin_scores) > 0.99
    assert found.scores[~wrong].mean().abs() < 0.1
    assert (found.shadows, found.share) == (32, pytest.approx(0.5, abs=0.001))


def test_the_scores_are_those_of_the_training_images_in_their_order_whatever_is_forgotten():
    found = memorisation_of(base(), 8)
    others = memorisation_of(base(request=ForgetRequest((3,), 5)), 8)

    assert len(found) == len(base().splits.train)
    assert torch.equal(found.scores, others.scores)
    assert torch.equal(found.margin_scores, others.margin_scores)
    assert set(np.unique(found.n_in + found.n_out)) == {8}


def test_the_answers_are_kept_beside_the_shadow_models(monkeypatch):
    first = memorisation_of(base(), 8)
    monkeypatch.setattr(memorised, "outputs_of", lambda *_: pytest.fail("a model was evaluated again"))

    again = memorisation_of(base(), 8)

    assert torch.equal(first.scores, again.scores)
    assert torch.equal(first.margin_errors, again.margin_errors)


def test_other_models_have_answers_of_their_own():
    assert not torch.equal(memorisation_of(base(), 8).scores, memorisation_of(base(seed=2), 8).scores)


@pytest.mark.parametrize(
    ("shadows", "message"),
    [
        (2, "--shadows: expected for each image at least 2 shadow models trained on it, got 0 of 2. Ask"),
        (7, "--shadows: expected an even number, as they are pairs of halves, got 7. Give 8"),
    ],
)
def test_too_few_shadow_models_are_refused_before_any_is_trained(shadows, message):
    models = base()

    with pytest.raises(ValueError, match=re.escape(message)):
        memorisation_of(models, shadows)
    assert not list(models.save_dir.glob("*.safetensors"))
