"""SVD_forgetting: directions of one class alone, of both, of neither."""

import pytest
import torch
from torch import nn

from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.svd_forgetting import of_each_class, project, used
from tests.three_classes import convolutional, data_of, flat

U, V = torch.eye(4)[0], torch.tensor([0.0, 0.6, 0.8, 0.0])  # orthogonal


def along(forget, retain, **settings):
    """A linear layer W after forgetting class 0, whose images lie along the one, those of class 1 along the
    other.
    """
    scales = torch.tensor([1.0, 2.0, 0.5, 1.5])
    x = torch.cat([scales[:, None] * forget, scales[:, None] * retain])
    labels = torch.tensor([0] * 4 + [1] * 4)
    model = nn.Sequential(nn.Linear(4, 2))
    data = ForgetData.of_tensors(x, labels, labels == 0)
    return model[0].weight.detach(), unlearn("SVD_forgetting", model, data, **settings).model[0].weight


@pytest.mark.parametrize("alphas", [(100.0, 3.0), (1.0, 1.0), (1000.0, 0.5)])
def test_what_only_the_forget_class_uses_is_gone_and_what_retain_uses_stays(alphas):
    before, after = along(V, U, retain_alpha=alphas[0], forget_alpha=alphas[1])
    torch.testing.assert_close(after @ V, torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(after @ U, before @ U)


def test_what_both_use_stays():
    before, after = along(U, U)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("rows", [torch.eye(2), torch.eye(2).repeat(3, 1), torch.eye(2, 5)], ids=len)
def test_the_strength_of_a_direction_is_that_of_its_share(rows):
    """Two directions of one strength: r is a half in each, and lambda is 3/2 / (2/2 + 1)."""
    m = used(rows, 3.0).of(torch.eye(rows.shape[1], dtype=torch.float64))
    expected = 0.75 * torch.diag((rows.sum(0) > 0).double())
    torch.testing.assert_close(m, expected)
    assert used(rows, 1e-9).strengths.abs().max() < 1e-8


def test_by_hand_in_full():
    draws = torch.Generator().manual_seed(0)
    retain, forget = torch.randn(7, 5, generator=draws), torch.randn(3, 5, generator=draws)
    layer = nn.Linear(5, 2)

    def m(rows, alpha):
        u, s, _ = torch.linalg.svd(rows.T.double(), full_matrices=False)
        r = s**2 / (s**2).sum()
        return u @ torch.diag(alpha * r / ((alpha - 1) * r + 1)) @ u.T

    m_r, m_f, one = m(retain, 100.0), m(forget, 3.0), torch.eye(5, dtype=torch.float64)
    expected = layer.weight.detach().double() @ (one - (one - m_r) @ m_f)

    project(layer, used(retain, 100.0), used(forget, 3.0))

    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_each_retained_class_gives_as_many_images():
    data = data_of()
    chosen = of_each_class(data.retain, 2, data)
    assert chosen.labels.bincount().tolist() == [0, 2, 2]


def test_biases_and_batch_norm_stay_and_the_convolutions_change():
    model = convolutional()
    after = unlearn("SVD_forgetting", model, data_of(), images_per_class=5).model
    changed = {name for name, p in after.named_parameters() if not torch.equal(p, model.get_parameter(name))}
    assert changed == {"0.weight", "3.weight", "4.weight", "7.weight"}
    assert flat(after).isfinite().all()


def test_inputs_that_are_not_finite_are_refused_in_one_line():
    model = convolutional()
    with torch.no_grad():
        model[3].weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="expected finite inputs of layer '4', got others") as raised:
        unlearn("SVD_forgetting", model, data_of())
    assert "\n" not in str(raised.value)


def test_each_side_has_its_own_alpha_and_its_own_images():
    draws = torch.Generator().manual_seed(0)
    x, labels = torch.randn(12, 4, generator=draws), torch.arange(12) % 2
    model = nn.Sequential(nn.Linear(4, 2))
    data = ForgetData.of_tensors(x, labels, labels == 0)
    expected = nn.Linear(4, 2)
    expected.load_state_dict(model[0].state_dict())
    project(expected, used(x[labels == 1], 50.0), used(x[labels == 0], 2.0))
    found = unlearn("SVD_forgetting", model, data, retain_alpha=50.0, forget_alpha=2.0).model
    torch.testing.assert_close(found[0].weight.detach(), expected.weight.detach())
