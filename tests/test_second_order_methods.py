"""fisher, fisher_new, wfisher, SSD, MSG, CT, CFk, EUk: each against plain autograd, and what published code gets wrong."""

import copy
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build
from tests.by_hand import adam, sgd, slope
from unlearn import ForgetData, resolved, unlearn
from unlearn.blocks import blocks_of, classifier_of
from unlearn.ct import transpose
from unlearn.fisher_diagonal import fisher_diagonal
from unlearn.fisher_information import image_gradients
from unlearn.fisher_new import variance
from unlearn.layer_gradients import ImageGradients
from unlearn.msg import gradient_differences, lowest, reinitialise, smaller_gradients
from unlearn.wfisher import solved

CLASSES, HIDDEN = 3, 10  # 10: published code takes a last dimension of 10 for the classifier
CPU = torch.device("cpu")


def data_of(forget_classes=(0,), forget=None, count=18, shape=(1, 4, 4), **world):
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, *shape, generator=generator) + labels.view(-1, *(1 for _ in shape))
    chosen = torch.isin(labels, torch.tensor(forget_classes)) if forget is None else torch.tensor(forget)
    return ForgetData.of_tensors(images, labels, chosen, **world)


def seeded(*layers):
    """The layers that the functions make, under one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(*(make() for make in layers)).eval()


def perceptron(bias=True):
    return seeded(nn.Flatten, lambda: nn.Linear(16, HIDDEN, bias), nn.ReLU, lambda: nn.Linear(HIDDEN, CLASSES, bias))


def convolutional():
    return seeded(
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(4),
        nn.ReLU,
        lambda: nn.Conv2d(4, 2, (1, 3)),
        lambda: nn.Conv2d(2, 2, 1),
        nn.Flatten,
        nn.Dropout,
        lambda: nn.Linear(16, CLASSES),
    )


def peculiar():
    """With layers that are neither linear nor a convolution nor a batch norm."""
    return seeded(nn.Flatten, lambda: nn.PReLU(16), lambda: nn.LayerNorm(16), lambda: nn.Linear(16, CLASSES))


def whole(images):
    return next(images.batches(len(images)))


def slow_gradients(model, images, labels):
    """One image at a time, by plain autograd: a list of gradients for each image."""
    return [
        torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), list(model.parameters())) for x, y in zip(images, labels, strict=True)
    ]


def slow_fisher(model, images, labels):
    x, y = whole(images)
    if labels == "true":
        squares = [[g.square() for g in gs] for gs in slow_gradients(model, x, y)]
    else:
        squares = []
        for image, p in zip(x, model(x).softmax(1).detach(), strict=True):
            per_class = [slow_gradients(model, image[None], torch.tensor([c]))[0] for c in range(CLASSES)]
            squares.append([sum(p[c] * per_class[c][i].square() for c in range(CLASSES)) for i in range(len(per_class[0]))])
    return {name: torch.stack(one).mean(0) for (name, _), one in zip(model.named_parameters(), zip(*squares, strict=True), strict=True)}


def noise_of(data, purpose, model):
    generator = data.generator(purpose)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


# Fisher information


@pytest.mark.parametrize("labels", ["true", "model"])
@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_the_fisher_diagonal_is_that_of_a_slow_loop(labels, make, monkeypatch):
    model, data = make(), data_of()
    monkeypatch.setattr("unlearn.fisher_diagonal.IN_CACHE", 5)
    fast, slow = fisher_diagonal(model, data.retain, CPU, labels=labels), slow_fisher(model, data.retain, labels)
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
        torch.testing.assert_close(result.model.get_parameter(name), weight + times * deviation * noise[name], rtol=1e-5, atol=1e-7)
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
    with pytest.raises(ValueError, match="expected a model whose last linear layer gives its 3 logits, got no linear layer"):
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
        torch.testing.assert_close(result.get_parameter(name), weight + spread.sqrt() * noise[name], rtol=1e-3, atol=1e-6)


def test_fisher_new_forgets_the_row_of_a_whole_class_and_no_other():
    model, data = perceptron(), data_of(forget_classes=(1,))
    noise = noise_of(data, "fisher_new", model)
    result = unlearn("fisher_new", model, data, fisher_alpha=1e-20).model
    for name in ("3.weight", "3.bias"):
        torch.testing.assert_close(result.get_parameter(name)[1], 0.01 * noise[name][1])
        torch.testing.assert_close(result.get_parameter(name)[[0, 2]], model.get_parameter(name)[[0, 2]], rtol=0, atol=1e-6)
    torch.testing.assert_close(result[1].weight, model[1].weight, rtol=0, atol=1e-6)


# wfisher


def dense_rows(model, images):
    return torch.stack([torch.cat([g.flatten() for g in gs]) for gs in slow_gradients(model, *whole(images))]).double()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_wfisher_is_the_step_of_the_dense_inverse(make):
    model, data, damping = make(), data_of(forget=[0, 3, 4, 8, 11]), 0.05
    forget, retain = dense_rows(model, data.forget), dense_rows(model, data.retain)
    v = 5 / 18 * (forget.mean(0) - retain.mean(0))
    matrix = damping * torch.eye(v.numel(), dtype=torch.float64) + retain.T @ retain / len(retain)
    result = unlearn("IU", model, data, wfisher_step=3.0, damping=damping)
    torch.testing.assert_close(flat(result.model).double() - flat(model), 3 * torch.linalg.solve(matrix, v), rtol=1e-3, atol=1e-5)
    assert result.facts["fisher_images_used"] == 13


@pytest.mark.parametrize(("at_once", "block"), [(1, 128), (5, 128), (6, 4), (11, 3), (12, 5), (100, 128), (100, 5)])
@pytest.mark.parametrize("make", [perceptron, convolutional, peculiar])
def test_wfisher_in_pieces_is_the_dense_inverse(make, at_once, block, monkeypatch):
    monkeypatch.setattr("unlearn.wfisher.BLOCK", block)
    model, data = make(), data_of()
    v, rows = torch.randn(flat(model).numel(), generator=torch.Generator().manual_seed(0)), dense_rows(model, data.retain)
    expected = torch.linalg.solve(0.1 * torch.eye(v.numel(), dtype=torch.float64) + rows.T @ rows / len(rows), v.double())
    pieces = zip(model.named_parameters(), v.split([p.numel() for p in model.parameters()]), strict=True)
    some_images = whole(data.retain)[0][:2]
    numbers = at_once * ImageGradients(model, some_images).numbers_an_image(some_images)
    found = solved(model, data.retain, {name: piece.view_as(p) for (name, p), piece in pieces}, 0.1, data, numbers=numbers)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("one_call", [5, 64])
def test_wfisher_computes_each_images_gradient_once_where_all_can_be_held(one_call, monkeypatch):
    counts, plain = [], ImageGradients.of_labels
    monkeypatch.setattr("unlearn.wfisher.AT_ONCE", one_call)
    monkeypatch.setattr(ImageGradients, "numbers_an_image", lambda self, x: 100)
    monkeypatch.setattr(ImageGradients, "of_labels", lambda self, x, y: counts.append(len(y)) or plain(self, x, y))
    unlearn("wfisher", perceptron(), data_of())
    assert counts == ([12] if one_call == 64 else [5, 5, 2])


def test_wfisher_descends_on_retain_and_ascends_on_forget():
    model, data = perceptron(), data_of()
    after = unlearn("wfisher", model, data, wfisher_step=1e-2).model
    losses = [[F.cross_entropy(m(x), y).item() for m in (model, after)] for x, y in (whole(data.forget), whole(data.retain))]
    assert losses[0][1] > losses[0][0]
    assert losses[1][1] < losses[1][0]


def test_wfisher_draws_the_images_of_the_fisher_matrix_by_the_seed():
    model = perceptron()
    results = [unlearn("wfisher", model, data_of(seed=seed), fisher_images=4, damping=0.01) for seed in (1, 1, 2)]
    assert [r.facts["fisher_images_used"] for r in results] == [4, 4, 4]
    assert torch.equal(flat(results[0].model), flat(results[1].model))
    assert not torch.equal(flat(results[0].model), flat(results[2].model))


@pytest.mark.parametrize("flags", [{"wfisher_step": 0.0}, {"damping": -1.0}, {"fisher_images": 0}])
def test_wfisher_needs_positive_values(flags):
    with pytest.raises(ValueError, match=rf"--{next(iter(flags))}: expected "):
        unlearn("wfisher", perceptron(), data_of(), **flags)


# SSD


def ssd_by_hand(model, data, alpha, dampening, size):
    """Every whole batch of `size` counts once, in the order that the seed decides; what is left over counts for nothing."""
    importances = []
    for name, images in (("train", data.train), ("forget", data.forget)):
        (x, y), order = whole(images), torch.randperm(len(images), generator=data.generator("SSD", name))
        squares = []
        for batch in range(len(images) // size):
            rows = order[size * batch : size * (batch + 1)]
            squares.append([g.square() for g in torch.autograd.grad(F.cross_entropy(model(x[rows]), y[rows]), list(model.parameters()))])
        importances.append([torch.stack(of_one).mean(0) for of_one in zip(*squares, strict=True)])
    after = {}
    for (name, weight), train, forget in zip(model.named_parameters(), *importances, strict=True):
        factor = torch.minimum(dampening * train / forget, torch.ones(()))
        after[name] = torch.where(forget > alpha * train, weight * factor, weight).detach()
    return after


@pytest.mark.parametrize(
    ("alpha", "dampening", "batch_size", "used"),
    [(10.0, 1.0, 64, 6), (2.0, 0.5, 64, 6), (1.0, 100.0, 64, 6), (2.0, 1.0, 4, 4), (2.0, 0.5, 5, 5), (2.0, 0.5, 1, 1)],
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
    from unlearn.ssd import importance

    model, data = perceptron(), data_of()
    found = importance(model, data.train, 1, data, "train")
    torch.testing.assert_close(found["1.weight"], slow_fisher(model, data.train, "true")["1.weight"], rtol=1e-4, atol=1e-9)


def test_ssd_says_that_it_changed_nothing():
    model = perceptron()
    images, labels = whole(data_of().train)
    twins = ForgetData.of_tensors(images.repeat(2, 1, 1, 1), labels.repeat(2), torch.arange(len(labels)))
    result = unlearn("SSD", model, twins, selection_alpha=2.0)
    assert torch.equal(flat(result.model), flat(model))
    assert result.facts["dampened"] == 0
    assert "Lower --selection_alpha" in result.facts["unchanged"]


# MSG


def test_lowest_takes_a_share_of_each_tensor():
    scores = {"a": torch.tensor([[5.0, 1.0], [4.0, 2.0], [3.0, 9.0]]), "b": torch.tensor([1e9]), "c": torch.tensor([0.0, 0.0, 0.0])}
    chosen = lowest(scores, 0.34)
    assert chosen["a"].tolist() == [[False, True], [False, True], [False, False]]
    assert [v.sum().item() for v in chosen.values()] == [2, 0, 1]


def gradients_of(model, images):
    x, y = whole(images)
    return dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())), strict=True)
    )


def test_msg_scores_by_the_smaller_of_the_two_gradients():
    model, data = convolutional(), data_of()
    scores, forget, retain = smaller_gradients(model, data, 100), gradients_of(model, data.forget), gradients_of(model, data.retain)
    for name, score in scores.items():
        torch.testing.assert_close(score, torch.minimum(forget[name].abs(), retain[name].abs()), rtol=1e-4, atol=1e-7)


def test_msg_multiplies_the_lowest_by_noise_and_leaves_the_others():
    model, data = convolutional(), data_of()
    chosen, noise = lowest(smaller_gradients(model, data, 100), 0.3), noise_of_msg(data, model)
    result = unlearn("MSG", model, data, unlearn_epochs=1, unlearn_lr=1e-12, batch_size=100).model
    for name, weight in model.named_parameters():
        expected = torch.where(chosen[name], noise[name] * weight, weight)
        torch.testing.assert_close(result.get_parameter(name), expected, rtol=0, atol=1e-6)
        assert chosen[name].sum() == round(0.3 * weight.numel())


def noise_of_msg(data, model):
    generator = data.generator("MSG", "reset")
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def test_msg_then_descends_on_retain_by_adam(monkeypatch):
    model, data = perceptron(), data_of()
    monkeypatch.setattr("unlearn.msg.reset", lambda *_: None)  # the weights stay
    x, y = whole(data.retain)
    result = unlearn("MSG", model, data, unlearn_epochs=3, unlearn_lr=0.05, batch_size=100).model
    adam(model, [slope(lambda m: F.cross_entropy(m(x), y))] * 3, 0.05)
    torch.testing.assert_close(flat(result), flat(model), rtol=0, atol=1e-5)


def test_kgltop2_scores_by_the_difference_of_the_summed_gradients():
    model, data = convolutional(), data_of(forget=[*range(9)])  # as many retain images as forget images: all of them
    scores, forget, retain = gradient_differences(model, data, 100), gradients_of(model, data.forget), gradients_of(model, data.retain)
    for name, score in scores.items():
        torch.testing.assert_close(score, (retain[name] - forget[name]).abs(), rtol=1e-4, atol=1e-7)


def test_kgltop2_reinitialises_kernels_alone():
    model, data = convolutional(), data_of()
    result = unlearn("MSG", model, data, msg_variant="kgltop2", reset_share=0.5, unlearn_epochs=1, unlearn_lr=1e-12).model
    moved = {name: ((result.get_parameter(name) - p).abs() > 1e-6).sum().item() for name, p in model.named_parameters()}
    assert {name: count for name, count in moved.items() if count} == {"0.weight": 18, "3.weight": 12, "4.weight": 2}


def test_kgltop2_draws_by_the_outputs_that_a_weight_reaches():
    model = nn.Sequential(nn.Conv2d(4, 64, 3))  # fan_in 4 * 9, fan_out 64 * 9
    reinitialise(model, {"0.weight": torch.ones(64, 4, 3, 3, dtype=torch.bool)}, data_of())
    assert model[0].weight.mean().item() == pytest.approx(0, abs=0.005)
    assert model[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_kgltop2_trains_the_other_entries_of_the_kernels_a_tenth_as_fast(monkeypatch):
    from unlearn import msg

    model, data, marked = convolutional(), data_of(), {}
    model[6].p = 0.0
    monkeypatch.setattr(msg, "reinitialise", lambda student, chosen, data: marked.update(chosen))  # the weights stay
    size = len(data.retain)
    result = unlearn("MSG", model, data, msg_variant="kgltop2", unlearn_epochs=1, unlearn_lr=0.1, batch_size=size).model
    gradients = gradients_of(copy.deepcopy(model).train(), data.retain)
    for name, weight in model.named_parameters():
        gradient = gradients[name] + 5e-4 * weight.detach() / (torch.where(marked[name], 1.0, 0.1) if name in marked else 1.0)
        scale = torch.where(marked[name], 1.0, 0.1) if name in marked else torch.ones(())
        torch.testing.assert_close(result.get_parameter(name), weight - 0.1 * scale * gradient, rtol=1e-3, atol=1e-6)
    assert marked.keys() == {"0.weight", "3.weight", "4.weight"}


def test_kgltop2_needs_a_convolution():
    with pytest.raises(ValueError, match="--msg_variant kgltop2: expected a model with a convolution, got one without"):
        unlearn("MSG", perceptron(), data_of(), msg_variant="kgltop2")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_msg_resets_some_weights_and_not_all(share):
    with pytest.raises(ValueError, match="--reset_share: expected a number between 0 and 1"):
        unlearn("MSG", perceptron(), data_of(), reset_share=share)


# CT


def test_ct_transposes_height_and_width_of_the_square_kernels():
    model, transposed = convolutional(), convolutional()
    transpose(transposed)
    for o in range(4):
        for h in range(3):
            for w in range(3):
                assert transposed[0].weight[o, 0, h, w] == model[0].weight[o, 0, w, h]
    assert all(torch.equal(a, b) for a, b in zip(list(transposed.parameters())[1:], list(model.parameters())[1:], strict=True))


def test_a_transposed_convolution_sees_the_transposed_image():
    model, images = seeded(lambda: nn.Conv2d(2, 4, 3, groups=2), nn.ReLU, lambda: nn.Conv2d(4, 3, 2)), torch.randn(5, 2, 6, 6)
    expected = model(images).mT
    transpose(model)
    torch.testing.assert_close(model(images.mT), expected)


def test_ct_fine_tunes_what_it_transposed_by_adam():
    convolution = functools.partial(nn.Conv2d, 1, 4, 3, bias=False)  # behind batch norm a bias has no gradient
    model = seeded(convolution, lambda: nn.BatchNorm2d(4), nn.Tanh, nn.Flatten, lambda: nn.Linear(16, CLASSES))
    data, expected = data_of(), copy.deepcopy(model)
    transpose(expected)
    x, y = whole(data.retain)
    adam(expected.train(), [slope(lambda m: F.cross_entropy(m(x), y))] * 3, 1e-2)
    result = unlearn("CT", model, data, unlearn_epochs=3, unlearn_lr=1e-2, batch_size=100).model
    torch.testing.assert_close(flat(result), flat(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(result[1].running_mean, expected[1].running_mean)


@pytest.mark.parametrize("kernel", [1, (1, 3)], ids=["1 x 1", "1 x 3"])
def test_ct_refuses_a_model_that_transposing_leaves_as_it_is(kernel):
    model = seeded(lambda: nn.Conv2d(1, 2, kernel), nn.Flatten, lambda: nn.LazyLinear(CLASSES))
    model(torch.zeros(1, 1, 4, 4))
    for one in (model, perceptron()):
        with pytest.raises(ValueError, match="CT: expected a model with a square convolution kernel larger than 1 x 1, got one without"):
            resolved("CT", one, data_of(), {"unlearn_epochs": 1, "unlearn_lr": 1e-3, "batch_size": 8})


@pytest.mark.parametrize("method", ["CT", "MSG"])
@pytest.mark.parametrize(("forget", "steps"), [([0], 1), (list(range(11)), 3)])
def test_an_epoch_is_a_pass_over_forget_whichever_is_shorter(method, forget, steps, monkeypatch):
    from unlearn import retain_tuning

    seen, descend = [], retain_tuning.descend

    def spy(model, batches, **settings):
        batches = list(batches)
        seen.append([len(y) for _, y in batches])
        return descend(model, batches, **settings)

    monkeypatch.setattr(retain_tuning, "descend", spy)
    unlearn(method, convolutional(), data_of(forget=forget), unlearn_epochs=2, batch_size=4)
    assert [len(sizes) for sizes in seen] == [steps, steps]
    assert all(size > 1 for sizes in seen for size in sizes)  # batch norm


# CFk and EUk

LAST = ("CFk", "EUk")


def test_blocks_of_a_chain_of_layers():
    assert blocks_of(convolutional(), data_of()) == [("0", "1", "2"), ("3",), ("4", "5", "6"), ("7",)]
    assert blocks_of(perceptron(), data_of()) == [("1", "2"), ("3",)]


def test_blocks_of_the_architectures():
    data = data_of(shape=(3, 8, 8))
    options = {"mlp": {}, "resnet18": {"width": 2}, "HookedResnet": {"width": 2}}
    mlp, resnet, hooked = (build(name, (3, 8, 8), CLASSES, seed=0, options=own) for name, own in options.items())
    assert [block[0] for block in blocks_of(mlp, data)] == ["linear1", "linear2", "linear3"]
    residual = [f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)]
    assert [block[0] for block in blocks_of(resnet, data)] == ["conv1", *residual, "fc"]
    assert [block[0] for block in blocks_of(hooked, data)] == ["conv1", *residual, "fc.hooked", "fc.classifier"]


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them, inside a wrapper."""

    def __init__(self):
        super().__init__()
        self.net = nn.ModuleDict({"last": nn.Linear(8, CLASSES), "second": nn.Linear(8, 8), "first": nn.Linear(16, 8)})
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        x = self.net["second"](self.net["first"](x.flatten(1)).relu())
        return self.net["last"](x)


def test_blocks_are_in_forward_order_wherever_they_are_registered():
    assert blocks_of(Backwards(), data_of()) == [("net.first",), ("net.second",), ("net.last",)]


class Encoder(nn.Module):
    """A row of residual blocks with a norm after them, and no classifier: a block each."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def transformer():
    pairs = (lambda: nn.Unflatten(3, (2, 2)), lambda: nn.Flatten(1, 3))  # of pixels: 8 tokens
    return seeded(*pairs, lambda: nn.Linear(2, 8), Encoder, nn.Flatten, lambda: nn.Linear(64, CLASSES))


def test_a_row_of_blocks_in_another_module_is_looked_into():
    assert blocks_of(transformer(), data_of()) == [("2",), ("3.layers.0",), ("3.layers.1", "3.norm", "4"), ("5",)]


def test_attention_can_be_drawn_anew():
    model, data = transformer(), data_of()
    after = unlearn("EUk", model, data, unlearn_epochs=1, unlearn_lr=1e-12).model
    assert not torch.allclose(after[3].layers[1].self_attn.in_proj_weight, model[3].layers[1].self_attn.in_proj_weight)
    assert torch.equal(after[3].layers[0].self_attn.in_proj_weight, model[3].layers[0].self_attn.in_proj_weight)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(self.again(self.again(self.first(x.flatten(1)))))


def test_a_model_whose_blocks_cant_be_told_is_refused():
    with pytest.raises(ValueError, match="blocks run one after the other, got one that runs 'again' twice"):
        unlearn("CFk", Twice(), data_of())


@pytest.mark.parametrize("method", LAST)
@pytest.mark.parametrize("last_blocks", [-1, 3])
def test_the_first_block_stays_as_it_is(method, last_blocks):
    with pytest.raises(ValueError, match=r"--last_blocks: expected an integer from 0 to 2, got .*the classifier last: 0, 3, 4, 7"):
        unlearn(method, convolutional(), data_of(), last_blocks=last_blocks)


@pytest.mark.parametrize("method", LAST)
def test_a_classifier_alone_has_no_last_blocks(method):
    with pytest.raises(ValueError, match="expected a model with a block before the classifier, got one without.* Use FT"):
        unlearn(method, seeded(nn.Flatten, lambda: nn.Linear(16, CLASSES)), data_of())


@pytest.mark.parametrize("method", LAST)
def test_frozen_weights_and_statistics_do_not_move_under_momentum_and_weight_decay(method):
    model = seeded(
        nn.Flatten, lambda: nn.Linear(16, 8), lambda: nn.BatchNorm1d(8), nn.ReLU, lambda: nn.Linear(8, 8), lambda: nn.BatchNorm1d(8),
        lambda: nn.Linear(8, CLASSES),
    )  # fmt: skip
    after = unlearn(method, model, data_of(), unlearn_epochs=3, weight_decay=0.1, unlearn_lr=0.1).model.state_dict()
    same = {name for name, value in model.state_dict().items() if torch.equal(after[name], value)}
    assert same == {name for name in after if name.startswith(("1.", "2."))}


@pytest.mark.parametrize("method", LAST)
def test_the_last_blocks_are_trained_by_sgd_with_momentum(method, monkeypatch):
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), *perceptron()[1:]), data_of(forget=[0, 1])
    monkeypatch.setattr("unlearn.last_blocks.draw_anew", lambda *_: None)  # EUk starts where CFk does
    result = unlearn(method, model, data, unlearn_epochs=3, unlearn_lr=0.1, batch_size=100, weight_decay=0.01).model
    assert torch.equal(result[1].weight, model[1].weight)
    x, y = whole(data.retain)
    last = model[3:]
    h = model[:3](x).detach()
    sgd(last, [slope(lambda m: F.cross_entropy(m(h), y))] * 3, 0.1, momentum=0.9, decay=0.01)
    torch.testing.assert_close(flat(result[3:]), flat(last), rtol=1e-5, atol=1e-6)


def test_euk_starts_the_last_blocks_anew():
    one, other = (nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), *perceptron()[1:]) for _ in range(2))
    other[1].load_state_dict(one[1].state_dict())
    with torch.no_grad():
        other[3].weight.fill_(7.0), other[5].weight.fill_(math.pi)
    results = [unlearn("EUk", model, data_of(), unlearn_epochs=1).model for model in (one, other)]
    assert torch.equal(flat(results[0]), flat(results[1]))
    assert not torch.equal(flat(results[0]), flat(unlearn("CFk", one, data_of(), unlearn_epochs=1).model))
    assert not torch.equal(flat(results[0]), flat(unlearn("EUk", one, data_of(seed=2), unlearn_epochs=1).model))


def test_euk_refuses_weights_that_it_cant_draw():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.scale = Scale()

        def forward(self, x):
            return self.scale(super().forward(x))

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.by * x

    model = seeded(nn.Flatten, lambda: nn.Linear(16, 8), Scaled, lambda: nn.Linear(8, CLASSES))
    with pytest.raises(ValueError, match=r"EUk: expected blocks whose weights can be drawn anew, got '2.scale', a Scale without"):
        unlearn("EUk", model, data_of())


@pytest.mark.parametrize("method", ["MSG", "CT", "CFk", "EUk"])
def test_divergence_is_raised(method):
    with pytest.raises(FloatingPointError, match=rf"{method} diverged in epoch \d: loss .* Choose a smaller --unlearn_lr"):
        unlearn(method, convolutional(), data_of(), unlearn_lr=1e30)


def test_the_gradients_of_single_images_need_no_batch():
    model, data = convolutional(), data_of()
    x, y = whole(data.retain)
    for name, gradients in image_gradients(model, x, y).items():
        position = list(dict(model.named_parameters())).index(name)
        torch.testing.assert_close(gradients[4], slow_gradients(model, x, y)[4][position], rtol=1e-4, atol=1e-6)
