"""The training loop, files that are whole or not there, checkpoints, and the initial and the ideal model."""

import copy
import json
import os
import pickle
import shlex
import struct
import tarfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import base_models
from base_models import BaseConfig, BaseModels
from models import Mask, build
from training import (
    DiskCache,
    Metadata,
    Recipe,
    check_checkpoint,
    check_writable,
    checkpoint_digest,
    computed_once,
    descend,
    digest_of,
    fit,
    generator_for,
    load_checkpoint,
    load_mask,
    model_digest,
    save_checkpoint,
    save_mask,
    write_bytes,
)
from training.storage import read_header, read_tensors, write_tensors
from vision_data import ForgetRequest, ImageSet, Normalisation, load_splits

FEW = settings(deadline=None, max_examples=25)
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    return load_splits("digits", "nowhere")


def mlp(seed=1, hidden=(8,)):
    return build("mlp", SHAPE, 10, seed=seed, options={"hidden": hidden})


def states_equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def tiny(count=12, seed=0):
    """Random images of two classes."""
    images = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ImageSet(images, torch.arange(count) % 2, torch.arange(count), Normalisation((0.5,), (0.25,)))


# Seeds


def numbers(*purpose):
    return torch.rand(4, generator=generator_for(*purpose)).tolist()


def test_the_same_seed_and_purpose_give_the_same_numbers():
    assert numbers(1, "train") == numbers(1, "train")


@pytest.mark.parametrize("other", [(2, "train"), (1, "method"), (1, "train", 0), (1,), (-1, "train"), (1, "train", "0")])
def test_another_seed_or_purpose_gives_other_numbers(other):
    assert numbers(*other) != numbers(1, "train")


def test_purposes_are_not_just_joined():
    assert numbers(1, "ab", "c") != numbers(1, "a", "bc")


def test_a_generator_depends_on_no_global_state():
    before = torch.get_rng_state()
    first = numbers(1, "train")
    torch.manual_seed(99)
    assert numbers(1, "train") == first
    torch.set_rng_state(before)


@FEW
@given(st.integers(), st.integers())
def test_streams_of_different_seeds_differ(one, other):
    assert (numbers(one, "x") == numbers(other, "x")) == (one == other)


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
    fit(model, images or tiny(), recipe or Recipe(2, batch_size=5, augment=True), generator=generator_for(seed, "train"))
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

    fit(mlp(), tiny(), Recipe(2, batch_size=5), generator=generator_for(1), progress=progress, label="initial model")
    assert seen == [([0, 1, 2, 3, 4, 5], "initial model")]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_the_schedule_works_for_a_few_steps(epochs):
    assert len(fit(mlp(), tiny(), Recipe(epochs), generator=generator_for(1))) == epochs


# descend


def test_one_step_is_sgd_by_hand():
    model, (batch,) = mlp(), list(tiny().batches(12))
    loss = F.cross_entropy(model(batch[0]), batch[1])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = [(weight - 0.1 * gradient).detach() for weight, gradient in zip(model.parameters(), gradients, strict=True)]
    losses = descend(model, [batch], optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert losses == [pytest.approx(loss.item())]
    assert all(torch.allclose(w, e, atol=1e-7) for w, e in zip(model.parameters(), expected, strict=True))


def test_descend_takes_the_loss_that_it_is_given():
    model, (batch,) = mlp(), list(tiny().batches(12))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (before,) = descend(model, [batch], optimizer=optimizer, loss=lambda logits, y: -F.cross_entropy(logits, y))
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


# Files


TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(7), "mask": torch.tensor([True, False]), "none": torch.empty(0, 3)}


def test_tensors_and_header_come_back(tmp_path):
    write_tensors(tmp_path / "t.safetensors", TENSORS, {"seed": 1, "names": ["x"]})
    tensors, header = read_tensors(tmp_path / "t.safetensors")
    assert states_equal(dict(sorted(tensors.items())), dict(sorted(TENSORS.items())))
    assert (header["seed"], header["names"]) == (1, ["x"])


def test_special_values_come_back_bit_for_bit(tmp_path):
    special = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45])
    write_tensors(tmp_path / "t.safetensors", {"x": special}, {})
    assert torch.equal(read_tensors(tmp_path / "t.safetensors")[0]["x"].view(torch.int32), special.view(torch.int32))


def test_tensors_that_share_memory_or_are_transposed_can_be_saved(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "t.safetensors", {"x": shared, "y": shared.T, "z": shared[0]}, {})
    assert torch.equal(read_tensors(tmp_path / "t.safetensors")[0]["y"], shared.T)


def test_folders_are_made(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "file", b"x")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


@FEW
@given(st.integers(0, 10**6))
def test_a_file_truncated_anywhere_is_refused(tmp_path_factory, cut):
    file = tmp_path_factory.mktemp("cut") / "t.safetensors"
    write_tensors(file, TENSORS, {})
    content = file.read_bytes()
    file.write_bytes(content[: cut % len(content)])
    with pytest.raises(ValueError, match=r"t\.safetensors: expected a complete safetensors file written by Lethe"):
        read_tensors(file)


@FEW
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_in_the_tensors_is_noticed(tmp_path_factory, position, bit):
    file = tmp_path_factory.mktemp("flip") / "t.safetensors"
    write_tensors(file, {"x": torch.arange(50.0)}, {})
    content = bytearray(file.read_bytes())
    content[len(content) - 200 + position % 200] ^= 1 << bit
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"the tensors are not those that were saved \(digest differs\)"):
        read_tensors(file)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match=r"written by Lethe .it has no Lethe header"):
        read_header(tmp_path / "t.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\xff" * 100])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="expected a complete safetensors file written by Lethe"):
        read_header(tmp_path / "t.safetensors")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a file .*nowhere\.safetensors, and there is none"):
        read_header(tmp_path / "nowhere.safetensors")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(ValueError, match=r"results/t\.safetensors can't be written .*another with --save_dir"):
        write_bytes(tmp_path / "results" / "t.safetensors", b"x")


def test_a_folder_where_the_file_should_be(tmp_path):
    (tmp_path / "t.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"t\.safetensors can't be written"):
        write_bytes(tmp_path / "t.safetensors", b"x")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(ValueError, match=r"can't be written .File name too long"):
        write_bytes(tmp_path / ("x" * 260), b"x")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, failing, error):
    file = tmp_path / "t"
    write_bytes(file, b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os if failing == "fsync" else type(file), failing, fail)
    with pytest.raises((ValueError, KeyboardInterrupt)):
        write_bytes(file, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("t", b"old")]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match=r"can't be written .No space left on device"):
        write_bytes(tmp_path / "t", b"new")


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    file, seen = tmp_path / "t", []
    write_bytes(file, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(file.read_bytes()))
    write_bytes(file, b"new")
    assert (seen, file.read_bytes()) == ([b"old"], b"new")


def test_writing_leaves_nothing_else(tmp_path):
    write_tensors(tmp_path / "t.safetensors", TENSORS, {})
    assert [file.name for file in tmp_path.iterdir()] == ["t.safetensors"]


def test_checking_a_folder_leaves_nothing_in_it(tmp_path):
    check_writable(tmp_path / "results" / "digits")
    assert list(tmp_path.iterdir()) == []


def test_checking_a_folder_makes_none_that_another_process_could_lose(tmp_path, monkeypatch):
    there = []
    monkeypatch.setattr(os, "fsync", lambda _: there.append((tmp_path / "results").exists()))
    check_writable(tmp_path / "results" / "digits")
    assert there == [False]


@pytest.mark.parametrize("folder", ["results", "results/digits", "dangling", "dangling/digits"])
def test_checking_a_folder_that_cannot_be(tmp_path, folder):
    (tmp_path / "results").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "else")
    with pytest.raises(ValueError, match="can't be written"):
        check_writable(tmp_path / folder)


def test_a_digest_does_not_depend_on_the_order():
    assert digest_of(TENSORS) == digest_of(dict(reversed(TENSORS.items())))


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.tensor([1.0, 3.0])},
        {"y": torch.tensor([1.0, 2.0])},
        {"x": torch.tensor([[1.0, 2.0]])},
        {"x": torch.tensor([1.0, 2.0]).view(torch.int32)},
        {"x": torch.tensor([1.0]), "y": torch.tensor([2.0])},
    ],
    ids=["value", "name", "shape", "type", "division"],
)
def test_a_digest_changes_with_the_content(other):
    assert digest_of(other) != digest_of({"x": torch.tensor([1.0, 2.0])})


# The cache


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache")


def only_file(cache):
    (file,) = cache.folder.iterdir()
    return file


def test_a_cache_begins_empty(cache):
    assert (len(cache), list(cache), "key" in cache) == (0, [], False)


def test_a_cached_value_comes_back(cache):
    cache["key"] = {"x": torch.arange(3)}
    assert cache["key"]["x"].tolist() == [0, 1, 2]


def test_a_cache_outlives_the_process(cache):
    cache["key"] = {"x": torch.arange(3)}
    assert DiskCache(cache.folder)["key"]["x"].tolist() == [0, 1, 2]


def test_the_last_value_of_a_key_counts(cache):
    for value in (1, 2):
        cache["key"] = {"x": torch.tensor(value)}
    assert (cache["key"]["x"].item(), len(cache)) == (2, 1)


def test_a_cache_knows_its_keys(cache):
    for key in ("one", "two", "a/b\n\N{SNOWMAN}"):
        cache[key] = {"x": torch.tensor(1)}
    assert sorted(cache) == sorted(["one", "two", "a/b\n\N{SNOWMAN}"]) and len(cache) == 3


def test_a_key_that_is_not_there(cache):
    with pytest.raises(KeyError, match="nothing"):
        cache["nothing"]


def test_a_deleted_key_is_gone(cache):
    cache["key"] = {"x": torch.tensor(1)}
    del cache["key"]
    assert "key" not in cache


def test_deleting_a_key_that_is_not_there(cache):
    with pytest.raises(KeyError, match="nothing"):
        del cache["nothing"]


@pytest.fixture
def damaged(cache):
    cache["key"] = {"x": torch.tensor(1)}
    only_file(cache).write_bytes(b"damaged")
    return cache


def test_a_damaged_file_is_absent(damaged):
    assert "key" not in damaged


def test_a_damaged_file_is_written_again(damaged):
    damaged["key"] = {"x": torch.tensor(2)}
    assert damaged["key"]["x"].item() == 2


def test_a_damaged_file_does_not_count(damaged):
    assert (list(damaged), len(damaged)) == ([], 0)


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_what_is_there_is_not_computed_again(cache, kind):
    cache = cache if kind == "disk" else {}
    made, was_there = computed_once(cache, "key", lambda: {"x": torch.ones(2)})
    again, was_there_again = computed_once(cache, "key", lambda: pytest.fail("computed twice"))
    assert (was_there, was_there_again) == (False, True)
    assert made["x"].equal(again["x"])


def test_two_that_want_one_key_compute_it_once(cache):
    first_is_at_it, computed = threading.Event(), []

    def compute():
        computed.append(threading.get_ident())
        first_is_at_it.set()
        time.sleep(0.2)
        return {"x": torch.ones(2)}

    with ThreadPoolExecutor() as pool:
        one = pool.submit(computed_once, cache, "key", compute)
        assert first_is_at_it.wait(10)
        other = pool.submit(computed_once, cache, "key", compute)
        assert (one.result()[1], other.result()[1]) == (False, True)
    assert len(computed) == 1


def test_when_computing_fails_the_next_one_computes(cache):
    with pytest.raises(FloatingPointError):
        computed_once(cache, "key", lambda: (_ for _ in ()).throw(FloatingPointError))
    assert not computed_once(cache, "key", lambda: {"x": torch.ones(2)})[1]


def test_a_file_that_holds_another_key_is_absent(cache):
    cache["other"] = {"x": torch.tensor(1)}
    only_file(cache).rename(cache._path("key"))
    assert "key" not in cache


# Checkpoints

SAFETENSORS, OLDER = "model.safetensors", "model.pth.tar"


def described(**changes):
    metadata = Metadata(
        dataset="digits",
        split="5" * 64,
        split_seed=0,
        arch="mlp",
        options={"hidden": (8,)},
        classes=10,
        image_shape=SHAPE,
        seed=1,
        epochs=3,
        train_score=99.5,
        validation_score=97.25,
        train_seconds=1.5,
        versions={"torch": "2"},
    )
    return replace(metadata, **changes)


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


@pytest.mark.parametrize("name", ["dataset", "split", "seed", "arch", "epochs", "trained_on", "train_score", "versions", "classes"])
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
    expected = "a model trained on all but class0" if "trained_on" in change else f"a checkpoint with {next(iter(change))} "
    with pytest.raises(ValueError, match=f"expected {expected}.*, got .*--mask"):
        check_checkpoint(checkpoint, described(**change))


@pytest.mark.parametrize(
    "act", [lambda path: check_checkpoint(path, described()), lambda path: load_checkpoint(path, mlp())], ids=["check", "load"]
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


def with_header(file, change):
    """Rewrite the header that Lethe put into a safetensors file."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["lethe"] = change(header["__metadata__"]["lethe"])
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


def test_the_models_digest_is_that_of_its_weights():
    assert model_digest(mlp()) == digest_of(mlp().state_dict()) != model_digest(mlp(seed=2))


# Older checkpoints: .pth.tar


@pytest.fixture
def older(tmp_path):
    """Save anything as a pickle; gives the path."""

    def save(content):
        torch.save(content, tmp_path / OLDER)
        return tmp_path / OLDER

    return save


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["plain", "under state_dict", "beside others", "DataParallel", "DataParallel under state_dict"],
)
def test_an_older_checkpoint_is_loaded(older, wrap):
    model = mlp(seed=2)
    assert load_checkpoint(older(wrap(mlp().state_dict())), model) is None
    assert states_equal(model.state_dict(), mlp().state_dict())


def test_an_older_checkpoint_without_metadata_warns(older):
    with pytest.warns(UserWarning, match=r"model\.pth\.tar has no metadata: .* can't be checked"):
        check_checkpoint(older(mlp().state_dict()), described())


def test_an_older_checkpoint_with_metadata_does_not_warn(tmp_path):
    save_checkpoint(tmp_path / OLDER, mlp(), described())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_checkpoint(tmp_path / OLDER, described())


class Runs:
    """Unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))], ids=["torch", "pickle"])
@pytest.mark.parametrize(
    "act", [lambda path: check_checkpoint(path, described()), lambda path: load_checkpoint(path, mlp())], ids=["check", "load"]
)
def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(tmp_path, save, act):
    save({"state_dict": mlp().state_dict(), "args": Runs(f"touch {tmp_path}/executed")}, tmp_path / OLDER)
    with pytest.raises(ValueError, match=r"model\.pth\.tar: expected a pickle of tensors alone, and it is damaged or holds more"):
        act(tmp_path / OLDER)
    assert not (tmp_path / "executed").exists()


def test_a_pickled_model_is_refused(older):
    with pytest.raises(ValueError, match="expected a pickle of tensors alone"):
        load_checkpoint(older(mlp()), mlp())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.booleans())
def test_an_older_checkpoint_truncated_anywhere_is_refused(tmp_path_factory, cut, zipped):
    file = tmp_path_factory.mktemp("cut") / OLDER
    torch.save(mlp().state_dict(), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: cut % len(content)])
    with pytest.raises(ValueError, match=r"model\.pth\.tar: expected"):
        load_checkpoint(file, mlp())


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=40))
def test_a_pth_file_of_something_else_is_refused(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("junk") / OLDER
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pth\.tar: expected"):
        load_checkpoint(file, mlp())


def test_a_tar_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / OLDER, "w") as archive:
        archive.add(__file__, "storages")
    with pytest.raises(ValueError, match=r"model\.pth\.tar: expected"):
        load_checkpoint(tmp_path / OLDER, mlp())


@pytest.mark.parametrize(
    "content",
    [[1, 2], "text", 3, torch.ones(3), {"state_dict": [1]}, {"epoch": 3}, {0: torch.ones(3)}, {}, None],
    ids=lambda content: str(content)[:16],
)
def test_a_pickle_that_is_no_state_dict_is_refused(older, content):
    with pytest.raises(ValueError, match=r"model\.pth\.tar: expected"):
        load_checkpoint(older(content), mlp())


# Masks in files


def drawn_mask():
    return Mask("linear1", torch.rand(8, 64, generator=torch.Generator().manual_seed(0)) < 0.5)


def test_a_mask_comes_back(tmp_path):
    save_mask(tmp_path / "mask.safetensors", drawn_mask(), {"method": "MIMU"})
    mask = load_mask(tmp_path / "mask.safetensors")
    assert mask.layer == "linear1" and torch.equal(mask.keep, drawn_mask().keep)


def test_a_mask_file_says_what_made_it(tmp_path):
    save_mask(tmp_path / "mask.safetensors", drawn_mask(), {"method": "MIMU"})
    assert read_header(tmp_path / "mask.safetensors")["method"] == "MIMU"


def test_a_checkpoint_is_no_mask(tmp_path):
    save_checkpoint(tmp_path / SAFETENSORS, mlp(), described())
    with pytest.raises(ValueError, match=r"model\.safetensors: expected a mask, got a checkpoint"):
        load_mask(tmp_path / SAFETENSORS)


@pytest.mark.parametrize(
    "act", [lambda path: check_checkpoint(path, described()), lambda path: load_checkpoint(path, mlp())], ids=["check", "load"]
)
def test_a_mask_is_no_checkpoint(tmp_path, act):
    save_mask(tmp_path / "mask.safetensors", drawn_mask(), {})
    with pytest.raises(ValueError, match=r"mask\.safetensors: expected a checkpoint, got a mask"):
        act(tmp_path / "mask.safetensors")


def test_a_mask_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="and there is none"):
        load_mask(tmp_path / "mask.safetensors")


# The initial and the ideal model


@pytest.fixture
def base(tmp_path, digits, monkeypatch):
    """BaseModels on digits with one epoch in a folder of its own, and what they trained on."""
    monkeypatch.chdir(tmp_path)

    def make(**settings):
        return BaseModels(BaseConfig(**{"epochs": 1, **settings}), splits=None if "split_seed" in settings else digits)

    return make


@pytest.fixture
def trainings(monkeypatch):
    """The image sets that are trained on while the test runs."""
    seen = []

    def noting(model, images, recipe, **settings):
        seen.append(images)
        return fit(model, images, recipe, **settings)

    monkeypatch.setattr(base_models, "fit", noting)
    return seen


def test_the_default_path_of_the_initial_model(base):
    assert str(base(epochs=None).initial_path) == "results/digits/1mlp_ep30.safetensors"


def test_the_default_path_of_the_ideal_model(base):
    assert str(base().ideal_path) == "results/digits/1mlp_ep1_ideal_class0.safetensors"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"seed": 7}, "7mlp_ep1"),
        ({"arch": "HookedMLPClassifier"}, "1mlp_ep1"),
        ({"arch_options": {"hidden": (8, 4)}}, "1mlp_ep1_hidden8-4"),
        ({"arch_options": {"hidden": (128, 64)}}, "1mlp_ep1"),
        ({"split_seed": 3}, "1mlp_ep1_split3"),
        ({"arch_options": {"hidden": (8,)}, "split_seed": 3}, "1mlp_ep1_hidden8_split3"),
    ],
)
def test_the_name_holds_what_is_not_the_default(base, settings, name):
    assert base(**settings).initial_path.name == f"{name}.safetensors"


@pytest.mark.parametrize(
    ("request_", "slug"),
    [(ForgetRequest((3,), 20), "class3-20"), (ForgetRequest((-1,), 100), "any-100"), (ForgetRequest((3, 5)), "class3+5")],
)
def test_the_ideal_models_name_holds_the_forget_request(base, request_, slug):
    assert base(request=request_).ideal_path.name == f"1mlp_ep1_ideal_{slug}.safetensors"


def test_the_initial_models_name_does_not_hold_the_forget_request(base):
    assert base(request=ForgetRequest((3,))).initial_path == base().initial_path


def test_a_folder_and_a_file_can_be_named(base, tmp_path):
    made = base(save_dir=tmp_path / "here", mask=tmp_path / "mine.safetensors")
    assert (made.initial_path, made.ideal_path.parent) == (tmp_path / "mine.safetensors", tmp_path / "here")


def test_the_initial_model_is_trained_once(base, trainings):
    first, second = base().initial(), base().initial()
    assert (first.loaded, second.loaded, len(trainings)) == (False, True, 1)


def test_the_loaded_model_has_the_trained_ones_bits(base):
    first, second = base().initial(), base().initial()
    assert states_equal(second.model.state_dict(), first.model.state_dict())


def test_training_twice_gives_the_same_file(base):
    first = base().initial()
    first.path.rename("first.safetensors")
    assert model_digest(base().initial().model) == model_digest(first.model)


def test_the_initial_model_is_trained_on_all_of_train(base, trainings, digits):
    base(request=ForgetRequest((3,))).initial()
    assert [images.digest for images in trainings] == [digits.train.digest]


def test_the_ideal_model_leaves_the_forget_set_out(base, trainings, digits):
    base(request=ForgetRequest((3,))).ideal()
    assert [images.digest for images in trainings] == [digits.train.without_classes(3).digest]


def test_the_ideal_model_is_trained_once(base, trainings):
    assert [base().ideal().loaded, base().ideal().loaded, len(trainings)] == [False, True, 1]


@pytest.mark.parametrize(("which", "trained_on"), [("initial", "train"), ("ideal", "class0")])
def test_a_checkpoint_says_what_it_was_trained_on(base, which, trained_on):
    made = base()
    getattr(made, which)()
    assert read_header(getattr(made, f"{which}_path"))["trained_on"] == trained_on


def test_the_metadata_is_that_of_the_experiment(base, digits):
    metadata = base(seed=5).initial().metadata
    assert (metadata.dataset, metadata.split, metadata.arch, metadata.seed, metadata.epochs) == ("digits", digits.digest, "mlp", 5, 1)


def test_the_validation_score_in_the_metadata_is_the_models(base, digits):
    initial = base().initial()
    ((x, y),) = digits.validation.batches(1000)
    assert initial.metadata.validation_score == pytest.approx(100 * (initial.model(x).argmax(1) == y).double().mean().item())


def test_models_come_in_eval_mode(base):
    assert not any(base().initial().model.training for _ in range(2))


def test_an_older_checkpoint_can_be_the_initial_model(base, tmp_path):
    torch.save(build("mlp", SHAPE, 10, seed=9).state_dict(), tmp_path / OLDER)
    with pytest.warns(UserWarning, match="has no metadata"):
        made = base(mask=tmp_path / OLDER)
    assert model_digest(made.initial().model) == model_digest(build("mlp", SHAPE, 10, seed=9))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_of_another_program_can_be_the_initial_model(base, tmp_path, prefix):
    weights = build("mlp", SHAPE, 10, seed=9).state_dict()
    save_file({prefix + name: value for name, value in weights.items()}, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"theirs\.safetensors has no metadata"):
        made = base(mask=tmp_path / "theirs.safetensors")
    assert model_digest(made.initial().model) == model_digest(build("mlp", SHAPE, 10, seed=9))
    assert checkpoint_digest(tmp_path / "theirs.safetensors") == model_digest(made.initial().model)


def test_safetensors_of_another_architecture_are_refused(base, tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "theirs.safetensors")
    with (
        pytest.warns(UserWarning, match="has no metadata"),
        pytest.raises(ValueError, match=r"theirs\.safetensors: expected the weights of this architecture, got others"),
    ):
        base(mask=tmp_path / "theirs.safetensors")


def test_a_function_in_a_file_can_be_the_architecture(base, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef flat(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    assert base(arch=f"{tmp_path}/mine.py:flat").initial().path.name.startswith("1flat-")


def test_two_files_with_one_function_name_are_two_architectures(base, tmp_path):
    text = "from torch import nn\ndef flat(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes, bias={}))\n"
    (tmp_path / "a.py").write_text(text.format(True))
    (tmp_path / "b.py").write_text(text.format(False))
    paths = {base(arch=f"{tmp_path}/{name}.py:flat").initial_path.name for name in "ab"}
    assert len(paths) == 2


def test_an_older_name_is_saved_with_metadata_and_loaded_again(base, tmp_path):
    mask = tmp_path / "mine.pth.tar"
    trained = base(mask=mask).initial()
    loaded = base(mask=mask).initial()
    assert (trained.loaded, loaded.loaded) == (False, True)
    assert loaded.metadata == trained.metadata
    assert states_equal(loaded.model.state_dict(), trained.model.state_dict())


def test_the_epochs_of_a_given_checkpoint_are_those_of_the_ideal_model(base, tmp_path):
    base(epochs=2, mask=tmp_path / "mine.safetensors").initial()
    assert base(epochs=None, mask=tmp_path / "mine.safetensors").epochs == 2
    with pytest.raises(ValueError, match="--epochs: .* was trained for 2, got 3. Leave out"):
        base(epochs=3, mask=tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch_options": {"hidden": (9,)}}, "expected a checkpoint with options"),
        ({"arch": "HookedResnet"}, "expected a checkpoint with arch HookedResnet, got mlp"),
        ({"split_seed": 3}, "expected a checkpoint with split_seed 3, got 0"),
    ],
)
def test_a_checkpoint_of_something_else_is_found_before_training(base, trainings, tmp_path, settings, message):
    base(mask=tmp_path / "mine.safetensors").initial()
    trainings.clear()
    with pytest.raises(ValueError, match=message):
        base(mask=tmp_path / "mine.safetensors", **settings)
    assert trainings == []


def test_an_ideal_model_is_no_initial_model(base):
    made = base()
    made.ideal()
    with pytest.raises(ValueError, match="expected a model trained on everything, got one marked 'class0'"):
        base(mask=made.ideal_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 9}, "--num_classes: digits has 10 classes, got 9"),
        ({"device": "banana"}, "--device: expected auto, cpu or a device that is here, got 'banana'"),
        ({"device": "cuda:99"}, "--device: expected auto, cpu or a device that is here, got 'cuda:99'"),
        ({"device": "meta"}, "--device: expected auto, cpu or a device that is here, got 'meta'"),
        ({"epochs": 0}, "--epochs: expected an integer >= 1, got 0"),
        ({"dataset": "digit"}, "unknown dataset 'digit'"),
        ({"arch": "mpl"}, "unknown architecture 'mpl'"),
        ({"arch_options": {"width": 3}}, "unknown flag of mlp '--width'"),
        ({"arch_options": {"hidden": (0,)}}, "--hidden: expected widths >= 1"),
        ({"request": ForgetRequest((10,))}, "expected a class from 0 to 9, got 10"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_a_mistake_is_found_by_the_constructor(base, settings, message):
    with pytest.raises(ValueError, match=message):
        base(**settings)


@pytest.mark.parametrize(
    "settings", [{"num_classes": 9}, {"epochs": 0}, {"request": ForgetRequest((10,))}, {"arch_options": {"hidden": (0,)}}]
)
def test_a_mistake_leaves_nothing_behind(base, tmp_path, settings):
    with pytest.raises(ValueError, match=r"expected|classes"):
        base(**settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_found_by_the_constructor(base, tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(ValueError, match="can't be written"):
        base()


def test_the_right_number_of_classes_is_accepted(base):
    assert base(num_classes=10).splits.classes == 10


def test_the_untrained_model_has_the_seeds_weights(base):
    assert model_digest(base(seed=4).untrained()) == model_digest(build("mlp", SHAPE, 10, seed=4))


def test_the_incompetent_model_has_weights_of_its_own_that_the_seed_decides(base):
    drawn = [model_digest(base(seed=seed).incompetent()) for seed in (4, 4, 5)]

    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] not in [model_digest(base(seed=seed).untrained()) for seed in range(8)]


def test_the_command_of_the_ideal_model_names_what_is_not_the_default(base):
    made = base(seed=3, arch_options={"hidden": (8, 4)}, request=ForgetRequest((3,), 20))
    assert made.ideal_command() == (
        "python -u main_ideal.py --epochs 1 --seed 3 --hidden 8,4 --class_to_replace 3 --num_indexes_to_replace 20"
    )


def test_the_command_of_the_ideal_model_can_be_pasted_into_a_shell(base, tmp_path):
    made = base(
        save_dir=tmp_path / "my results",
        request=ForgetRequest(indexes=tuple(base().splits.train.indexes[:3].tolist()), file="to forget.txt"),
    )
    words = shlex.split(made.ideal_command())
    assert str(tmp_path / "my results") in words and "to forget.txt" in words


def test_a_copy_of_a_loaded_model_is_independent(base):
    initial = base().initial().model
    before = model_digest(initial)
    nn.init.zeros_(copy.deepcopy(initial).linear1.weight)
    assert model_digest(initial) == before
