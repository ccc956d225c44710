"""Checkpoints: weights and metadata come back, and those of something else are refused."""

import json
import struct
from dataclasses import fields

import pytest

from lethe.models import build
from lethe.training import (
    Metadata,
    check_checkpoint,
    digest_of,
    load_checkpoint,
    model_digest,
    save_checkpoint,
)
from tests.saved_models import OLDER, SAFETENSORS, SHAPE, described, mlp
from tests.seeded import states_equal


@pytest.fixture(params=[SAFETENSORS, OLDER])
def checkpoint(request, tmp_path):
    save_checkpoint(tmp_path / request.param, mlp(), described())
    return tmp_path / request.param


def test_weights_come_back_bit_for_bit(checkpoint):
    model = mlp(seed=2)
    load_checkpoint(checkpoint, model)
    assert states_equal(model.state_dict(), mlp().state_dict())


def test_weights_of_batch_norm_come_back(tmp_path):
    one, other = (build("resnet18", SHAPE, 10, seed=seed) for seed in (1, 2))
    one.bn1.running_mean.fill_(3.0)
    save_checkpoint(tmp_path / SAFETENSORS, one, described(arch="resnet18", options={}))
    load_checkpoint(tmp_path / SAFETENSORS, other)
    assert states_equal(other.state_dict(), one.state_dict())


@pytest.mark.parametrize(
    "name", ["dataset", "split", "seed", "arch", "epochs", "trained_on", "train_score", "versions", "classes"]
)
def test_metadata_comes_back(checkpoint, name):
    assert getattr(load_checkpoint(checkpoint, mlp()), name) == getattr(described(), name)


@pytest.mark.parametrize("name", [SAFETENSORS, OLDER])
def test_metadata_comes_back_whole(tmp_path, name):
    save_checkpoint(tmp_path / name, mlp(), described(options={}))
    assert load_checkpoint(tmp_path / name, mlp()) == described(options={})


def test_a_checkpoint_of_the_same_thing_is_accepted(checkpoint):
    check_checkpoint(checkpoint, described())


def test_an_option_younger_than_the_checkpoint_had_its_default(checkpoint):
    options = dict(described().options)
    check_checkpoint(checkpoint, described(options=options | {"width": 64}), {"width": 64})
    with pytest.raises(ValueError, match="expected a checkpoint with options"):
        check_checkpoint(checkpoint, described(options=options | {"width": 8}), {"width": 64})


@pytest.mark.parametrize("name", ["seed", "epochs"])
def test_another_seed_or_length_of_training_is_accepted(checkpoint, name):
    check_checkpoint(checkpoint, described(**{name: 77}))


@pytest.mark.parametrize(
    "change",
    [
        {"arch": "resnet18"},
        {"dataset": "MNIST"},
        {"split": "6" * 64},
        {"split_seed": 1},
        {"options": {"hidden": (9,)}},
        {"trained_on": "class0"},
        {"classes": 9},
        {"image_shape": (1, 28, 28)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_something_else_is_refused(checkpoint, change):
    expected = (
        "a model trained on all but class0"
        if "trained_on" in change
        else f"a checkpoint with {next(iter(change))} "
    )
    with pytest.raises(ValueError, match=f"expected {expected}.*, got .*--mask"):
        check_checkpoint(checkpoint, described(**change))


@pytest.mark.parametrize(
    "act",
    [lambda path: check_checkpoint(path, described()), lambda path: load_checkpoint(path, mlp())],
    ids=["check", "load"],
)
@pytest.mark.parametrize("name", [SAFETENSORS, OLDER])
def test_a_checkpoint_that_is_not_there(tmp_path, act, name):
    with pytest.raises(FileNotFoundError, match="and there is none"):
        act(tmp_path / name)


def test_weights_of_another_architecture_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"expected the weights of this architecture, got others .*--arch"):
        load_checkpoint(checkpoint, mlp(hidden=(9,)))


def test_a_refused_checkpoint_leaves_the_model_alone(checkpoint):
    model = mlp(seed=2, hidden=(9,))
    with pytest.raises(ValueError, match="expected the weights of this architecture"):
        load_checkpoint(checkpoint, model)
    assert states_equal(model.state_dict(), mlp(seed=2, hidden=(9,)).state_dict())


def test_a_tampered_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path / SAFETENSORS, mlp(), described())
    content = bytearray((tmp_path / SAFETENSORS).read_bytes())
    content[-5] ^= 1
    (tmp_path / SAFETENSORS).write_bytes(content)
    with pytest.raises(ValueError, match="digest differs"):
        load_checkpoint(tmp_path / SAFETENSORS, mlp())


def with_header(file, change, *, sealed=True):
    """Rewrite the header that Lethe put into a safetensors file."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["lethe"] = change(header["__metadata__"]["lethe"])
    if not sealed:  # as files from before the digest of the header
        del header["__metadata__"]["lethe_sha256"]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "[]",
        lambda text: "{",
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "arch"}),
        lambda text: json.dumps(json.loads(text) | {"colour": "red"}),
    ],
    ids=["no object", "no JSON", "a field too few", "a field too many"],
)
def test_a_header_that_lethe_did_not_write_is_refused(tmp_path, change):
    save_checkpoint(tmp_path / SAFETENSORS, mlp(), described())
    with_header(tmp_path / SAFETENSORS, change)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / SAFETENSORS, mlp())


WRONG_TYPES = {
    "dataset": [1],
    "split": None,
    "split_seed": "0",
    "arch": {"a": 1},
    "options": [1],
    "classes": -1,
    "image_shape": [1, 8],
    "seed": True,
    "epochs": 2.5,
    "trained_on": 3,
    "train_score": "99",
    "validation_score": [],
    "train_seconds": "x",
    "versions": "2",
    "training": "abc",
    "computed": 1,
    "normalisation": [0.5],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_field_of_another_type_is_a_damaged_header(tmp_path, name):
    assert set(WRONG_TYPES) == {field.name for field in fields(Metadata)}
    save_checkpoint(tmp_path / SAFETENSORS, mlp(), described())
    with_header(
        tmp_path / SAFETENSORS,
        lambda text: json.dumps(json.loads(text) | {name: WRONG_TYPES[name]}),
        sealed=False,
    )
    for act in (lambda path: check_checkpoint(path, described()), lambda path: load_checkpoint(path, mlp())):
        with pytest.raises(ValueError, match=rf"model\.safetensors: its header is damaged.* for {name}, got"):
            act(tmp_path / SAFETENSORS)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"epochs": ' + "9" * 5000 + "}",
        '{"kind": ["checkpoint"]}',
        '{"kind": "checkpoint", "dataset": "\\ud800"}',
    ],
    ids=["lists in lists", "a long integer", "a list for a kind", "half a character"],
)
def test_a_header_that_json_does_not_take_is_a_line(tmp_path, text):
    save_checkpoint(tmp_path / SAFETENSORS, mlp(), described())
    with_header(tmp_path / SAFETENSORS, lambda _: text, sealed=False)
    with pytest.raises(ValueError, match=r"model\.safetensors: "):
        check_checkpoint(tmp_path / SAFETENSORS, described())


def test_the_models_digest_is_that_of_its_weights():
    assert model_digest(mlp()) == digest_of(mlp().state_dict()) != model_digest(mlp(seed=2))
