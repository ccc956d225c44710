"""Recognise by its first bytes what a file without weights is, for the error message."""

from __future__ import annotations

from pathlib import Path

PEEK = 512  # bytes
AGAIN = "Copy or download the file again; delete one that Lethe made, and it is made again"
UNPACK = "Unpack it, and name the file of weights in it"
SAVE = "Save the model's state_dict with torch.save"

# (first bytes, kind of file, remedy)
POINTER = "pointer: the repository was cloned without its large files"
BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", f"a Git LFS {POINTER}", "Run git lfs pull there"),
    (b"/annex/objects/", f"a git-annex {POINTER}", "Run git annex get there"),
    (b"<", "a web page (of an error or a login, perhaps) instead of the file", AGAIN),
    (b"PK\x05\x06", "an empty zip archive", AGAIN),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"Rar!", "a rar archive", UNPACK),
    (b"\x89HDF", "an HDF5 file, of Keras perhaps", "Name a file of PyTorch's"),
    (b"GGUF", "a GGUF file, of llama.cpp", "Name a file of PyTorch's"),
    (b"\x93NUMPY", "a NumPy array", SAVE),
)


def not_weights(path: Path) -> str | None:
    """Return the kind of file and the remedy, to end "expected ..., got"; None if it may hold weights."""
    with path.open("rb") as file:
        start = file.read(PEEK)
    if not start:
        return f"an empty file. {AGAIN}"
    bare = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what, remedy in BEGINNINGS:
        if bare.startswith(beginning):
            return f"{what}. {remedy}"
    if _is_text(start):
        words = " ".join(start.decode("ascii").split())
        return f"a text, {words[:40]!r}{'...' if len(words) > 40 else ''}. {AGAIN}"
    return None


def _is_text(start: bytes) -> bool:
    """Return whether all bytes are text: a safetensors length has zero bytes, a pickle a control byte."""
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)
