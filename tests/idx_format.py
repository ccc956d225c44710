"""The format of MNIST's files, for those that write small ones."""

import struct


def idx(array):
    """An array of bytes in the IDX format: 0, 0, 0x08 (unsigned bytes), the number of dimensions, each as a
    big-endian int.
    """
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
