"""Tensors and models of one's own, without a dataset: what a request of them may be, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import ForgetData, unlearn
from tests.seeded import CPU, normal, seeded


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_tensors_of_your_own_will_do(dtype, bias):
    """A model on vectors, its own layer, its own numbers: no dataset, no picture, no registry."""
    x, labels = normal(90, 12, dtype=dtype), torch.arange(90) % 3
    x[torch.arange(90), labels] += 3
    model = seeded(
        lambda: nn.Sequential(nn.Linear(12, 10, bias=bias), nn.ReLU(), nn.Linear(10, 3, bias=bias))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x.float()), labels).backward()
        optimizer.step()
    model.to(dtype)
    data = ForgetData.of_tensors(x, labels, forget=labels == 1)
    result = unlearn(
        "MIMU",
        model,
        data,
        mask_layer="0",
        topk=20,
        kappa=30,
        gcn_steps=40,
        representatives=20,
        refine_steps=2,
    )
    right = (result.model(x).argmax(1) == labels).double()
    assert (model(x).argmax(1) == labels).all()
    assert right[labels == 1].mean() < 0.2 < 0.7 < right[labels != 1].mean()
    assert result.mask.kappa_count == 30


def test_forget_may_be_positions_and_images_bytes_with_a_normalisation(digits):
    images, labels = digits.train.images[:60], digits.train.labels[:60]
    data = ForgetData.of_tensors(images, labels, torch.tensor([4, 7]), digits.train.normalisation)
    assert data.forget.indexes.tolist() == [4, 7]
    assert len(data.retain) == 58
    assert torch.equal(next(data.train.batches(60))[0], digits.train.normalisation(images))


X, Y, FIRST = torch.zeros(4, 2), torch.arange(4), torch.tensor([0])
PIXELS = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
NONE = torch.tensor([], dtype=torch.int64)


@pytest.mark.parametrize(
    ("images", "labels", "forget", "message"),
    [
        (X.numpy(), torch.zeros(4), FIRST, r"images: expected a torch tensor, got ndarray"),
        (X, torch.zeros(4), FIRST, r"labels: expected torch.int64 \(4,\), got torch.float32"),
        (X, Y[:3], FIRST, r"labels: expected torch.int64 \(4,\), got torch.int64 \(3,\)"),
        (PIXELS, Y, FIRST, "images: expected floats .* or uint8 and a normal"),
        (X, Y - 1, FIRST, "labels: expected classes from 0 on, got -1"),
        (X[:0], Y[:0], NONE, "the forget set: expected at least one image"),
        (X, Y, torch.ones(3, dtype=torch.bool), r"forget: expected bool \(4,\), or int64 positions"),
        (X, Y, torch.ones(4), "forget: expected bool .* got torch.float32"),
        (X, Y, torch.tensor([0, 1, 0, 1]), "forget: expected .* each once"),
        (X, Y, torch.tensor([-1]), "forget: expected .* positions from 0 to 3"),
        (X, Y, torch.tensor([4]), "forget: expected .* positions from 0 to 3"),
        (X, Y, NONE, "the forget set: expected at least one image"),
    ],
)
def test_tensors_that_make_no_request_are_refused(images, labels, forget, message):
    with pytest.raises(ValueError, match=message):
        ForgetData.of_tensors(images, labels, forget)


def test_a_model_that_writes_into_its_input_leaves_your_images_alone():
    x, labels = normal(30, 6, dtype=torch.float32), torch.arange(30) % 3
    before = x.clone()
    model = seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 5), nn.Linear(5, 3)))
    settings_ = {"topk": 4, "kappa": 3, "gcn_steps": 1, "representatives": 2}
    unlearn("MIMU", model, ForgetData.of_tensors(x, labels, labels == 1), mask_layer="1", **settings_)
    assert torch.equal(x, before)


def test_a_device_may_be_a_word():
    assert (
        ForgetData.of_tensors(torch.zeros(4, 2), torch.arange(4), torch.tensor([0]), device="cpu").device
        == CPU
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_any_type_have_a_digest(dtype):
    x = torch.arange(8).view(4, 2).to(dtype)
    labels = torch.arange(4)
    first, again = (
        ForgetData.of_tensors(x.clone().requires_grad_(), labels, torch.tensor([0])).train.digest
        for _ in range(2)
    )
    assert first == again != ForgetData.of_tensors(x + 1, labels, torch.tensor([0])).train.digest


class SaysMore(nn.Linear):
    """A model that gives a pair where logits are expected."""

    def forward(self, x):
        return super().forward(x), x


LOGITS = r"expected a model whose output is logits \(2, 3 or more\) of 2 images"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (nn.Linear(5, 2), rf"{LOGITS}, got \(2, 2\)"),
        (SaysMore(5, 3), rf"{LOGITS}, got tuple of 2\. Return the logits alone"),
        (
            nn.Linear(5, 3, device="meta"),
            "the model: expected cpu or a device that is here, got 'meta' .*Use cpu",
        ),
    ],
)
@pytest.mark.parametrize("method", ["MIMU", "random_mask", "logit_attribution", "SFT"])
def test_a_model_that_does_not_fit_the_data_is_refused(method, head, message):
    x, labels = normal(30, 6, dtype=torch.float32), torch.arange(30) % 3
    data = ForgetData.of_tensors(x, labels, labels == 1)
    with pytest.raises(ValueError, match=message):
        unlearn(method, nn.Sequential(nn.Linear(6, 5), head), data, mask_layer="0")
