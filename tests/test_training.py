"""The training loop: what a step and a run of it do, and that the seed decides every bit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation
from lethe.models import build
from lethe.training import Recipe, descend, fit, generator_for
from tests.saved_models import SHAPE, mlp
from tests.seeded import states_equal


def tiny(count=12, seed=0):
    """Random images of two classes."""
    images = torch.randint(
        0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return ImageSet(images, torch.arange(count) % 2, torch.arange(count), Normalisation((0.5,), (0.25,)))


# fit

ADAMW = Recipe(epochs=4, optimizer="adamw", lr=3e-3, weight_decay=1e-2)


def test_fit_learns_digits(digits):
    model = build("mlp", SHAPE, 10, seed=1)
    history = fit(model, digits.train, ADAMW, generator=generator_for(1, "train"))
    assert history[-1]["score"] > 90 and len(history) == 4


def test_fit_learns_with_sgd(digits):
    model = build("mlp", SHAPE, 10, seed=1)
    history = fit(model, digits.train, Recipe(epochs=4), generator=generator_for(1, "train"))
    assert history[-1]["score"] > 90


def trained(*, seed=1, images=None, recipe=None):
    model = mlp(seed)
    fit(
        model,
        images or tiny(),
        recipe or Recipe(2, batch_size=5, augment=True),
        generator=generator_for(seed, "train"),
    )
    return model.state_dict()


def test_the_same_seed_gives_the_same_bits():
    first = trained()
    torch.rand(3)
    assert states_equal(trained(), first)


def test_another_batch_order_gives_other_weights():
    one, other = mlp(), mlp()
    for model, seed in ((one, 1), (other, 2)):
        fit(model, tiny(), Recipe(2, batch_size=5), generator=generator_for(seed, "train"))
    assert not states_equal(one.state_dict(), other.state_dict())


def test_fit_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    trained()
    assert torch.equal(torch.get_rng_state(), before)


def test_fit_ends_in_eval_mode():
    model = mlp().train()
    fit(model, tiny(), Recipe(1), generator=generator_for(1))
    assert not any(module.training for module in model.modules())


def test_fit_trains_in_train_mode():
    modes = []
    model = mlp()
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    fit(model, tiny(), Recipe(1), generator=generator_for(1))
    assert modes == [True]


def test_the_history_is_the_mean_loss_and_the_score_of_each_epoch():
    model, images = mlp(), tiny()
    ((x, y),) = images.batches(12)
    with torch.no_grad():
        logits = model(x)
    (epoch,) = fit(model, images, Recipe(1), generator=generator_for(1))
    assert epoch["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert epoch["score"] == pytest.approx(100 * (logits.argmax(1) == y).double().mean().item())


def test_a_loss_that_is_not_finite_is_an_error():
    model = mlp()
    with torch.no_grad():
        model.linear1.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="training diverged in epoch 1: the loss is nan"):
        fit(model, tiny(), Recipe(2), generator=generator_for(1))


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="training: expected at least one image, got none"):
        fit(mlp(), tiny().subset(torch.zeros(12, dtype=torch.bool)), Recipe(1), generator=generator_for(1))


@pytest.mark.parametrize("epochs", [0, -3])
def test_epochs_below_1_are_refused(epochs):
    with pytest.raises(ValueError, match=f"--epochs: expected an integer >= 1, got {epochs}"):
        Recipe(epochs)


@pytest.mark.parametrize("count", [3, 7, 13])
def test_a_last_batch_of_one_image_does_not_stop_batch_norm(count):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    (epoch,) = fit(model, tiny(count), Recipe(1, batch_size=2), generator=generator_for(1))
    assert epoch["loss"] > 0


def test_progress_sees_every_step():
    seen = []

    def progress(steps, label, total=None):
        seen.append((list(steps), label))
        return steps

    fit(
        mlp(),
        tiny(),
        Recipe(2, batch_size=5),
        generator=generator_for(1),
        progress=progress,
        label="initial model",
    )
    assert seen == [([0, 1, 2, 3, 4, 5], "initial model")]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_the_schedule_works_for_a_few_steps(epochs):
    assert len(fit(mlp(), tiny(), Recipe(epochs), generator=generator_for(1))) == epochs


# descend


def test_one_step_is_sgd_by_hand():
    model, (batch,) = mlp(), list(tiny().batches(12))
    loss = F.cross_entropy(model(batch[0]), batch[1])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = [
        (weight - 0.1 * gradient).detach()
        for weight, gradient in zip(model.parameters(), gradients, strict=True)
    ]
    losses = descend(model, [batch], optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert losses == [pytest.approx(loss.item())]
    assert all(torch.allclose(w, e, atol=1e-7) for w, e in zip(model.parameters(), expected, strict=True))


def test_descend_takes_the_loss_that_it_is_given():
    model, (batch,) = mlp(), list(tiny().batches(12))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (before,) = descend(
        model, [batch], optimizer=optimizer, loss=lambda logits, y: -F.cross_entropy(logits, y)
    )
    assert F.cross_entropy(model(batch[0]), batch[1]).item() > -before


def test_descend_takes_one_step_a_batch():
    model = mlp()
    assert len(descend(model, tiny().batches(5), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))) == 3


def test_descend_without_batches_changes_nothing():
    model = mlp()
    assert descend(model, [], optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) == []
    assert states_equal(model.state_dict(), mlp().state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_descend_keeps_the_mode(training):
    model = mlp().train(training)
    descend(model, tiny().batches(5), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert model.training == training
