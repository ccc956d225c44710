"""Methods that learn from oracles or from a datamodel of them, each against an independent truth."""

import copy
import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

import main_ideal
import mlflow_forget
from lethe.data import ForgetRequest, ImageSet
from lethe.models import build
from lethe.training import Recipe, fit
from lethe.unlearn import METHODS, ForgetData, Oracles, copy_of, resolved, unlearn
from lethe.unlearn.attribution import Attribution, Shifted, Sketch
from lethe.unlearn.forget_and_retain import logits_of
from lethe.unlearn.oracle_matching import mean_logits
from tests.by_hand import adam, slope


@pytest.fixture(scope="module")
def model(digits):
    model = build("mlp", digits.train.image_shape, 10, seed=1, options={"hidden": (16,)})
    fit(model, digits.train, Recipe(4, "adamw", 1e-2), generator=torch.Generator().manual_seed(1))
    return model


def oracle(seed):
    return build("mlp", (1, 8, 8), 10, seed=seed, options={"hidden": (16,)})


def oracles(judges=(1,)):
    return Oracles(lambda seeds: (oracle(seed) for seed in seeds), judges=judges)


CLASS_0 = ForgetRequest((0,))


def data_of(digits, request=CLASS_0, **world):
    return ForgetData.of(digits, request, **{"oracles": oracles()} | world)


# load_an_oracle


@pytest.mark.parametrize(
    ("seed", "judges", "given", "expected"),
    [(1, (1,), None, 2), (3, tuple(range(1, 6)), None, 8), (1, (1,), 7, 7), (2, (2,), 1, 1)],
)
def test_the_oracle_is_none_of_the_judges(seed, judges, given, expected, model, digits):
    data = data_of(digits, seed=seed, oracles=oracles(judges))
    result = unlearn("load_an_oracle", model, data, oracle_seed=given)
    assert torch.equal(result.model[1].weight, oracle(expected)[1].weight)
    assert result.facts == {"oracle_seed_used": expected}
    assert (
        resolved("load_an_oracle", model, data, {"oracle_seed": given}) == {}
    )  # what follows from the seed is no setting


def test_an_oracle_of_the_reference_set_is_refused(model, digits):
    data = data_of(digits, oracles=oracles((1, 2, 3)))
    message = "got seed 2, which is one of the reference set (seeds 1 to 3). Name another, e.g. 4"
    with pytest.raises(ValueError, match=re.escape(message)):
        unlearn("load_an_oracle", model, data, oracle_seed=2)


@pytest.mark.parametrize("name", ["load_an_oracle", "oracle_matching"])
def test_without_oracles_it_says_so(name, model, digits):
    with pytest.raises(ValueError, match=f"{name}: expected oracles, got none. Give ForgetData `oracles`"):
        unlearn(name, model, data_of(digits, oracles=None))


def test_an_oracle_of_another_architecture_is_refused(digits):
    other = build("mlp", (1, 8, 8), 10, seed=1, options={"hidden": (5,)})
    reason = "load_an_oracle: expected an ideal model of the initial model's architecture"
    with pytest.raises(ValueError, match=reason):
        unlearn("load_an_oracle", other, data_of(digits))


# oracle_matching


def test_one_step_of_oracle_matching_by_hand(model, digits):
    """One batch of all images: Adam's first step is the sign of the gradient, times the learning rate."""
    data = data_of(digits, ForgetRequest((-1,), 7))
    settings = {
        "unlearn_epochs": 1,
        "batch_size": 4000,
        "unlearn_lr": 1e-3,
        "oracle_count": 3,
        "retain_multiplier": 1e9,
    }
    images = data.forget.joined(data.retain)
    x = images.normalisation(images.images)
    targets = torch.stack([oracle(seed)(x) for seed in (2, 3, 4)]).mean(0).detach()
    for forget_multiplier, wd_lambda in ((1, 0.0), (3, 0.0)):
        weight = (
            1 + (forget_multiplier - 1) * torch.isin(images.indexes, data.forget.indexes).float()[:, None]
        )
        loss = (weight * (model(x) - targets) ** 2).sum() / (10 * weight.sum())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        flags = {"forget_multiplier": forget_multiplier, "wd_lambda": wd_lambda}
        found = unlearn("oracle_matching", model, data, **settings, **flags)
        assert found.history[0]["matching_loss"] == pytest.approx(loss.item(), rel=1e-5)
        for before, after, gradient in zip(
            model.parameters(), found.model.parameters(), gradients, strict=True
        ):
            clear = gradient.abs() > 1e-5  # Adam's epsilon decides about the others
            torch.testing.assert_close(
                (after - before)[clear], -1e-3 * gradient[clear].sign(), atol=2e-5, rtol=0
            )


def test_the_images_are_all_forget_and_three_times_as_many_retain_images(model, digits, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lethe.unlearn.oracle_matching.mean_logits",
        lambda models, images, device: seen.append(images) or mean_logits(models, images, device),
    )
    data = data_of(digits, ForgetRequest((3,), 20))
    unlearn("oracle_matching", model, data, forget_multiplier=2, unlearn_epochs=1)
    (images,) = seen
    assert len(images) == 2 * 20 + 3 * 20
    assert torch.isin(images.indexes, data.forget.indexes).sum() == 40
    assert len(images.indexes.unique()) == 20 + 60
    assert torch.equal(images.labels, torch.arange(100))


def test_many_epochs_of_oracle_matching_end_at_the_oracles_logits(model, digits):
    data = data_of(digits, ForgetRequest((-1,), 8))
    settings = {
        "unlearn_epochs": 400,
        "unlearn_lr": 1e-2,
        "decay": 0.99,
        "oracle_count": 1,
        "retain_multiplier": 0.0,
    }
    found = unlearn("oracle_matching", model, data, **settings).model
    x = data.forget.normalisation(data.forget.images)
    assert F.mse_loss(found(x), oracle(2)(x)) < 5e-3 * F.mse_loss(model(x), oracle(2)(x))


@pytest.mark.parametrize(("decay", "wd_lambda"), [(0.5, 0.0), (1.0, 0.0), (0.5, 0.3)])
def test_epochs_of_oracle_matching_by_hand(decay, wd_lambda, model, digits):
    """A step an epoch, on forget images alone, at lr, decay lr, decay^2 lr."""
    data = data_of(digits, ForgetRequest((-1,), 8))
    x = data.forget.normalisation(data.forget.images)
    start = [p.detach().clone() for p in model.parameters()]

    def loss(student):
        far = sum((p - q).square().sum() for p, q in zip(student.parameters(), start, strict=True))
        return (student(x) - oracle(2)(x).detach()).square().mean() + wd_lambda * far

    expected = copy.deepcopy(model)
    adam(expected, [slope(loss)] * 3, [0.01, 0.01 * decay, 0.01 * decay**2])
    settings = {"unlearn_epochs": 3, "unlearn_lr": 0.01, "oracle_count": 1, "retain_multiplier": 0.0}
    found = unlearn("oracle_matching", model, data, decay=decay, wd_lambda=wd_lambda, **settings).model
    for got, wanted in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_the_learning_rate_decays_and_the_distance_has_its_price(model, digits):
    data = data_of(digits, ForgetRequest((-1,), 8))
    free, held = (
        unlearn("oracle_matching", model, data, wd_lambda=wd_lambda, oracle_count=1).model
        for wd_lambda in (0.0, 100.0)
    )
    moved = [
        sum((p - q).square().sum().item() for p, q in zip(m.parameters(), model.parameters(), strict=True))
        for m in (free, held)
    ]
    assert moved[1] < 0.5 * moved[0]
    still = unlearn("oracle_matching", model, data, decay=1e-9, unlearn_epochs=5, oracle_count=1).model
    once = unlearn("oracle_matching", model, data, decay=1e-9, unlearn_epochs=1, oracle_count=1).model
    torch.testing.assert_close(still.state_dict(), once.state_dict(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        ("oracle_matching", {"oracle_count": 0}, "--oracle_count: expected an integer >= 1, got 0"),
        (
            "oracle_matching",
            {"retain_multiplier": -1.0},
            "--retain_multiplier: expected a number >= 0, got -1.0",
        ),
        ("oracle_matching", {"forget_multiplier": 0}, "--forget_multiplier: expected an integer >= 1, got 0"),
        ("oracle_matching", {"decay": 1.5}, "--decay: expected a number above 0 and at most 1, got 1.5"),
        ("oracle_matching", {"wd_lambda": -1.0}, "--wd_lambda: expected a number >= 0, got -1.0"),
        ("dm_matching", {"unlearn_epochs": 0}, "--unlearn_epochs: expected an integer >= 1, got 0"),
        ("dm_matching", {"damping": 0.0}, "--damping: expected a number > 0, got 0.0"),
        ("dm_direct", {"multiplier": -2.0}, "--multiplier: expected a number > 0, got -2.0"),
        ("dm_direct", {"sketch_size": 0}, "--sketch_size: expected an integer >= 1, got 0"),
        ("dm_direct", {"attribution_images": 0}, "--attribution_images: expected an integer >= 1, got 0"),
    ],
)
def test_flags_that_make_no_sense_are_refused_before_anything_is_done(method, flags, message, model, digits):
    data = data_of(digits)
    with pytest.raises(ValueError, match=re.escape(message)):
        unlearn(method, model, data, **flags)
    with pytest.raises(ValueError, match=re.escape(message)):
        resolved(method, model, data, METHODS[method].settings(flags))


# The datamodel


@pytest.fixture
def no_sketch(monkeypatch):
    """The features are the gradients themselves."""
    plain = lambda count, size, generator, device: Sketch(  # noqa: E731
        torch.arange(count), torch.ones(count, dtype=torch.float64), count
    )
    monkeypatch.setattr(Sketch, "drawn", plain)


def two_clouds(seed, count=80):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 1, 3, generator=generator) + 0.8 * (2 * labels - 1)[
        :, None, None, None
    ] * torch.tensor([1.0, 0.5, 0.0])
    return ImageSet.of_tensors(images, labels)


def optimum(images, ridge):
    """The difference of the two classes' weights in a logistic regression without an intercept, by
    scikit-learn.
    """
    fitted = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-10, max_iter=10_000)
    return torch.from_numpy(
        fitted.fit(images.images.flatten(1).double().numpy(), images.labels.numpy()).coef_[0]
    )


def test_the_shift_is_the_newton_step_to_the_logistic_regression_without_the_images(no_sketch):
    """scikit-learn finds both optima of a convex problem; the shift is their difference to first order."""
    images, ridge = two_clouds(0), 1.0
    whole = optimum(images, ridge)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-whole / 2, whole / 2]))
    data = ForgetData(images.subset(torch.arange(1)), images.subset(torch.arange(1, 80)), images, 2)
    # a margin's gradient is (-x, x), so that |phi|^2 = 2 |x|^2; ridge w/2 on the two rows' difference is 2
    # ridge in these features
    p = torch.sigmoid(images.images.flatten(1).double() @ whole)
    scale = (p * (1 - p) * 2 * images.images.flatten(1).double().square().sum(1)).mean()
    attribution = Attribution(model, images, data, sketch_size=6, damping=float(2 * ridge / scale))
    for left_out in (torch.arange(80) == 5, torch.arange(80) < 4):
        expected = optimum(images.subset(~left_out), ridge) - whole
        shift = attribution.shift(left_out)["1.weight"].double()
        torch.testing.assert_close(shift[1] - shift[0], expected, atol=0.15 * float(expected.norm()), rtol=0)


def test_the_scores_are_what_the_shift_takes_from_the_margins(model, digits):
    """Two ways to the same number, up to the sketch of the other images' gradients, which the shift does not
    need.
    """
    data = data_of(digits, ForgetRequest((-1,), 5))
    images = data.forget.joined(data.retain.subset(torch.arange(200)))
    parameters = sum(p.numel() for p in model.parameters())
    attribution = Attribution(model, images, data, sketch_size=40 * parameters, damping=1.0)
    chosen = torch.isin(images.indexes, data.forget.indexes)
    few = digits.validation.subset(torch.arange(20))
    x = few.normalisation(few.images)

    def margins(step):
        moved = copy_of(model).double()
        with torch.no_grad():
            for (name, shift), parameter in zip(
                attribution.shift(chosen).items(), moved.parameters(), strict=True
            ):
                assert dict(moved.named_parameters())[name] is parameter
                parameter += step * shift
            logits = moved(x.double())
        others = logits.scatter(1, few.labels[:, None], -torch.inf).logsumexp(1)
        return logits.gather(1, few.labels[:, None]).squeeze(1) - others

    derivative = (margins(1e-4) - margins(-1e-4)) / 2e-4
    expected = -attribution.scores(few)[:, chosen].sum(1)
    assert np.corrcoef(derivative, expected)[0, 1] > 0.99


def test_a_sketch_keeps_inner_products_on_average():
    one, other = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in range(400):
        sketch = Sketch.drawn(50, 64, torch.Generator().manual_seed(seed), torch.device("cpu"))
        down = sketch.down(torch.stack([one, other]))
        torch.testing.assert_close(down[0] @ down[1], one @ sketch.up(down[1]))
        found.append(float(down[0] @ down[1]))
    assert np.mean(found) == pytest.approx(float(one @ other), abs=4 * np.std(found) / 20)


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_shifted_logits_are_the_derivative_in_the_shifts_direction(arch, digits):
    model = build(arch, digits.train.image_shape, 10, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    shift = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in model.named_parameters()
    }
    x = digits.train.normalisation(digits.train.images[:6]).double()
    ahead, behind = copy_of(model), copy_of(model)
    with torch.no_grad():
        for sign, moved in ((1, ahead), (-1, behind)):
            for name, parameter in moved.named_parameters():
                parameter += sign * 1e-7 * shift[name]  # over no relu's kink
        expected = model(x) + (ahead(x) - behind(x)) / 2e-7
        torch.testing.assert_close(Shifted(model, shift).eval()(x), expected, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(Shifted(model, shift).eval()(x), expected, atol=1e-4, rtol=1e-4)


def test_dm_direct_leaves_the_weights_and_multiplies_the_scores(model, digits):
    data = data_of(digits, ForgetRequest((3,), 10))
    x = digits.validation.normalisation(digits.validation.images)
    once, twice = (unlearn("dm_direct", model, data, multiplier=factor).model for factor in (1.0, 2.0))
    assert all(
        torch.equal(p, q)
        for p, q in zip(once.model.state_dict().values(), model.state_dict().values(), strict=True)
    )
    with torch.no_grad():
        torch.testing.assert_close(twice(x) - model(x), 2 * (once(x) - model(x)), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(once(x), model(x), atol=1e-3)


@pytest.mark.parametrize(
    ("request_", "expected"), [(ForgetRequest((3,)), 20.0), (ForgetRequest((3,), 10), 1.0)]
)
def test_the_multiplier_is_larger_where_a_whole_class_goes(request_, expected, model, digits):
    for name in ("dm_direct", "dm_matching"):
        assert resolved(name, model, data_of(digits, request_), METHODS[name].settings({})) == {
            "multiplier": expected
        }


def test_dm_matching_learns_what_dm_direct_says(model, digits):
    data = data_of(digits, ForgetRequest((3,)))
    wanted = unlearn("dm_direct", model, data).model
    result = unlearn("dm_matching", model, data, unlearn_epochs=200, unlearn_lr=5e-3, decay=0.98)
    goal = logits_of(wanted, data.forget, data.device)
    before, after = (
        F.mse_loss(logits_of(one, data.forget, data.device), goal) for one in (model, result.model)
    )
    assert after < 0.2 * before
    assert result.history[-1]["matching_loss"] < result.history[0]["matching_loss"]


# As a user runs them


@pytest.mark.slow
def test_a_run_names_the_command_that_makes_the_oracles_and_goes_on_after_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    flags = ["--epochs", "1", "--class_to_replace", "4"]
    forget = ["--metrics", "forget_score", "--report", "skip", *flags]
    command = ["--unlearn", "oracle_matching", *forget, "--oracle_count", "3"]
    assert mlflow_forget.main(command) == 2
    error = capsys.readouterr().err
    assert (
        "expected oracles of seeds 2 to 4 in results/digits, and found 3 of 3 missing. Make them: " in error
    )
    makes = error.strip().partition("python -u main_ideal.py ")[2].split()
    assert makes == ["--oracles", "4", *flags]
    assert main_ideal.main(makes) == 0
    assert mlflow_forget.main(command) == 0
    assert mlflow_forget.main(["--unlearn", "load_an_oracle", *forget]) == 0
    assert mlflow_forget.main(["--unlearn", "load_an_oracle", *forget, "--oracle_seed", "1"]) == 2
    assert "got seed 1, which is one of the reference set (seeds 1)" in capsys.readouterr().err
    assert mlflow_forget.main(["--unlearn", "dm_direct", *forget]) == 0
