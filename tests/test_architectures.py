"""The contract of every architecture: Lethe's own, those of torchvision and timm by name, and a function of a
person's file.
"""

import importlib.util
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.models import ARCHITECTURES, build, split_at
from lethe.models.published import of_torchvision
from lethe.models.vit import Block
from lethe.training import Metadata, load_checkpoint, model_digest, save_checkpoint

GREY, COLOUR, LARGE = (1, 28, 28), (3, 32, 32), (3, 72, 72)
NARROW = {name: {"width": 8} for name in ("resnet18", "resnet34", "resnet50", "HookedResnet", "vgg16_bn")} | {
    "vit_tiny": {"depth": 2, "dim": 24}
}
PUBLISHED = [
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "timm:test_efficientnet",
    "timm:test_resnet.r160_in1k",
]
IN_A_FILE = """
import math
from torch import nn

class Around(nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.inner, self.out = nn.Linear(pixels, 6), nn.Linear(6, classes)

    def forward(self, x):
        h = self.inner(x.flatten(1)).relu()
        return self.out(h) + h.sum(1, keepdim=True)

def around(image_shape, classes):
    return Around(math.prod(image_shape), classes)
"""


@pytest.fixture(params=[*(entry.name for entry in ARCHITECTURES), *PUBLISHED, "file.py:around"])
def arch(request, tmp_path, monkeypatch):
    if request.param.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed: pip install -r requirements-timm.txt")
    (tmp_path / "file.py").write_text(IN_A_FILE)
    monkeypatch.chdir(tmp_path)
    return request.param


def made(arch, shape=COLOUR, classes=7, seed=1):
    return build(arch, shape, classes, seed=seed, options=NARROW.get(arch))


def images(shape, count=4):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [GREY, COLOUR, LARGE], ids=lambda shape: "x".join(map(str, shape)))
def test_it_gives_logits_in_eval_and_in_train_mode(arch, shape):
    model = made(arch, shape)
    assert not any(module.training for module in model.modules())
    for mode in (False, True):
        logits = model.train(mode)(images(shape))
        assert logits.shape == (4, 7) and logits.dtype == torch.float32 and logits.isfinite().all()


def test_every_weight_gets_a_finite_gradient(arch):
    model = made(arch).train()
    F.cross_entropy(model(images(COLOUR)), torch.tensor([0, 1, 2, 6])).backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ] == []
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_seed_alone_decides_the_weights(arch):
    before = torch.get_rng_state()
    one = model_digest(made(arch))
    torch.rand(3)
    assert model_digest(made(arch)) == one
    assert model_digest(made(arch, seed=2)) != one
    torch.set_rng_state(before)
    made(arch)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_come_back_from_a_checkpoint(arch, tmp_path):
    model, path = made(arch), tmp_path / "model.safetensors"
    save_checkpoint(path, model, Metadata("digits", "0", 0, arch, {}, 7, COLOUR, 1, 1))
    again = made(arch, seed=2)
    load_checkpoint(path, again)
    x = images(COLOUR)
    assert model_digest(again) == model_digest(model)
    assert torch.equal(again(x), model(x))


def test_its_masked_layer_splits_it_or_is_refused_with_the_reason(arch):
    model, x = made(arch), images(COLOUR)
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        reason = "--mask_layer: expected a model with a linear layer, got one without. Choose another --arch"
        with pytest.raises(ValueError, match=reason):
            split_at(model, model.mask_layer, x)
        return
    parts = split_at(model, model.mask_layer, x)
    h = parts.body(x)
    assert h.shape == (4, parts.shape[1])
    torch.testing.assert_close(parts.head(parts.layer(h), x), model(x))
    assert parts.needs_images == (arch == "file.py:around")


def test_a_layer_that_sees_every_token_is_refused_with_the_reason():
    model = made("vit_tiny")
    got = r"and 'blocks.0.qkv' sees \(4, 64, 24\) for 4 images"
    reason = f"--mask_layer: expected a layer that sees one vector an image, {got}"
    with pytest.raises(ValueError, match=reason):
        split_at(model, "blocks.0.qkv", images(COLOUR))


# Numbers of parameters, by hand


def parameters_of(model):
    return sum(p.numel() for p in model.parameters())


def convolution_and_norm(inputs, outputs, kernel=3):
    return inputs * outputs * kernel**2 + 2 * outputs


def test_resnet9_has_2_274_880_parameters():
    by_hand = (
        convolution_and_norm(3, 64)
        + convolution_and_norm(64, 128, 5)
        + 2 * convolution_and_norm(128, 128)
        + convolution_and_norm(128, 256)
        + 2 * convolution_and_norm(256, 256)
        + convolution_and_norm(256, 128)
        + 128 * 10
    )
    assert parameters_of(build("resnet9", COLOUR, 10, seed=1)) == by_hand == 2_274_880


def test_resnet9_by_hand():
    model, x = build("resnet9", COLOUR, 10, seed=1), images(COLOUR)

    def convolved(x, name, **how):
        return (
            model.get_submodule(name).norm(F.conv2d(x, model.get_submodule(name).conv.weight, **how)).relu()
        )

    h = convolved(x, "conv1", padding=1)
    h = convolved(h, "conv2", stride=2, padding=2)
    assert h.shape[1:] == (128, 16, 16)
    h = h + convolved(convolved(h, "residual1.inner.0", padding=1), "residual1.inner.1", padding=1)
    h = F.max_pool2d(convolved(h, "conv3", padding=1), 2)
    h = h + convolved(convolved(h, "residual2.inner.0", padding=1), "residual2.inner.1", padding=1)
    h = convolved(h, "conv4")
    assert h.shape[1:] == (128, 6, 6)
    torch.testing.assert_close(model(x), 0.2 * h.amax((2, 3)) @ model.linear.weight.T)
    assert model.linear.bias is None


@pytest.mark.parametrize(("arch", "count"), [("resnet34", 21_797_672), ("resnet50", 25_557_032)])
def test_the_imagenet_resnets_are_the_published_ones(arch, count):
    model = build(arch, (3, 224, 224), 1000, seed=1)
    assert parameters_of(model) == count
    assert (model.conv1.kernel_size, model.conv1.stride) == ((7, 7), (2, 2)) and isinstance(
        model.maxpool, nn.MaxPool2d
    )


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "HookedResnet"])
@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (32, 3), (64, 3), (65, 7), (96, 7)])
def test_the_stem_of_a_resnet_depends_on_the_image(arch, side, kernel):
    model = build(arch, (3, side, side), 10, seed=1, options={"width": 8})
    assert model.conv1.kernel_size == (kernel, kernel)
    assert isinstance(model.maxpool, nn.Identity) == (kernel == 3)


def test_vit_tiny_has_deits_parameters():
    dim, depth, tokens, patch = 192, 12, 64, 4
    block = 4 * dim + (dim + 1) * 3 * dim + (dim + 1) * dim + (dim + 1) * 4 * dim + (4 * dim + 1) * dim
    by_hand = (3 * patch**2 + 1) * dim + tokens * dim + depth * block + 2 * dim + (dim + 1) * 10
    assert parameters_of(build("vit_tiny", COLOUR, 10, seed=1)) == by_hand


def test_a_block_of_vit_tiny_by_hand():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = Block(6, 2)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    q, k, v = block.qkv(block.norm1(x)).split(6, -1)
    heads = [
        torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(3), -1) @ v[..., part]
        for part in (slice(0, 3), slice(3, 6))
    ]
    y = x + block.out(torch.cat(heads, -1))
    torch.testing.assert_close(block(x), y + block.mlp.down(F.gelu(block.mlp.up(block.norm2(y)))))


@pytest.mark.parametrize(
    ("shape", "side", "tokens"),
    [((1, 8, 8), 1, 64), ((1, 28, 28), 4, 49), ((3, 45, 50), 6, 72), ((3, 64, 64), 8, 64)],
)
def test_the_patches_of_vit_tiny_follow_the_image(shape, side, tokens):
    model = build("vit_tiny", shape, 10, seed=1, options={"depth": 1})
    assert model.patches.kernel_size == (side, side)
    assert model.places.places.shape == (tokens, 192)
    assert model(images(shape)).shape == (4, 10)


# Refusals


@pytest.mark.parametrize(
    ("arch", "shape", "options", "message"),
    [
        (
            "resnet9",
            (1, 8, 8),
            {},
            "--arch resnet9: expected images of at least 11 x 11 pixels, got 8 x 8. Choose cnn",
        ),
        ("resnet50", COLOUR, {"width": 0}, "--width: expected an integer >= 1, got 0"),
        ("vit_tiny", COLOUR, {"depth": 0}, "--depth: expected an integer >= 1, got 0"),
        ("vit_tiny", COLOUR, {"heads": 5}, "heads that divide dim"),
        ("vit_tiny", COLOUR, {"patch": 33}, "--patch: expected at most the image's 32 pixels, got 33"),
        (
            "torchvision:alexnet",
            GREY,
            {},
            "--arch torchvision:alexnet: expected an architecture for images of 28 x 28 pixels and 1 "
            "channel, got one that fails",
        ),
        (
            "torchvision:resnt18",
            COLOUR,
            {},
            "unknown architecture of torchvision 'resnt18'. Did you mean 'resnet18'?",
        ),
        ("torchvision:resnet18", COLOUR, {"width": 3}, "unknown flag of torchvision:resnet18 '--width'"),
        ("torchvison:resnet18", COLOUR, {}, "unknown architecture 'torchvison:resnet18'.*torchvision:NAME"),
        (
            "resnet",
            COLOUR,
            {},
            "unknown architecture 'resnet'. Did you mean 'resnet9'?.*timm:NAME, torchvision:NAME",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(arch, shape, options, message):
    with pytest.raises(ValueError, match=message):
        build(arch, shape, 10, seed=1, options=options)


@pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="timm is not installed: pip install -r requirements-timm.txt",
)
def test_a_transformer_of_timm_takes_images_that_its_patches_fill():
    assert build("timm:test_vit", COLOUR, 10, seed=1)(images(COLOUR)).shape == (4, 10)
    reason = "--arch timm:test_vit: expected .* got one that fails .*divisible by patch size"
    with pytest.raises(ValueError, match=reason):
        build("timm:test_vit", GREY, 10, seed=1)


@pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="timm is not installed: pip install -r requirements-timm.txt",
)
def test_an_unknown_name_of_timm_is_refused():
    with pytest.raises(ValueError, match="unknown architecture of timm 'test_vti'. Did you mean 'test_vit"):
        build("timm:test_vti", COLOUR, 10, seed=1)


def test_without_timm_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    reason = "expected the package timm, and it is not installed. Run: pip install -r requirements-timm.txt"
    with pytest.raises(ValueError, match=reason):
        ARCHITECTURES["timm:resnet18"]


def test_names_of_a_family_are_case_insensitive():
    assert (
        ARCHITECTURES["TorchVision:ResNet18"].name
        == "torchvision:resnet18"
        == of_torchvision("resnet18").name
    )
