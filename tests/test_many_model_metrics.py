"""KLoM, the challenge's score and U-LiRA against independent truths: NumPy, SciPy, scikit-learn, the
published floor, chance.
"""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from lethe.evaluation import (
    METRICS,
    Missing,
    ModelOutputs,
    Outputs,
    Population,
    Shadows,
    evaluate,
    noise_floor,
)
from lethe.evaluation.forgetting_quality import DELTA, epsilons, of_rates, points
from lethe.evaluation.klom import CAP, klom, klom_forget_p95, p95

FLOORS = {10: (5.61, 7.92), 50: (0.89, 1.72), 100: (0.36, 0.67), 200: (0.15, 0.29)}  # mean / p95, METRICS
NO_THIRDS = dict.fromkeys(
    [f"ulira_auc_memorised_{third}" for third in ("low", "middle", "high")],
    Missing("needs the memorisation of the forget images"),
)
FEW = settings(max_examples=30)


def normal(models, images, *, mean=0.0, seed=0):
    return mean + torch.randn(
        models, images, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def klom_by_numpy(unlearned, oracles):
    """One image: NumPy's histogram, whose last bin is closed, and the divergence written out."""
    ours, theirs = (np.clip(np.asarray(m), -100, 100) for m in (unlearned, oracles))
    low, high = min(ours.min(), theirs.min()), max(ours.max(), theirs.max())
    edges = np.linspace(low, high if high > low else low + 1, 21)
    p, q = (np.histogram(m, bins=edges)[0] / len(m) for m in (ours, theirs))
    return sum(a * math.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)


# KLoM


@pytest.mark.parametrize("models", FLOORS)
def test_two_samples_of_one_normal_reproduce_the_noise_floor(models):
    found = klom(normal(models, 20_000, seed=1), normal(models, 20_000, seed=2))

    assert found.mean().item() == pytest.approx(FLOORS[models][0], rel=0.05)
    assert p95(found) == pytest.approx(FLOORS[models][1], rel=0.05)
    assert noise_floor(models) == pytest.approx((found.mean().item(), p95(found)), rel=0.03)


def test_the_documented_noise_floors_are_those_that_are_printed():
    said = re.findall(r"([\d.]+) / ([\d.]+) at N = (\d+)", " ".join(klom_forget_p95.__doc__.split()))

    assert {int(n): (mean, top) for mean, top, n in said} == {
        n: tuple(f"{value:.2f}" for value in noise_floor(n)) for n in FLOORS
    }


def test_the_noise_floor_of_few_models_is_that_of_many_points():
    """NumPy's, of other draws: hardly a value lies between 8.0 and 8.3, so that 20,000 points would come to
    anything there.
    """
    draw = np.random.default_rng(3)
    ours, theirs = draw.standard_normal((2, 10, 200_000))
    low = np.minimum(ours.min(0), theirs.min(0))
    width = np.maximum(ours.max(0), theirs.max(0)) - low
    p, q = (
        [(np.minimum((side - low) / width * 20, 19).astype(int) == b).mean(0) for b in range(20)]
        for side in (ours, theirs)
    )
    found = sum(
        scipy.special.xlogy(own, own / np.maximum(other, 1e-5)) for own, other in zip(p, q, strict=True)
    )

    assert noise_floor(10) == pytest.approx((found.mean(), np.percentile(found, 95)), rel=0.02)


@pytest.mark.parametrize("models", [10, 37, 100])
def test_klom_is_numpys_histogram_and_the_divergence_written_out(models):
    unlearned, oracles = normal(models, 40, mean=0.7), 2 * normal(models, 40, seed=1)

    expected = [klom_by_numpy(unlearned[:, i], oracles[:, i]) for i in range(40)]

    np.testing.assert_allclose(klom(unlearned, oracles), expected, rtol=1e-9)


def test_disjoint_margins_give_the_cap():
    found = klom(torch.full((10, 3), 5.0), torch.full((10, 3), -5.0))

    assert found.tolist() == pytest.approx([math.log(1e5)] * 3)
    assert pytest.approx(math.log(1e5)) == CAP


def test_a_sample_at_the_upper_edge_is_counted():
    """The nine lowest and the highest: p has .9 and .1, q 1 and 0; without the highest p would be q."""
    unlearned = torch.tensor([0.0] * 9 + [1.0]).unsqueeze(1)

    found = klom(unlearned, torch.zeros(10, 1)).item()

    assert found == pytest.approx(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 1e-5))


def test_the_same_margins_are_at_no_distance_even_where_they_have_no_range():
    assert klom(torch.ones(10, 2), torch.ones(10, 2)).tolist() == [0.0, 0.0]
    same = normal(20, 5)
    assert klom(same, same.flip(0)).tolist() == [0.0] * 5


def test_margins_are_clipped_to_a_hundred_infinite_ones_too():
    unlearned = torch.tensor([math.inf, 500.0] * 5).unsqueeze(1)

    assert klom(unlearned, torch.full((10, 1), 100.0)).item() == 0.0


@FEW
@given(st.integers(0, 10**6), st.floats(-50, 50), st.floats(0.01, 50))
def test_klom_does_not_depend_on_place_and_scale_of_the_margins(seed, place, scale):
    unlearned, oracles = normal(12, 4, seed=seed) / 4, normal(12, 4, seed=seed + 1) / 4
    around = (
        klom(place + scale * unlearned / 50, place + scale * oracles / 50) - klom(unlearned, oracles)
    ).abs()

    assert float(around.min()) < 1e-9  # a margin on an edge may fall on its other side


@FEW
@given(st.integers(10, 30), st.integers(0, 10**6))
def test_klom_lies_between_0_and_its_cap(models, seed):
    found = klom(normal(models, 8, seed=seed, mean=seed % 3), normal(models, 8, seed=seed + 1))

    assert (found >= 0).all() and (found <= CAP).all()


def test_the_95th_percentile_is_numpys():
    values = normal(1, 101)[0]

    assert p95(values) == pytest.approx(np.percentile(values, 95))


# Forgetting quality


def epsilon_by_trying(unlearned, oracles):
    """One image: every threshold, and every interval on a fine grid that the source allows, one after the
    other.
    """
    unlearned, oracles = np.asarray(unlearned), np.asarray(oracles)
    ranges = sorted((np.ptp(unlearned), np.ptp(oracles)))
    if ranges[1] > 0 and ranges[0] / ranges[1] < 0.01:
        return 50.0
    found = []
    pos, neg = (oracles, unlearned) if np.median(oracles) > np.median(unlearned) else (unlearned, oracles)
    for t in np.concatenate([pos, neg]):
        found.append(((neg >= t).mean(), (pos < t).mean()))
    pos, neg = (oracles, unlearned) if np.ptp(oracles) <= np.ptp(unlearned) else (unlearned, oracles)
    width = np.ptp(pos)
    for right in np.arange(pos.max() - 2, pos.max() + 2, 0.02):
        left = np.arange(right - width - 2, right - width + 2, 0.02)[:, None]
        inside, outside = (left <= neg) & (neg <= right), (left <= pos) & (pos <= right)
        found.extend(zip(inside.mean(1), 1 - outside.mean(1), strict=True))
    return min(50.0, max(epsilon_of(fpr, fnr) for fpr, fnr in set(found)))


def epsilon_of(fpr, fnr):
    if fpr == 0 and fnr == 0:
        return math.inf
    if fpr == 0 or fnr == 0:
        return 0.0
    pairs = ((1 - DELTA - fpr, fnr), (1 - DELTA - fnr, fpr))
    return max([0.0, *(math.log(a) - math.log(b) for a, b in pairs if a > 0)])


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1.5, 1.0), (0.0, 3.0), (-2.0, 0.5)])
def test_epsilon_is_what_trying_every_attack_finds(mean, scale):
    """Margins are multiples of .1, so that a grid of step .02 comes between any two."""
    unlearned = (10 * (mean + scale * normal(12, 4, seed=3))).round() / 10
    oracles = (10 * normal(12, 4, seed=4)).round() / 10

    found = epsilons(unlearned + 0.001, oracles + 0.001)  # so that no margin lies on the grid

    expected = [epsilon_by_trying(unlearned[:, i] + 0.001, oracles[:, i] + 0.001) for i in range(4)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("fpr", "fnr", "expected"),
    [
        (0.0, 0.0, math.inf),
        (0.0, 0.5, 0.0),
        (0.5, 0.0, 0.0),
        (0.1, 0.2, math.log((1 - DELTA - 0.2) / 0.1)),
        (0.2, 0.1, math.log((1 - DELTA - 0.2) / 0.1)),
        (1.0, 1.0, -math.inf),
    ],
)
def test_epsilon_of_an_attack_by_hand(fpr, fnr, expected):
    assert of_rates(
        torch.tensor([fpr], dtype=torch.float64), torch.tensor([fnr], dtype=torch.float64)
    ).item() == pytest.approx(expected)


def test_separate_margins_and_margins_without_a_range_are_at_50():
    separate = epsilons(normal(10, 1), normal(10, 1, mean=40))
    narrow = epsilons(torch.zeros(10, 1), normal(10, 1))

    assert separate.tolist() == narrow.tolist() == [50.0]
    assert epsilons(torch.zeros(10, 1), torch.zeros(10, 1)).tolist() == [0.0]


def test_points_halve_with_every_half_and_end_at_what_the_models_can_show():
    eps = torch.tensor([0.0, 0.49, 0.5, 0.99, 1.0, 2.4, 4.99, 5.0, 50.0])

    assert points(eps, 100).tolist() == [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 16, 1 / 512, 0, 0]  # ceil(ln 99) = 5


def test_quality_and_score_are_their_formulas():
    margins = {"forget": normal(10, 6)}
    scores = {"retain_score": torch.full((10,), 80.0), "ta": torch.full((10,), 60.0)}
    better = {"retain_score": torch.linspace(80, 100, 10), "ta": torch.full((10,), 90.0)}

    values, reasons = evaluate(
        models=Population(margins, scores), oracles=Population({"forget": normal(10, 6, seed=1)}, better)
    )

    expected = points(epsilons(margins["forget"], normal(10, 6, seed=1)), 10).mean().item()
    assert values["forgetting_quality"] == pytest.approx(expected)
    assert values["forgetting_score"] == pytest.approx(expected * 80 / 90 * 60 / 90)
    assert reasons["klom_retain_p95"].reason == "no retain margins of the unlearned models"
    assert "ulira_auc" not in values.keys() | reasons.keys()
    assert "mia" not in values.keys() | reasons.keys()


def test_a_score_needs_the_scores_of_both_sides():
    population = Population({"forget": normal(10, 3)})

    _, reasons = evaluate(names=["forgetting_score"], models=population, oracles=population)

    assert (
        reasons["forgetting_score"].reason
        == "the scores of the unlearned models are not known, only their margins"
    )


# U-LiRA


def halves(models):
    """The even models fit, the odd ones are attacked."""
    return torch.arange(models) % 2 == 1


def of_sides(members, others):
    margins = torch.cat([members, others])
    member = (torch.arange(len(margins)) < len(members)).unsqueeze(1).expand(margins.shape)
    return Shadows(margins, member, halves(len(margins)))


def test_log_odds_are_scipys_gaussians():
    members, others = normal(12, 5, mean=2.0), 3 * normal(12, 5, seed=1)

    found = of_sides(members, others).log_odds

    attacked = torch.cat([members[1::2], others[1::2]])
    for image in range(5):
        sides = [side[::2, image].numpy() for side in (members, others)]
        inside, outside = (norm(side.mean(), side.std(ddof=1)).logpdf(attacked[:, image]) for side in sides)
        np.testing.assert_allclose(found[:, image], inside - outside, rtol=1e-9)


@FEW
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 3.0]))
def test_rates_are_scikit_learns(seed, mean):
    generator = torch.Generator().manual_seed(seed)
    member = torch.zeros(40, 6, dtype=torch.bool)
    for pair, image in itertools.product(range(20), range(6)):
        member[2 * pair + int(torch.randint(2, (1,), generator=generator)), image] = True
    attacked = torch.arange(40) // 2 % 2 == 1  # whole pairs
    shadows = Shadows(normal(40, 6, seed=seed) + mean * member, member, attacked)

    scores, truth = shadows.log_odds.flatten().numpy(), member[attacked].flatten().numpy()
    fpr, tpr, _ = roc_curve(truth, scores)

    assert shadows.rates.auc == pytest.approx(roc_auc_score(truth, scores))
    assert shadows.rates.accuracy == pytest.approx(((scores > 0) == truth).mean())
    assert shadows.rates.tpr_at_1_fpr == pytest.approx(tpr[fpr <= 0.01].max())


@pytest.mark.slow
def test_at_chance_where_the_models_are_exchangeable_and_the_interval_says_so():
    """Margins of one model move together, which resampling images alone would not see."""
    covered = 0
    for seed in range(40):
        margins = normal(64, 30, seed=seed) + normal(64, 1, seed=1000 + seed)
        low, high = of_sides(margins[:32], margins[32:]).intervals["auc"]
        covered += low <= 0.5 <= high

    assert covered >= 35  # 38 are expected; 34 or fewer have a probability of 1 %


def test_far_from_chance_where_members_can_be_told():
    values, reasons = evaluate(shadows=of_sides(normal(16, 30, mean=4), normal(16, 30, seed=1)))

    assert reasons == NO_THIRDS
    assert values["ulira_auc"] > 0.95
    assert values["ulira_accuracy"] > 0.9
    assert set(values) == {"ulira_accuracy", "ulira_auc", "ulira_tpr_at_1_fpr"}


def test_margins_that_say_nothing_are_at_exactly_chance():
    shadows = of_sides(torch.ones(16, 10), torch.ones(16, 10))

    assert shadows.rates == (0.5, 0.5, 0.0)
    assert shadows.intervals["auc"] == (0.5, 0.5)


# Populations, and what is refused


def test_a_population_is_what_each_model_says():
    def said(seed):
        outputs = [Outputs(normal(n, 3, seed=seed + n).float(), torch.arange(n) % 3) for n in (6, 9, 12)]
        return ModelOutputs(*outputs, validation=None, forget_classes=(), seed=1)

    models = [said(seed) for seed in range(10)]
    population = Population.of(models)

    assert len(population) == 10
    assert set(population.margins) == {"forget", "retain"}
    torch.testing.assert_close(population.margins["forget"][3], models[3].forget.margins.float())
    assert population.scores["ta"].tolist() == [model.metric("test_score") for model in models]


@pytest.mark.parametrize("measure", [klom, epsilons])
@pytest.mark.parametrize(
    ("unlearned", "oracles", "message"),
    [
        (
            normal(12, 3),
            normal(10, 3),
            r"expected as many oracles as unlearned models, .* got \(10, 3\) and \(12, 3\)",
        ),
        (normal(10, 3), normal(10, 4), r"expected as many oracles as unlearned models, on the same images"),
        (normal(9, 3), normal(9, 3), "unlearned margins: expected at least 10 models, got 9. Train more"),
        (
            normal(10, 3),
            normal(10, 3).where(torch.arange(3) != 1, math.nan),
            r"oracle margins: expected numbers, got NaN in 10 of 30 \(10 of",
        ),
        (torch.zeros(10, 3, dtype=torch.int64), normal(10, 3), "expected floats"),
        (torch.zeros(10, 0), normal(10, 0), "of at least 1 image"),
    ],
)
def test_margins_that_can_not_be_compared_are_refused(measure, unlearned, oracles, message):
    with pytest.raises(ValueError, match=message):
        measure(unlearned, oracles)


@pytest.mark.parametrize(
    ("margins", "scores", "message"),
    [
        ({"retain": normal(10, 3)}, {}, "expected margins of the forget set, got those of retain"),
        (
            {"forget": normal(10, 3), "retain": normal(11, 3)},
            {},
            "expected as many models in every set, got {'forget': 10, 'retain': 11}",
        ),
        ({"forget": normal(10, 3)}, {"ta": torch.zeros(9)}, "expected as many models in every set"),
    ],
)
def test_a_population_that_does_not_fit_together_is_refused(margins, scores, message):
    with pytest.raises(ValueError, match=message):
        Population(margins, scores)


@pytest.mark.parametrize(
    ("shadows", "message"),
    [
        (lambda: of_sides(normal(7, 2), normal(7, 2)), "at least 16 models, got 14"),
        (
            lambda: of_sides(normal(14, 2), normal(6, 2)),
            "at least 4 models not trained on it that fit the Gaussians, got 3",
        ),
        (
            lambda: Shadows(normal(16, 2), torch.zeros(16, dtype=torch.bool), halves(16)),
            r"member: expected bool \(16, 2\)",
        ),
        (
            lambda: Shadows(normal(16, 2), torch.ones(16, 2, dtype=torch.bool), halves(16)),
            "models not trained on it",
        ),
        (
            lambda: Shadows(normal(16, 2), torch.ones(16, 2, dtype=torch.bool), halves(14)),
            r"attacked: expected bool \(16,\)",
        ),
    ],
)
def test_shadows_that_can_not_be_attacked_are_refused(shadows, message):
    with pytest.raises(ValueError, match=message):
        shadows()


def test_a_true_positive_rate_needs_a_hundred_others():
    _, reasons = evaluate(shadows=of_sides(normal(8, 3), normal(8, 3, seed=1)))

    expected = "expected at least 100 attacks on non-members, got 12. Train more shadow models"
    assert reasons == {"ulira_tpr_at_1_fpr": Missing(expected)} | NO_THIRDS


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("klom_forget_p95", "audit.py klom"),
        ("forgetting_quality", "audit.py klom"),
        ("ulira_auc", "audit.py ulira"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_makes_it(name, command):
    _, reasons = evaluate(names=[name])

    assert name in METRICS
    assert command in reasons[name].reason
