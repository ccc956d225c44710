"""Checkpoints of other programs, .pth.tar: their tensors are read, and nothing in them runs."""

import os
import pickle
import tarfile
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.training import check_checkpoint, load_checkpoint, save_checkpoint, unsealed
from tests.saved_models import OLDER, described, mlp
from tests.seeded import states_equal


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


@pytest.mark.parametrize("part", ["lethe", "state_dict"])
def test_an_older_checkpoint_that_was_edited_is_refused(tmp_path, part):
    save_checkpoint(tmp_path / OLDER, mlp(), described())
    content = torch.load(tmp_path / OLDER, weights_only=True)
    content[part] |= {"trained_on": "class0"} if part == "lethe" else {"1.bias": torch.zeros(8)}
    torch.save(content, tmp_path / OLDER)
    with pytest.raises(ValueError, match=r"model\.pth\.tar: its header is not the one that was saved"):
        load_checkpoint(tmp_path / OLDER, mlp())


def test_an_older_checkpoint_without_a_digest_is_said_to_have_none(tmp_path):
    save_checkpoint(tmp_path / OLDER, mlp(), described())
    assert unsealed(tmp_path / OLDER) == ""
    content = torch.load(tmp_path / OLDER, weights_only=True)
    del content["lethe_sha256"]
    torch.save(content, tmp_path / OLDER)
    assert load_checkpoint(tmp_path / OLDER, mlp()) == described(options={"hidden": (8,)})
    assert "was saved before a checkpoint's digest covered its header" in unsealed(tmp_path / OLDER)


class Runs:
    """Unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize(
    "save",
    [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))],
    ids=["torch", "pickle"],
)
@pytest.mark.parametrize(
    "act",
    [lambda path: check_checkpoint(path, described()), lambda path: load_checkpoint(path, mlp())],
    ids=["check", "load"],
)
def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(tmp_path, save, act):
    save({"state_dict": mlp().state_dict(), "args": Runs(f"touch {tmp_path}/executed")}, tmp_path / OLDER)
    reason = r"model\.pth\.tar: expected a pickle of tensors alone, and it is damaged or holds more"
    with pytest.raises(ValueError, match=reason):
        act(tmp_path / OLDER)
    assert not (tmp_path / "executed").exists()


def test_a_pickled_model_is_refused(older):
    with pytest.raises(ValueError, match="expected a pickle of tensors alone"):
        load_checkpoint(older(mlp()), mlp())


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.booleans())
def test_an_older_checkpoint_truncated_anywhere_is_refused(tmp_path_factory, cut, zipped):
    file = tmp_path_factory.mktemp("cut") / OLDER
    torch.save(mlp().state_dict(), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: cut % len(content)])
    with pytest.raises(ValueError, match=r"model\.pth\.tar: expected"):
        load_checkpoint(file, mlp())


@settings(max_examples=60)
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
