"""DELETE: its loss and its gradient at the initial model, with two classes, and where it ends."""

import torch
from torch.nn import functional as F

from lethe.unlearn import copy_of, unlearn
from lethe.unlearn.delete import divergence_without
from tests.by_hand import sgd
from tests.three_classes import data_of, flat, perceptron, whole

LOGITS = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.5, 3.0]], dtype=torch.float64)
LABELS = torch.tensor([1, 2])


def test_at_the_initial_model_it_is_minus_the_log_of_the_other_classes_and_its_slope_is_p_minus_q():
    logits = LOGITS.clone().requires_grad_()
    p = LOGITS.softmax(1)
    p_y = p.gather(1, LABELS[:, None])
    q = (p / (1 - p_y)).scatter(1, LABELS[:, None], 0.0)

    loss = divergence_without(logits, LOGITS, LABELS)
    (slope,) = torch.autograd.grad(loss, logits)

    torch.testing.assert_close(loss.detach(), -(1 - p_y).log().mean())
    torch.testing.assert_close(slope, (p - q) / 2)  # a mean of two images


def test_with_two_classes_it_is_the_cross_entropy_on_the_other():
    logits, labels = LOGITS[:, :2], torch.tensor([0, 1])
    expected = F.cross_entropy(logits, 1 - labels)
    torch.testing.assert_close(divergence_without(logits, 2 * logits, labels), expected)


def test_a_student_without_the_class_and_with_the_old_ratios_is_at_its_end():
    ended = LOGITS.scatter(1, LABELS[:, None], -1e4)
    assert divergence_without(ended, LOGITS, LABELS) == 0


def test_two_steps_by_hand():
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    with torch.no_grad():
        q = model(x).scatter(1, y[:, None], -torch.inf).softmax(1)

    def slope(student):
        return torch.autograd.grad(F.cross_entropy(student(x), q), list(student.parameters()))

    expected = copy_of(model)
    sgd(expected, [slope, slope], lr=0.1, momentum=0.9)
    found = unlearn("DELETE", model, data, unlearn_epochs=2, unlearn_lr=0.1).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-6)
