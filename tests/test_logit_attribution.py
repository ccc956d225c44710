"""logit_attribution against a slow loop."""

import pytest
import torch

from lethe.data import ForgetRequest
from lethe.unlearn import ForgetData, unlearn
from tests.bars import CLASS_1, CLASSES, INPUTS, MASKED, fixture_model, fixture_splits, fixture_trained  # noqa: F401 (fixtures)


def slow_attribution(model, images, label):
    """Mean over the images of `label` of (d logit_label / d W) W, since d logit / d W_ij = (d logit / d z_i)
    h_j.
    """
    total = torch.zeros(MASKED, INPUTS)
    (all_x, all_y) = next(images.batches(len(images)))
    members = (all_y == label).nonzero().squeeze(1).tolist()
    for row in members:
        logit = model(all_x[row : row + 1])[0, label]
        (g,) = torch.autograd.grad(logit, model[5].weight)
        total += g * model[5].weight.detach()
    return total / len(members)


@pytest.mark.parametrize(
    "request_",
    [CLASS_1, ForgetRequest((0, 3)), ForgetRequest((2,), number=9), ForgetRequest((-1,), number=40)],
)
def test_logit_attribution_switches_off_what_a_slow_loop_ranks_first(request_, model, splits):
    data = ForgetData.of(splits, request_)
    kappa = 17
    leans = []
    for label in data.forget.classes:
        if label in request_.classes and request_.number is None:
            others = [
                slow_attribution(model, data.retain, c) for c in range(CLASSES) if c not in request_.classes
            ]
            leans.append(slow_attribution(model, data.forget, label) - torch.stack(others).mean(0))
        else:
            leans.append(
                slow_attribution(model, data.forget, label) - slow_attribution(model, data.retain, label)
            )
    scores = torch.stack(leans).mean(0).flatten()
    ranked = scores.sort(descending=True).values
    assert ranked[kappa - 1] - ranked[kappa] > 1e-6  # no tie that rounding could break
    result = unlearn("logit_attribution", model, data, kappa=kappa)
    assert set((~result.mask.keep).flatten().nonzero().squeeze(1).tolist()) == set(
        scores.topk(kappa).indices.tolist()
    )


def test_logit_attribution_lowers_the_forgotten_logit(model, splits):
    data = ForgetData.of(splits, CLASS_1)
    (x, _) = next(data.forget.batches(100))
    assert unlearn("logit_attribution", model, data).model(x)[:, 1].mean() < model(x)[:, 1].mean()
