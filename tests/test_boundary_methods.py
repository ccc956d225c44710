"""boundary_shrink and boundary_expanding: two epochs of each by hand, labels across a boundary, an extra
class.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.data import Normalisation
from lethe.unlearn import METHODS, ForgetData, resolved, unlearn
from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.boundary_expanding import Widened
from lethe.unlearn.boundary_shrink import nearest_class, relabelled
from tests.by_hand import sgd, slope
from tests.columns import (
    CLASSES,
    CPU,
    accuracy,
    assert_weights,
    classifier,
    data_of,
    everything,
    fixture_model,  # noqa: F401
    fixture_trained,  # noqa: F401
    images_of,
)

# boundary_shrink


def test_the_nearest_class_by_hand():
    """Two pixels, three classes with logits (a, b, a - 1): class 0 loses a and gains b."""
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.0, 0.0, -1.0]))
    x = torch.tensor([[0.5, 0.4], [9.0, 0.0]])
    nearest, crossed = nearest_class(model, x, torch.tensor([0, 0]), Normalisation((), ()), 0.1)
    assert nearest.tolist() == [
        1,
        2,
    ]  # at (.4, .5) it is class 1; at (8.9, .1) class 0 still, and class 2 the next
    assert crossed.tolist() == [True, False]
    assert all(p.grad is None for p in model.parameters())


def test_labels_are_those_of_the_initial_model_in_eval_mode(trained):
    model = nn.Sequential(*copy.deepcopy(trained), nn.Dropout(0.9))
    images = data_of(1).forget
    in_train, crossed = relabelled(model.train(), images, 0.1, CPU)
    in_eval, _ = relabelled(model.eval(), images, 0.1, CPU)
    assert torch.equal(in_train.labels, in_eval.labels)
    assert not (in_eval.labels == images.labels).any()
    assert 0 <= crossed <= 1


def test_two_epochs_of_boundary_shrink_by_hand(trained):
    data = data_of(part=[0, 5, 6, 11])
    x, y = everything(data.forget)
    pixels = (data.forget.images.double() / 255).flatten(1)
    leaf = x.double().requires_grad_(True)
    frozen = copy.deepcopy(trained).double()
    F.cross_entropy(frozen(leaf), y, reduction="sum").backward()
    moved_pixels = (pixels + 0.1 * leaf.grad.flatten(1).sign()).clamp(0, 1)
    logits = frozen(((moved_pixels - 0.3) / 0.2).view(-1, 1, 4, 4)).detach()
    nearest = torch.tensor(
        [
            max((k for k in range(CLASSES) if k != true), key=row.__getitem__)
            for row, true in zip(logits, y, strict=True)
        ]
    )
    expected = copy.deepcopy(trained)
    sgd(expected, [slope(lambda f: F.cross_entropy(f(x), nearest))] * 2, 0.3, 0.5)
    result = unlearn("boundary_shrink", trained, data, unlearn_epochs=2, unlearn_lr=0.3, momentum=0.5)
    assert_weights(result.model, list(expected.parameters()), atol=1e-5)
    assert result.facts == {"crossed_share": (logits.argmax(1) != y).double().mean().item()}


def test_boundary_shrink_forgets_a_class(trained):
    data = data_of(1)
    assert accuracy(unlearn("boundary_shrink", trained, data, unlearn_lr=1e-2).model, data.forget) == 0


# boundary_expanding


def test_two_epochs_of_boundary_expanding_by_hand(model):
    data = data_of(1)
    x, _ = everything(data.forget)
    extra = Widened(model, "3", data.generator("boundary_expanding", "extra class")).extra
    wide = copy.deepcopy(model)
    wide[3] = nn.Linear(8, CLASSES + 1)
    with torch.no_grad():
        wide[3].weight.copy_(torch.cat([model[3].weight, extra.weight]))
        wide[3].bias.copy_(torch.cat([model[3].bias, extra.bias]))
    sgd(wide, [slope(lambda f: F.cross_entropy(f(x), torch.full((10,), CLASSES)))] * 2, 0.3, 0.9)
    result = unlearn("boundary_expanding", model, data, unlearn_epochs=2, unlearn_lr=0.3)
    assert_weights(
        result.model,
        [wide[1].weight, wide[1].bias, wide[3].weight[:CLASSES], wide[3].bias[:CLASSES]],
        atol=1e-5,
    )


def test_boundary_expanding_leaves_no_extra_class(model):
    seen = []
    data = data_of(
        1,
        on_epoch=lambda student, epoch: seen.append(
            student(images_of(1).normalisation(images_of(1).images)).shape
        ),
    )
    result = unlearn("boundary_expanding", model, data, unlearn_epochs=2)
    assert [(k, v.shape) for k, v in result.model.state_dict().items()] == [
        (k, v.shape) for k, v in model.state_dict().items()
    ]
    assert repr(result.model) == repr(model)
    assert seen == [(4, CLASSES)] * 2
    assert not any(m._forward_pre_hooks for m in result.model.modules())


def test_boundary_expanding_shows_each_epoch_a_model_of_the_callers_architecture(model):
    shown = []
    data = data_of(
        1,
        on_epoch=lambda student, epoch: shown.append(
            (epoch, {k: v.shape for k, v in student.state_dict().items()})
        ),
    )
    unlearn("boundary_expanding", model, data, unlearn_epochs=2)
    own = {k: v.shape for k, v in model.state_dict().items()}
    assert shown == [(1, own), (2, own)]


@pytest.mark.parametrize("outputs", [CLASSES, 100])
def test_the_extra_class_comes_after_all_outputs_of_the_model(outputs):
    model = classifier(classes=outputs)
    wide = Widened(model, "3", torch.Generator().manual_seed(0)).train()
    x, _ = everything(images_of(1))
    assert wide(x).shape == (4, outputs + 1)
    assert torch.equal(wide(x)[:, :outputs], model(x))
    assert torch.equal(wide.eval()(x), model(x))
    assert wide.extra.weight.abs().max() <= 8**-0.5


def test_a_classifier_without_a_bias_gets_an_extra_class_without_one():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES, bias=False))
    assert Widened(model, classifier_of(model, data_of(1)), torch.Generator()).extra.bias is None


def test_a_model_that_is_one_linear_layer_can_be_expanded():
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    data = ForgetData.of_tensors(x, labels, labels == 1)
    model = nn.Linear(5, 3)
    assert unlearn("boundary_expanding", model, data).model(x).shape == (12, 3)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.Softmax(1)),
        nn.Sequential(nn.Conv2d(1, CLASSES, 4), nn.Flatten()),
    ],
    ids=["softmax after it", "no linear layer"],
)
def test_a_model_whose_logits_are_no_linear_layers_is_refused(model):
    with pytest.raises(ValueError, match="expected a model whose last linear layer gives its 4 logits"):
        unlearn("boundary_expanding", model, data_of(1))


def test_boundary_expanding_forgets_a_class(trained):
    data = data_of(1)
    result = unlearn("boundary_expanding", trained, data, unlearn_lr=1e-2)
    assert accuracy(result.model, data.forget) == 0


# the learning rate of both boundary methods


@pytest.mark.parametrize(("method", "of_images"), [("boundary_shrink", 1e-7), ("boundary_expanding", 3e-7)])
def test_a_boundary_method_goes_slowly_where_a_class_of_the_forgotten_stays(method, of_images, model):
    defaults = METHODS[method].settings({})
    of_a_class = resolved(method, model, data_of(1), defaults)
    assert of_a_class["unlearn_lr"] == 1e-4
    assert resolved(method, model, data_of(part=[0, 5]), defaults)["unlearn_lr"] == of_images
    assert resolved(method, model, data_of(1, part=[0]), defaults | {"unlearn_lr": 0.5})["unlearn_lr"] == 0.5
