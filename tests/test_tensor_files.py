"""Files of tensors that are whole or not there, and the digest of what is in them."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lethe.training import check_writable, digest_of, write_bytes
from lethe.training.storage import (
    header_digest,
    is_sealed,
    read_header,
    read_tensors,
    shortened,
    write_tensors,
)
from tests.edited_headers import edit_header
from tests.hypothesis_settings import FEW
from tests.seeded import states_equal

TENSORS = {
    "b": torch.arange(6.0).view(2, 3),
    "a": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "none": torch.empty(0, 3),
}


def test_tensors_and_header_come_back(tmp_path):
    write_tensors(tmp_path / "t.safetensors", TENSORS, {"seed": 1, "names": ["x"]})
    tensors, header = read_tensors(tmp_path / "t.safetensors")
    assert states_equal(dict(sorted(tensors.items())), dict(sorted(TENSORS.items())))
    assert (header["seed"], header["names"]) == (1, ["x"])


def test_special_values_come_back_bit_for_bit(tmp_path):
    special = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45])
    write_tensors(tmp_path / "t.safetensors", {"x": special}, {})
    assert torch.equal(
        read_tensors(tmp_path / "t.safetensors")[0]["x"].view(torch.int32), special.view(torch.int32)
    )


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
    with pytest.raises(ValueError, match=r"t\.safetensors: expected a (complete )?safetensors file"):
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


@pytest.mark.parametrize("read", [read_header, read_tensors])
def test_an_edited_header_is_noticed(tmp_path, read):
    write_tensors(tmp_path / "t.safetensors", TENSORS, {"trained_on": "train"})
    edit_header(tmp_path / "t.safetensors", tmp_path / "t.safetensors", trained_on="class0")
    reason = r"t\.safetensors: its header is not the one that was saved .* Make it again"
    with pytest.raises(ValueError, match=reason):
        read(tmp_path / "t.safetensors")


def test_a_file_from_before_the_headers_digest_is_read(tmp_path):
    write_tensors(tmp_path / "t.safetensors", TENSORS, {"trained_on": "train"})
    assert is_sealed(tmp_path / "t.safetensors")
    edit_header(tmp_path / "t.safetensors", tmp_path / "t.safetensors", "taken out")
    assert read_tensors(tmp_path / "t.safetensors")[1]["trained_on"] == "train"
    assert not is_sealed(tmp_path / "t.safetensors")


def test_the_headers_digest_covers_header_and_tensors(tmp_path):
    headers = {"one": {"a": 1}, "again": {"a": 1}, "another header": {"a": 2}}
    for name, header in headers.items():
        write_tensors(tmp_path / name, {"x": torch.ones(2)}, header)
    write_tensors(tmp_path / "other tensors", {"x": torch.zeros(2)}, {"a": 1})
    one, again, *others = (header_digest(tmp_path / name) for name in (*headers, "other tensors"))
    assert one == again
    assert len({one, *others}) == 3


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match=r"written by Lethe .it has no Lethe header"):
        read_header(tmp_path / "t.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\xff" * 100])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="expected a (complete )?safetensors file"):
        read_header(tmp_path / "t.safetensors")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a file .*nowhere\.safetensors, and there is none"):
        read_header(tmp_path / "nowhere.safetensors")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "results").write_text("")
    reason = r"results/t\.safetensors can't be written .*another with --save_dir"
    with pytest.raises(ValueError, match=reason):
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


@pytest.mark.parametrize("name", ["mlp", "x" * 40, "ü" * 20])
def test_a_name_that_fits_stays_as_it_is(name):
    assert shortened(name, 40) == name


@pytest.mark.parametrize("name", ["x" * 41, "遗忘" * 30])
def test_a_name_that_is_too_long_keeps_its_beginning_and_differs_from_its_like(name):
    short = shortened(name, 40)
    assert len(short.encode()) <= 40 and name.startswith(short[:7])
    assert short != shortened(f"{name}!", 40)


def test_a_folder_whose_name_no_file_system_holds_is_told_before(tmp_path):
    check_writable(tmp_path / ("x" * 255))
    with pytest.raises(ValueError, match="has more than 255 bytes.* choose another with --save_dir"):
        check_writable(tmp_path / ("ü" * 128) / "cache")
