"""Masks in files."""

import pytest
import torch

from lethe.models import Mask
from lethe.training import check_checkpoint, load_checkpoint, load_mask, save_checkpoint, save_mask
from lethe.training.storage import read_header
from tests.saved_models import SAFETENSORS, described, mlp


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
    "act",
    [lambda path: check_checkpoint(path, described()), lambda path: load_checkpoint(path, mlp())],
    ids=["check", "load"],
)
def test_a_mask_is_no_checkpoint(tmp_path, act):
    save_mask(tmp_path / "mask.safetensors", drawn_mask(), {})
    with pytest.raises(ValueError, match=r"mask\.safetensors: expected a checkpoint, got a mask"):
        act(tmp_path / "mask.safetensors")


def test_a_mask_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="and there is none"):
        load_mask(tmp_path / "mask.safetensors")
