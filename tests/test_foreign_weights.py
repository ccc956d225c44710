"""Weights that other programs saved: taken where it is plain which is which, and refused with the real cause
otherwise.
"""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

from lethe.models import build
from lethe.training import load_weights
from tests.saved_models import OLDER, SHAPE, mlp
from tests.seeded import states_equal

NAMES = list(mlp().state_dict())


def under(prefix, seed=1):
    return {prefix + name: value for name, value in mlp(seed).state_dict().items()}


def pruned():
    model = mlp()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            prune.l1_unstructured(layer, "weight", 0.5)
    return model


def with_computed_weights():
    model = mlp()
    parametrizations.weight_norm(model.linear1)
    return model


class Around(nn.Module):
    """A model inside of another, under a name of its own."""

    def __init__(self, name, inner):
        super().__init__()
        self.add_module(name, inner)


@pytest.fixture
def loaded(tmp_path):
    """Save content by torch.save, load it into a model of another seed; return the messages and the model."""

    def load(content, model=None, **known):
        torch.save(content, tmp_path / OLDER)
        model = model or mlp(seed=2)
        return load_weights(tmp_path / OLDER, model, **known), model

    return load


TAKEN = {
    "plain": (under(""), ()),
    "beside numbers": ({**under(""), "epoch": 3}, ()),
    "under state_dict": ({"state_dict": under(""), "epoch": 3, "optimizer": {"state": {}}}, ()),
    "under another key": ({"model_state": under("")}, ("the weights under 'model_state'",)),
    "deeper": ({"run": {"net": under("")}}, ("the weights under 'run.net'",)),
    "beside an average": (
        {"state_dict": under(""), "ema": under("", seed=3)},
        ("the weights under 'state_dict', not those under 'ema'",),
    ),
    "DataParallel": (under("module."), ("names without 'module.'",)),
    "torch.compile": (under("_orig_mod."), ("names without '_orig_mod.'",)),
    "compiled DataParallel": (under("_orig_mod.module."), ("names without '_orig_mod.module.'",)),
    "Lightning": ({"state_dict": under("model."), "callbacks": {}}, ("names without 'model.'",)),
    "averaged": ({**under("module."), "n_averaged": torch.tensor(3)}, ("names without 'module.'",)),
    "beside a loss": (
        {**under("net."), "criterion.weight": torch.ones(10)},
        ("names without 'net.'", "without 'criterion.weight', which the names of the model don't begin like"),
    ),
    "a compiled part": (
        {name.replace("linear1", "linear1._orig_mod"): value for name, value in under("").items()},
        ("names without '_orig_mod'",),
    ),
}


@pytest.mark.parametrize(("content", "said"), TAKEN.values(), ids=TAKEN)
def test_what_is_plain_is_taken_and_said(loaded, content, said):
    found, model = loaded(content)

    assert states_equal(model.state_dict(), mlp().state_dict())
    assert found.notes == said
    assert (found.metadata, found.normalisation) == (None, None)


def test_pruned_weights_are_multiplied_by_their_masks(loaded):
    expected = pruned()
    found, model = loaded(expected.state_dict())

    assert found.notes == (
        f"pruned weights multiplied by their masks ({', '.join(repr(n) for n in NAMES if 'weight' in n)})",
    )
    assert torch.equal(model.linear1.weight, expected.linear1.weight)
    assert int((model.linear1.weight == 0).sum()) == model.linear1.weight.numel() // 2


def test_a_part_called_module_keeps_its_name(loaded):
    model = Around("module", mlp(seed=2))
    found, _ = loaded(under("module."), model)

    assert found.notes == ()
    assert states_equal(model.module.state_dict(), mlp().state_dict())


def test_a_model_inside_of_another_takes_bare_weights(loaded):
    model = Around("net", mlp(seed=2))
    found, _ = loaded(under(""), model)

    assert found.notes == ("names with 'net.' before them",)
    assert states_equal(model.net.state_dict(), mlp().state_dict())


def test_counts_that_older_files_have_not_are_a_new_models(loaded):
    weights = build("cnn", SHAPE, 10, seed=1).state_dict()
    found, model = loaded(
        {n: v for n, v in weights.items() if "num_batches" not in n}, build("cnn", SHAPE, 10, seed=2)
    )

    assert found.notes == ()
    assert states_equal(model.state_dict(), weights)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_models(loaded, kind):
    found, model = loaded({name: value.to(kind) for name, value in under("").items()})

    assert torch.equal(model.linear1.weight, mlp().linear1.weight.to(kind).float())
    assert [words for words in found.notes if "rounded to float32" in words] == list(found.notes)
    assert bool(found.notes) == (kind == torch.float64)


def broken():
    weights = under("")
    weights[NAMES[0]] = weights[NAMES[0]].clone().fill_(float("nan"))
    return weights


REFUSED = {
    "NaN": (
        broken(),
        f"512 numbers that are not finite, in '{NAMES[0]}'. The training that made it diverged, or the file "
        "is damaged",
    ),
    "seven classes": (
        build("mlp", SHAPE, 7, seed=1, options={"hidden": (8,)}).state_dict(),
        r"a last layer of 7 outputs instead of 10 \('linear2.weight' is \(7, 8\), here \(10, 8\)\): "
        "it was trained on other classes",
    ),
    "wider": (
        mlp(hidden=(9,)).state_dict(),
        r"others \('linear1.weight' is \(9, 64\), here \(8, 64\), and 1 more\)",
    ),
    "another architecture": (
        {"conv.weight": torch.ones(3)},
        r"others \(without 'linear1.weight', .*; with 'conv.weight', for which this one has no place\). "
        "Choose the --arch",
    ),
    "one weight more": (
        {**under(""), "aux.weight": torch.ones(3, 9)},
        "with 'aux.weight', for which this one has no place",
    ),
    "weight norm": (with_computed_weights().state_dict(), "layers whose weight is computed, by weight_norm"),
    "int8": (
        {n: v.to(torch.int8) for n, v in under("").items()},
        "int8 for 'linear1.weight', where it has float32",
    ),
    "bool": ({n: v.bool() for n, v in under("").items()}, "bool for 'linear1.weight', where it has float32"),
    "complex": (
        {n: v.to(torch.complex64) for n, v in under("").items()},
        "complex64 for 'linear1.weight', where it has float32",
    ),
    "sparse": (
        {**under(""), NAMES[0]: torch.ones(8, 64).to_sparse()},
        "torch.sparse_coo for 'linear1.weight', where it has float32",
    ),
    "two that fit": (
        {"student": under(""), "teacher": under("", seed=3)},
        "several that fit, under 'student', 'teacher'. Save one of them alone: "
        r"torch.save\(torch.load\(FILE\)\['student'\]",
    ),
    "two prefixes that fit": (
        {**under("one."), **under("two.", seed=3)},
        "several that fit, under 'one.', 'two.'. Save one of them",
    ),
    "no tensors": ({"epoch": 3}, "no tensors: neither a state dict nor one under 'state_dict'"),
    "half a normalisation": (
        {**under(""), "normalize.mean": torch.zeros(1)},
        r"a layer that normalises images .* Say .*--normalize",
    ),
    "a normalisation in 0 to 255": (
        {**under(""), "normalize.mean": torch.tensor([123.7]), "normalize.std": torch.tensor([58.4])},
        r"are no mean and deviation of pixels in \[0, 1\]. Say how its images are normalised: --normalize",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_with_the_cause(loaded, content, message):
    model = mlp(seed=2)
    reason = rf"model\.pth\.tar: expected the weights of this architecture, got .*{message}"
    with pytest.raises(ValueError, match=reason):
        loaded(content, model)
    assert states_equal(model.state_dict(), mlp(seed=2).state_dict())


def test_equal_copies_are_one(loaded):
    assert loaded({"a": under(""), "b": under("")})[0].notes == (
        "the weights under 'a', not those under 'b'",
    )


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 1)])
@pytest.mark.parametrize("name", ["normalize.mean", "0.mean", "mean", "normalizer.new_mean", "pixel_mean"])
def test_the_normalisation_that_a_file_says_is_known(loaded, name, shape):
    found, model = loaded(
        {**under(""), name: torch.full(shape, 0.25), name.replace("mean", "std"): torch.full(shape, 0.5)}
    )

    assert found.normalisation == ((0.25,), (0.5,))
    assert states_equal(model.state_dict(), mlp().state_dict())


def test_a_model_with_such_a_layer_takes_pixels(loaded):
    model = mlp(seed=2)
    model.register_buffer("mean", torch.zeros(1))
    model.register_buffer("std", torch.ones(1))

    assert loaded({**under(""), "mean": torch.zeros(1), "std": torch.ones(1)}, model)[0].normalisation == (
        (),
        (),
    )


def test_a_normalisation_that_is_known_is_not_asked_for(loaded):
    assert (
        loaded({**under(""), "normalize.mean": torch.zeros(1)}, normalisation_known=True)[0].normalisation
        is None
    )


def test_batch_norms_statistics_are_no_normalisation_of_images(loaded):
    weights = build("cnn", (1, 8, 8), 10, seed=1, options={"channels": (1, 2)}).state_dict()
    model = build("cnn", (1, 8, 8), 10, seed=2, options={"channels": (1, 2)})

    assert loaded(weights, model)[0].normalisation is None


def test_safetensors_under_another_name_are_known_by_what_is_in_them(tmp_path):
    save_file(under("module."), tmp_path / "weights.bin")
    model = mlp(seed=2)

    assert load_weights(tmp_path / "weights.bin", model).notes == ("names without 'module.'",)
    assert states_equal(model.state_dict(), mlp().state_dict())


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
DID_NOT_ARRIVE = {
    "LFS": (LFS, "got a Git LFS pointer: .* Run git lfs pull there"),
    "annex": (b"/annex/objects/SHA256E-s1--0\n", "got a git-annex pointer: .* Run git annex get there"),
    "page": (b"\n<!DOCTYPE html><html>404</html>", "got a web page .* Copy or download the file again"),
    "empty": (b"", "got an empty file. Copy or download the file again"),
    "words": (b"Not Found", "got a text, 'Not Found'. Copy or download the file again"),
    "JSON": (
        b'{"message": "Bad credentials"}',
        'got a text, \'{"message": "Bad credentials"}\'. Copy or download the file again',
    ),
    "gzip": (b"\x1f\x8b\x08\x00abc", "got a gzip archive. Unpack it"),
    "Keras": (b"\x89HDF\r\n\x1a\n\x00", "got an HDF5 file, of Keras perhaps. Name a file of PyTorch's"),
}


@pytest.mark.parametrize(("content", "message"), DID_NOT_ARRIVE.values(), ids=DID_NOT_ARRIVE)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_did_not_arrive_is_told_by_what_came(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: expected .*{message}"):
        load_weights(tmp_path / name, mlp())


def test_half_a_download_is_told(tmp_path):
    torch.save(under(""), tmp_path / OLDER)
    (tmp_path / OLDER).write_bytes((tmp_path / OLDER).read_bytes()[:2000])
    reason = "got a file whose end is missing. Copy or download the file again"
    with pytest.raises(ValueError, match=reason):
        load_weights(tmp_path / OLDER, mlp())


def test_a_zip_of_compressed_members_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / OLDER, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(3 * 10**6))
    with pytest.raises(ValueError, match="got a compressed zip archive of 3,000,000 bytes"):
        load_weights(tmp_path / OLDER, mlp())


def test_a_scripted_model_is_told(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / OLDER)
    with pytest.raises(ValueError, match="got a TorchScript archive, which holds code"):
        load_weights(tmp_path / OLDER, mlp())


def test_a_folder_and_a_device_are_no_files(tmp_path):
    with pytest.raises(ValueError, match="expected a file, got the folder"):
        load_weights(tmp_path, mlp())
    with pytest.raises(ValueError, match="expected a file, got /dev/zero, a device or a pipe"):
        load_weights(Path("/dev/zero"), mlp())
