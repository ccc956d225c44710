"""Direct refinement of MIMU's scores: one step of Adam by hand, which requests it takes, what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from lethe.data import ForgetRequest
from lethe.models import split_at
from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.mimu.ranking import every_class, keep_largest_out
from lethe.unlearn.mimu.refine import refined
from lethe.unlearn.mimu.topk import hard_topk, soft_topk
from tests.mimu_on_digits import fixture_initial, fixture_model, forget, forget_class  # noqa: F401 (fixtures)
from tests.mimu_settings import CHEAP, KAPPA, LAYER
from tests.seeded import assert_close, normal

MIXED = [0, 1, 2]  # of class 3 all go, of class 5 these


def mixed_request(digits):
    threes, fives = (digits.train.indexes[digits.train.labels == label].tolist() for label in (3, 5))
    return ForgetRequest(indexes=tuple(threes + [fives[i] for i in MIXED]))


@pytest.mark.parametrize("kind", ["class", "images", "both"])
def test_one_refinement_step_is_adam_on_the_masked_model(kind, model, digits):
    requests = {
        "class": ForgetRequest((3,)),
        "images": ForgetRequest((-1,), number=40),
        "both": mixed_request(digits),
    }
    data = ForgetData.of(digits, requests[kind])
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    scores = normal(layer.size, dtype=torch.float32)
    stepped = refined(scores, layer, data, KAPPA, steps=1, lr=0.1, retain_weight=4.0, tau=1.0, batch=10_000)
    start = ((scores - scores.mean()) / scores.std()).requires_grad_()
    soft = soft_topk(start, KAPPA, 1.0)
    drop = (hard_topk(start, KAPPA) - soft.detach()) + soft
    masked = {f"{LAYER}.weight": model.linear2.weight.detach() * (1 - drop).view(20, 32)}

    def chances(images):
        ((x, y),) = images.batches(10_000)
        return functional_call(model, masked, (x,)).double().softmax(-1)[torch.arange(len(y)), y]

    def margin_levels(images):
        """Quantiles by hand: between the two sorted margins that a level falls between."""
        p = chances(images)
        margins = (p.log() - (1 - p).log()).sort().values
        places = [(len(margins) - 1) * level / 100 for level in range(1, 100)]
        return [
            margins[int(at)]
            + (at - int(at)) * (margins[min(int(at) + 1, len(margins) - 1)] - margins[int(at)])
            for at in places
        ]

    loss = -4.0 * chances(data.retain).log().mean()
    if kind != "images":
        loss = loss - (1 - chances(data.forget.of_classes(3))).log().mean()
    if kind != "class":
        images = data.forget.of_classes(5) if kind == "both" else data.forget
        unseen = data.validation.of_classes(*images.classes)
        loss = (
            loss
            + sum((f - v).abs() for f, v in zip(margin_levels(images), margin_levels(unseen), strict=True))
            / 99
        )
    (g,) = torch.autograd.grad(loss, start)
    expected = start.detach() - 0.1 * g / (g.abs() + 1e-8)
    sure = g.abs() > 1e-4 * g.abs().max()  # of the sign
    assert sure.sum() > 0.5 * len(sure)
    assert_close(stepped[sure], expected[sure], atol=1e-3)


def test_refinement_starts_from_the_networks_answer_with_the_flags_of_the_request(model, digits):
    cache, flags = {}, {"refine_steps": 3, "refine_lr": 0.2, "retain_weight": 3.0, "tau": 0.3}
    result = forget_class(model, digits, 3, cache, **flags)
    data = ForgetData.of(digits, ForgetRequest((3,)))
    (network,) = cache.values()
    settings_ = {"steps": 3, "lr": 0.2, "retain_weight": 3.0, "tau": 0.3, "batch": CHEAP["gcn_batch"]}
    scores = refined(
        every_class(network["q"])[3],
        split_at(model, LAYER, torch.zeros(2, 1, 8, 8)),
        data,
        KAPPA,
        **settings_,
    )
    assert torch.equal(result.mask.keep, keep_largest_out(scores, KAPPA, (20, 32)))


def test_images_are_not_refined_without_images_to_liken_them_to(model, digits):
    images, labels = next(digits.train.batches(10_000))
    data = ForgetData.of_tensors(images, labels, torch.arange(40))
    reason = "--refine_steps: expected validation images of the classes .* got none"
    with pytest.raises(ValueError, match=reason):
        unlearn("MIMU", model, data, **CHEAP, refine_steps=1)


@pytest.mark.parametrize("ranking", ["continuous", "binary"])
@pytest.mark.parametrize("kind", ["class", "images", "both"])
def test_every_ranking_that_can_be_refined_is(kind, ranking, model, digits):
    request = {
        "class": ForgetRequest((3,)),
        "images": ForgetRequest((-1,), number=40),
        "both": mixed_request(digits),
    }[kind]
    plain_result, result = (
        forget(model, digits, request, {}, ranking=ranking, refine_steps=steps) for steps in (0, 3)
    )
    assert result.mask.kappa_count == KAPPA
    assert not torch.equal(result.mask.keep, plain_result.mask.keep)


def test_images_are_not_likened_to_those_of_another_class(model, digits):
    request = ForgetRequest((0, 5), number=40)
    data = ForgetData.of(replace(digits, validation=digits.validation.without_classes(5)), request)
    reason = r"--refine_steps: expected validation images of the classes \(0, 5\), .* got none of \[5\]"
    with pytest.raises(ValueError, match=reason):
        unlearn("MIMU", model, data, **CHEAP, refine_steps=1)


def test_refinement_of_a_request_is_timed_apart_and_needs_no_other_network(model, digits):
    cache = {}
    plain_result = forget_class(model, digits, 3, cache)
    result, again = (forget_class(model, digits, 3, cache, refine_steps=5) for _ in range(2))
    assert len(cache) == 1
    assert result.stages["refinement"] > 0
    assert result.mask.kappa_count == KAPPA
    assert not torch.equal(result.mask.keep, plain_result.mask.keep)
    assert torch.equal(result.mask.keep, again.mask.keep)
    assert torch.equal(forget_class(model, digits, 3, cache).mask.keep, plain_result.mask.keep)
