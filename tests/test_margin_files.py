"""Arrays in files of somebody else: what a header promises is there before memory is asked for."""

import io
import os

import numpy as np
import pytest

from lethe.audits.margin_files import npy, read_array


def promised(shape, version=1):
    """A .npy file whose header promises floats of that shape, and that ends there."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return (
        b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header
    )


def refused(path, content, match):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        read_array(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_read(order, tmp_path):
    array = np.asarray(np.arange(6, dtype=np.float32).reshape(2, 3), order=order)
    (tmp_path / "m.npy").write_bytes(npy(array))

    assert np.array_equal(read_array(tmp_path / "m.npy"), array)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_header_that_promises_more_than_is_there_is_refused_before_memory_is_asked_for(version, tmp_path):
    says = (
        r"m\.npy: expected a .npy file of numbers \(its header names 400000000000000 bytes, and 0 are there\)"
    )
    refused(tmp_path / "m.npy", promised((10**7, 10**7), version), says)


@pytest.mark.parametrize("shape", [(-1, 4), "x", (10**400,), "[[" * 2000])
def test_a_shape_that_is_none_is_refused(shape, tmp_path):
    refused(tmp_path / "m.npy", promised(shape), "expected a .npy file of numbers")


def test_an_archive_of_arrays_is_refused(tmp_path):
    content = io.BytesIO()
    np.savez(content, a=np.zeros(2), b=np.zeros(2))
    refused(tmp_path / "m.npy", content.getvalue(), "got an archive of several arrays")


def test_a_pickle_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.array([None]), allow_pickle=True)
    refused(tmp_path / "m.npy", content.getvalue(), "expected a .npy file of numbers .*allow_pickle")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "m.npy")
    with pytest.raises(ValueError, match="expected a regular file, got a named pipe"):
        read_array(tmp_path / "m.npy")
