"""fisher, fisher_new, wfisher and SSD: the information against a slow loop, dense inverses, and each step by
hand.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import ForgetData, resolved, unlearn
from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.fisher_diagonal import fisher_diagonal
from lethe.unlearn.fisher_information import image_gradients
from lethe.unlearn.fisher_new import variance
from lethe.unlearn.layer_gradients import ImageGradients
from lethe.unlearn.wfisher import solved
from tests.three_classes import CLASSES, convolutional, data_of, flat, perceptron, seeded, whole

CPU = torch.device("cpu")


def peculiar():
    """With layers that are neither linear nor a convolution nor a batch norm."""
    return seeded(nn.Flatten, lambda: nn.PReLU(16), lambda: nn.LayerNorm(16), lambda: nn.Linear(16, CLASSES))


def slow_gradients(model, images, labels):
    """One image at a time, by plain autograd: a list of gradients for each image."""
    return [
        torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), list(model.parameters()))
        for x, y in zip(images, labels, strict=True)
    ]


def slow_fisher(model, images, labels):
    x, y = whole(images)
    if labels == "true":
        squares = [[g.square() for g in gs] for gs in slow_gradients(model, x, y)]
    else:
        squares = []
        for image, p in zip(x, model(x).softmax(1).detach(), strict=True):
            per_class = [slow_gradients(model, image[None], torch.tensor([c]))[0] for c in range(CLASSES)]
            squares.append(
                [
                    sum(p[c] * per_class[c][i].square() for c in range(CLASSES))
                    for i in range(len(per_class[0]))
                ]
            )
    return {
        name: torch.stack(one).mean(0)
        for (name, _), one in zip(model.named_parameters(), zip(*squares, strict=True), strict=True)
    }


def noise_of(data, purpose, model):
    generator = data.generator(purpose)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


# Fisher information


@pytest.mark.parametrize("labels", ["true", "model"])
@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_the_fisher_diagonal_is_that_of_a_slow_loop(labels, make, monkeypatch):
    model, data = make(), data_of()
    monkeypatch.setattr("lethe.unlearn.importance.IN_CACHE", 5)
    fast, slow = (
        fisher_diagonal(model, data.retain, CPU, labels=labels),
        slow_fisher(model, data.retain, labels),
    )
    for name, expected in slow.items():
        torch.testing.assert_close(fast[name], expected, rtol=1e-4, atol=1e-9)


def test_a_parameter_that_is_not_used_has_no_information():
    model = perceptron()
    model.unused = nn.Parameter(torch.ones(2))
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))
    assert fisher_diagonal(model, data_of().retain, CPU, labels="true")["unused"].tolist() == [0, 0]


# fisher


def test_fisher_adds_noise_whose_variance_is_alpha_over_the_information():
    model, data, alpha = perceptron(), data_of(), 1e-9
    information, noise = slow_fisher(model, data.retain, "true"), noise_of(data, "fisher", model)
    result = unlearn("fisher", model, data, fisher_alpha=alpha)
    below = 0
    for name, weight in model.named_parameters():
        deviation = torch.minimum((alpha / information[name]) ** 0.5, torch.tensor(1e-3))
        below += (deviation < 1e-3).sum().item()
        times = 10 if name.startswith("3.") else 1  # the classifier, and not the layer of 10 outputs
        torch.testing.assert_close(
            result.model.get_parameter(name), weight + times * deviation * noise[name], rtol=1e-5, atol=1e-7
        )
    total = sum(p.numel() for p in model.parameters())
    assert result.facts["noise_at_bound_percent"] == pytest.approx(100 * (total - below) / total)
    assert 0 < below < total


def test_fisher_at_a_large_alpha_is_bounded_noise():
    model, data = perceptron(), data_of()
    result = unlearn("fisher", model, data, fisher_alpha=1e9)
    assert result.facts["noise_at_bound_percent"] == 100
    assert (result.model[1].weight - model[1].weight).std().item() == pytest.approx(1e-3, rel=0.2)


@pytest.mark.parametrize("method", ["fisher", "fisher_new"])
def test_fisher_needs_a_positive_alpha_and_a_linear_classifier(method):
    with pytest.raises(ValueError, match="--fisher_alpha: expected a number > 0, got 0"):
        unlearn(method, perceptron(), data_of(), fisher_alpha=0.0)
    model = seeded(lambda: nn.Conv2d(1, CLASSES, 4), nn.Flatten)
    reason = "expected a model whose last linear layer gives its 3 logits, got no linear layer"
    with pytest.raises(ValueError, match=reason):
        resolved(method, model, data_of(), {"fisher_alpha": 1.0})


# fisher_new


def test_the_variance_is_a_mean_over_the_inputs_of_the_bounded_inverse():
    weight, bias = torch.tensor([[0.5, 0.0], [0.1, 0.001]]), torch.tensor([0.5, 0.0])
    expected = {
        (weight, False): [[1002.0, 1002.0], [1010.0, 1010.0]],
        (weight, True): [[1020.0, 1020.0], [1100.0, 1100.0]],
        (bias, False): [40.0, 20000.0],
        (bias, True): [40.0, 2000.0],  # x 10 once
    }
    for (information, in_classifier), v in expected.items():
        torch.testing.assert_close(variance(information, 2.0, in_classifier), torch.tensor(v))


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_fisher_new_adds_noise_by_the_models_own_labels(make):
    model, data, alpha = make(), data_of(forget=[0, 4, 5]), 1e-6
    information, noise = slow_fisher(model, data.retain, "model"), noise_of(data, "fisher_new", model)
    classifier = classifier_of(model, data)
    result = unlearn("fisher_new", model, data, fisher_alpha=alpha).model
    for name, weight in model.named_parameters():
        spread = variance(information[name], alpha, name.startswith(f"{classifier}."))
        torch.testing.assert_close(
            result.get_parameter(name), weight + spread.sqrt() * noise[name], rtol=1e-3, atol=1e-6
        )


def test_fisher_new_forgets_the_row_of_a_whole_class_and_no_other():
    model, data = perceptron(), data_of(forget_classes=(1,))
    noise = noise_of(data, "fisher_new", model)
    result = unlearn("fisher_new", model, data, fisher_alpha=1e-20).model
    for name in ("3.weight", "3.bias"):
        torch.testing.assert_close(result.get_parameter(name)[1], 0.01 * noise[name][1])
        torch.testing.assert_close(
            result.get_parameter(name)[[0, 2]], model.get_parameter(name)[[0, 2]], rtol=0, atol=1e-6
        )
    torch.testing.assert_close(result[1].weight, model[1].weight, rtol=0, atol=1e-6)


# wfisher


def dense_rows(model, images):
    return torch.stack(
        [torch.cat([g.flatten() for g in gs]) for gs in slow_gradients(model, *whole(images))]
    ).double()


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_wfisher_is_the_step_of_the_dense_inverse(make):
    model, data, damping = make(), data_of(forget=[0, 3, 4, 8, 11]), 0.05
    forget, retain = dense_rows(model, data.forget), dense_rows(model, data.retain)
    v = 5 / 18 * (forget.mean(0) - retain.mean(0))
    matrix = damping * torch.eye(v.numel(), dtype=torch.float64) + retain.T @ retain / len(retain)
    result = unlearn("IU", model, data, wfisher_step=3.0, damping=damping)
    torch.testing.assert_close(
        flat(result.model).double() - flat(model), 3 * torch.linalg.solve(matrix, v), rtol=1e-3, atol=1e-5
    )
    assert result.facts["fisher_images_used"] == 13


@pytest.mark.parametrize(
    ("at_once", "block"), [(1, 128), (5, 128), (6, 4), (11, 3), (12, 5), (100, 128), (100, 5)]
)
@pytest.mark.parametrize("make", [perceptron, convolutional, peculiar])
def test_wfisher_in_pieces_is_the_dense_inverse(make, at_once, block, monkeypatch):
    monkeypatch.setattr("lethe.unlearn.wfisher.BLOCK", block)
    model, data = make(), data_of()
    v, rows = (
        torch.randn(flat(model).numel(), generator=torch.Generator().manual_seed(0)),
        dense_rows(model, data.retain),
    )
    expected = torch.linalg.solve(
        0.1 * torch.eye(v.numel(), dtype=torch.float64) + rows.T @ rows / len(rows), v.double()
    )
    pieces = zip(model.named_parameters(), v.split([p.numel() for p in model.parameters()]), strict=True)
    some_images = whole(data.retain)[0][:2]
    numbers = at_once * ImageGradients(model, some_images).numbers_an_image(some_images)
    found = solved(
        model,
        data.retain,
        {name: piece.view_as(p) for (name, p), piece in pieces},
        0.1,
        data,
        numbers=numbers,
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("one_call", [5, 64])
def test_wfisher_computes_each_images_gradient_once_where_all_can_be_held(one_call, monkeypatch):
    counts, plain = [], ImageGradients.of_labels
    monkeypatch.setattr("lethe.unlearn.wfisher.AT_ONCE", one_call)
    monkeypatch.setattr(ImageGradients, "numbers_an_image", lambda self, x: 100)
    monkeypatch.setattr(
        ImageGradients, "of_labels", lambda self, x, y: counts.append(len(y)) or plain(self, x, y)
    )
    unlearn("wfisher", perceptron(), data_of())
    assert counts == ([12] if one_call == 64 else [5, 5, 2])


def test_wfisher_descends_on_retain_and_ascends_on_forget():
    model, data = perceptron(), data_of()
    after = unlearn("wfisher", model, data, wfisher_step=1e-2).model
    losses = [
        [F.cross_entropy(m(x), y).item() for m in (model, after)]
        for x, y in (whole(data.forget), whole(data.retain))
    ]
    assert losses[0][1] > losses[0][0]
    assert losses[1][1] < losses[1][0]


def test_wfisher_draws_the_images_of_the_fisher_matrix_by_the_seed():
    model = perceptron()
    results = [
        unlearn("wfisher", model, data_of(seed=seed), fisher_images=4, damping=0.01) for seed in (1, 1, 2)
    ]
    assert [r.facts["fisher_images_used"] for r in results] == [4, 4, 4]
    assert torch.equal(flat(results[0].model), flat(results[1].model))
    assert not torch.equal(flat(results[0].model), flat(results[2].model))


@pytest.mark.parametrize("flags", [{"wfisher_step": 0.0}, {"damping": -1.0}, {"fisher_images": 0}])
def test_wfisher_needs_positive_values(flags):
    with pytest.raises(ValueError, match=rf"--{next(iter(flags))}: expected "):
        unlearn("wfisher", perceptron(), data_of(), **flags)


# SSD


def ssd_by_hand(model, data, alpha, dampening, size):
    """Every whole batch of `size` counts once, in the order that the seed decides; what is left over counts
    for nothing.
    """
    importances = []
    for name, images in (("train", data.train), ("forget", data.forget)):
        (x, y), order = whole(images), torch.randperm(len(images), generator=data.generator("SSD", name))
        squares = []
        for batch in range(len(images) // size):
            rows = order[size * batch : size * (batch + 1)]
            squares.append(
                [
                    g.square()
                    for g in torch.autograd.grad(
                        F.cross_entropy(model(x[rows]), y[rows]), list(model.parameters())
                    )
                ]
            )
        importances.append([torch.stack(of_one).mean(0) for of_one in zip(*squares, strict=True)])
    after = {}
    for (name, weight), train, forget in zip(model.named_parameters(), *importances, strict=True):
        factor = torch.minimum(dampening * train / forget, torch.ones(()))
        after[name] = torch.where(forget > alpha * train, weight * factor, weight).detach()
    return after


@pytest.mark.parametrize(
    ("alpha", "dampening", "batch_size", "used"),
    [
        (10.0, 1.0, 64, 6),
        (2.0, 0.5, 64, 6),
        (1.0, 100.0, 64, 6),
        (2.0, 1.0, 4, 4),
        (2.0, 0.5, 5, 5),
        (2.0, 0.5, 1, 1),
    ],
)
def test_ssd_shrinks_what_matters_more_to_the_forget_set(alpha, dampening, batch_size, used):
    model, data = perceptron(), data_of()
    expected = ssd_by_hand(model, data, alpha, dampening, size=used)
    result = unlearn("SSD", model, data, selection_alpha=alpha, dampening=dampening, batch_size=batch_size)
    changed = 0
    for name, weight in model.named_parameters():
        torch.testing.assert_close(result.model.get_parameter(name), expected[name], rtol=1e-4, atol=1e-7)
        changed += (expected[name] != weight).sum().item()
        assert (result.model.get_parameter(name).abs() <= weight.abs()).all()
    assert result.facts["dampened"] == changed > 0


def test_ssds_importance_is_a_mean_over_batches_of_the_squared_mean_gradient():
    from lethe.unlearn.importance import over_batches

    model, data = perceptron(), data_of()
    found = over_batches(model, data.train, 1, data, "SSD", "train")
    torch.testing.assert_close(
        found["1.weight"], slow_fisher(model, data.train, "true")["1.weight"], rtol=1e-4, atol=1e-9
    )


def test_ssd_says_that_it_changed_nothing():
    model = perceptron()
    images, labels = whole(data_of().train)
    twins = ForgetData.of_tensors(images.repeat(2, 1, 1, 1), labels.repeat(2), torch.arange(len(labels)))
    result = unlearn("SSD", model, twins, selection_alpha=2.0)
    assert torch.equal(flat(result.model), flat(model))
    assert result.facts["dampened"] == 0
    assert "Lower --selection_alpha" in result.facts["unchanged"]


# The gradients of single images


def test_the_gradients_of_single_images_need_no_batch():
    model, data = convolutional(), data_of()
    x, y = whole(data.retain)
    for name, gradients in image_gradients(model, x, y).items():
        position = list(dict(model.named_parameters())).index(name)
        torch.testing.assert_close(
            gradients[4], slow_gradients(model, x, y)[4][position], rtol=1e-4, atol=1e-6
        )
