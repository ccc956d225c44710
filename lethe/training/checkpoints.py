"""Checkpoints: a model's weights with metadata in the header."""

from __future__ import annotations

import io
import json
import platform
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.data.impl import DATASETS
from lethe.models import Mask
from lethe.training.fitted_weights import Fitted, as_they_are, fitted
from lethe.training.pickled_weights import read_pickle
from lethe.training.state_dicts import Unfit
from lethe.training.stated_normalisation import Stated
from lethe.training.storage import (
    bare_tensors,
    check_there,
    damaged_header,
    digest_of,
    edited,
    has_header,
    header_digest,
    is_sealed,
    read_header,
    read_tensors,
    text_digest,
    write_bytes,
    write_tensors,
)
from lethe.version import __version__

METADATA, METADATA_DIGEST = "lethe", "lethe_sha256"
CHECKED = (
    "arch",
    "dataset",
    "classes",
    "image_shape",
    "options",
    "training",
    "normalisation",
    "trained_on",
    "split_seed",
    "split",
)


@dataclass(frozen=True)
class Metadata:
    """The metadata of a checkpoint.

    split: digest of the split
    trained_on: "train", or the forget request that was left out
    training: the recipe's flags that differ from the defaults
    computed: precision and memory format
    normalisation: of the images, as a --normalize value; "" for the training images' own mean and deviation
    """

    dataset: str
    split: str
    split_seed: int
    arch: str
    options: dict[str, Any]
    classes: int
    image_shape: tuple[int, int, int]
    seed: int
    epochs: int
    trained_on: str = "train"
    train_score: float = float("nan")
    validation_score: float = float("nan")
    train_seconds: float = float("nan")
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    computed: str = ""
    normalisation: str = ""


def library_versions() -> dict[str, str]:
    return {
        "lethe": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": sys.platform,
    }


def save_checkpoint(path: Path, model: nn.Module, metadata: Metadata) -> None:
    """Write weights and metadata atomically: safetensors, or the older format for another ending."""
    if path.suffix == ".safetensors":
        write_tensors(path, model.state_dict(), {"kind": "checkpoint", **asdict(metadata)})
        return
    content = io.BytesIO()
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    header = _plain(asdict(metadata))
    torch.save(
        {"state_dict": tensors, METADATA: header, METADATA_DIGEST: _older_digest(tensors, header)}, content
    )
    write_bytes(path, content.getvalue())


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two models have the same weights, bit for bit."""
    return model_digest(model) == model_digest(other)


def model_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the state dict."""
    return digest_of(model.state_dict())


def checkpoint_digest(path: Path, model: nn.Module | None = None) -> str:
    """Compute the `model_digest` of a checkpoint from its tensors. Raises as `load_checkpoint`.

    For weights of another program give the `model` that they are loaded into.
    """
    content, header = _read(path)
    if model is not None:
        return digest_of(_fitted(path, content, header, model).weights)
    if header is None:
        raise ValueError(
            f"{path}: expected a checkpoint of Lethe's, got weights of another program. Give their model"
        )
    return digest_of(content)


def named_digest(path: Path) -> str:
    """Return the weights' digest in the header, which loading verifies, else `checkpoint_digest`."""
    if path.suffix == ".safetensors" and has_header(path):
        header = _checkpoint_header(path, read_header(path))
        if "digest" in header:
            return str(header["digest"])
    return checkpoint_digest(path)


def checkpoint_header_digest(path: Path) -> str | None:
    """Return the SHA-256 of the header, the weights' digest included; None for weights without a header.

    Raises as `load_checkpoint`.
    """
    if _is_safetensors(path):
        return header_digest(path) if has_header(path) else None
    tensors, header = _read(path)
    return None if header is None else _older_digest(tensors, header)


def unsealed(path: Path) -> str:
    """Return a warning for a checkpoint older than the header's digest; "" for others."""
    sealed = is_sealed(path) if _is_safetensors(path) else METADATA_DIGEST in (read_pickle(path) or ())
    if sealed:
        return ""
    return (
        f"{path} was saved before a checkpoint's digest covered its header: an edit of its metadata "
        "(dataset, split, forget set) can't be detected. Train it again to have the digest"
    )


def check_checkpoint(
    path: Path,
    expected: Metadata,
    defaults: Mapping[str, Any] | None = None,
    *,
    named: bool = False,
    flag: str = "mask",
) -> None:
    """Raise ValueError if a checkpoint's architecture, dataset, split or forget set is not `expected`.

    Reads the header only. `defaults` are the defaults of the architecture's options, for options newer than
    the checkpoint. Without a header, warns for a `.pth.tar` and for safetensors that the user `named`; other
    safetensors are refused, as Lethe's own have a header. `flag`: names the file on the command line.
    """
    another = f"another file with --{flag}"
    elsewhere = f"{another}, or another folder with --save_dir" if flag == "mask" else another
    found_here = checkpoint_metadata(path)
    if found_here is None:
        if not named and path.suffix == ".safetensors":
            read_header(path)  # raises ValueError: Lethe's own checkpoints have a header
        warnings.warn(
            f"{path} has no metadata: its dataset, split and forget set can't be checked", stacklevel=2
        )
        return
    header = _plain(asdict(found_here))
    for name in CHECKED:
        wanted, found = _plain(getattr(expected, name)), header[name]
        if name == "options":
            found = _plain(dict(defaults or {})) | found
        if name in ("arch", "trained_on") and wanted != found and shortened(wanted) == found:
            what = "the file of its architecture" if name == "arch" else "its forget list"
            warnings.warn(
                f"{path} names {what} by the first eight characters of a digest (older Lethe): they may "
                "collide",
                stacklevel=2,
            )
            continue
        if wanted != found and name == "trained_on" and shortened(wanted) == shortened(str(found)):
            raise ValueError(
                f"{path}: expected a model trained on all but {wanted}, got one marked {found!r}: two forget "
                f"lists share the name {shortened(wanted)}. Name {elsewhere}"
            )
        if wanted != found and name == "trained_on":
            images = "everything" if wanted == "train" else f"all but {wanted}"
            raise ValueError(
                f"{path}: expected a model trained on {images}, got {_trained_on(found)}. Name {elsewhere}"
            )
        if wanted != found:
            raise ValueError(
                f"{path}: expected a checkpoint with {name} {_short(wanted, found)}, got "
                f"{_short(found, wanted)}. {_remedy(name, wanted, found)}, or name {another}"
            )


def checkpoint_metadata(path: Path) -> Metadata | None:
    """Read the metadata of a checkpoint; None for weights without a header. Raises as `load_checkpoint`."""
    if _is_safetensors(path):
        return _metadata(path, _checkpoint_header(path, read_header(path))) if has_header(path) else None
    header = _read(path)[1]
    return _metadata(path, header) if header is not None else None


def load_checkpoint(path: Path, model: nn.Module) -> Metadata | None:
    """Load weights into `model` in place; return the metadata (None: no header). Raises as `load_weights`."""
    return load_weights(path, model).metadata


@dataclass(frozen=True)
class Loaded:
    """A file's metadata, notes on how its weights were fitted to the model, and its normalisation."""

    metadata: Metadata | None
    notes: tuple[str, ...] = ()
    normalisation: Stated | None = None


def load_weights(path: Path, model: nn.Module, *, normalisation_known: bool = False) -> Loaded:
    """Load weights into `model` in place, those of another program after a match of their names.

    Raises FileNotFoundError, or ValueError for a truncated or tampered file, weights of another architecture
    or other classes, weights that are not finite floats, and a pickle that holds more than tensors. The model
    is unchanged then.
    """
    content, header = _read(path)
    metadata = None if header is None else _metadata(path, header)
    found = _fitted(path, content, header, model, normalisation_known=normalisation_known)
    model.load_state_dict(found.weights)
    return Loaded(metadata, found.notes, found.normalisation)


def _fitted(
    path: Path,
    content: Any,
    header: Mapping[str, Any] | None,
    model: nn.Module,
    *,
    normalisation_known: bool = False,
) -> Fitted:
    """Rename the weights in a file's content to the model's names."""
    wanted = model.state_dict()
    try:
        if header is not None:
            return as_they_are(content, wanted)
        return fitted(content, wanted, normalisation_known=normalisation_known)
    except Unfit as error:
        raise ValueError(f"{path}: expected the weights of this architecture, got {error}") from error


def save_mask(path: Path, mask: Mask, header: Mapping[str, Any]) -> None:
    """Write a mask (1 keeps, 0 switches off) with its layer and a header."""
    write_tensors(path, {"mask": mask.keep.to(torch.uint8)}, {**header, "kind": "mask", "layer": mask.layer})


def load_mask(path: str | Path) -> Mask:
    """Load the mask in a file that a run left (`mask.safetensors`), or `save_mask` wrote.

    Raises FileNotFoundError for a file that is not there, ValueError for one that holds no mask.
    """
    path = Path(path)
    tensors, header = read_tensors(path)
    if header.get("kind") != "mask":
        raise ValueError(f"{path}: expected a mask, got a {header.get('kind')}. Name the mask's file")
    layer, keep = header.get("layer"), tensors.get("mask")
    if (
        not isinstance(layer, str)
        or keep is None
        or keep.ndim != 2
        or keep.dtype not in (torch.uint8, torch.bool)
    ):
        raise damaged_header(path, "expected a layer's name and a mask (m, n) of 0 and 1")
    return Mask(layer, keep.bool())


def shortened(identity: str) -> str:
    """Shorten the digests in an identity to eight characters, as in checkpoints from before 0.2."""
    return re.sub(r"-([0-9a-f]{8})[0-9a-f]{56}(?![0-9a-f])", r"-\1", identity)


def _remedy(name: str, wanted: Any, found: Any) -> str:
    """Return the remedy for a mismatch, with flags as users write them."""
    if name in ("options", "training"):
        flags = {
            f"--{option} {_written(value)}" for option, value in found.items() if wanted.get(option) != value
        }
        return f"Ask for {' '.join(sorted(flags)) or f'fewer {name} flags'}"
    if name == "arch" and re.search(r"-[0-9a-f]{8}([0-9a-f]{56})?$", str(found)):
        return "Give the --arch path/to/file.py:function that it was made with, with the file unchanged"
    if name in ("split", "classes", "image_shape"):  # no flag sets them: they follow from the images
        return (
            "The images differ from those it was trained on: they were changed, or are those of another "
            "folder. Train again in another folder with --save_dir, restore those images"
        )
    # A folder or a file has a name in results/ that is no value of the flag.
    if name == "dataset" and str(found) not in DATASETS:
        return "Give the --dataset that it was trained on, or another folder with --save_dir"
    if name == "normalisation":
        return f"Ask for --normalize {found or 'data'}"
    return f"Ask for {name} {_short(found)}"


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _trained_on(found: Any) -> str:
    return "one trained on everything" if found == "train" else f"one marked {found!r}"


def _is_safetensors(path: Path) -> bool:
    """Return whether the name ends in .safetensors, or the file begins with a length and JSON."""
    if path.suffix == ".safetensors":
        return True
    check_there(path)
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{"


def _read(path: Path) -> tuple[Any, dict[str, Any] | None]:
    """Read a file: its tensors or pickled content, and Lethe's header (None from another program)."""
    if _is_safetensors(path):
        if not has_header(path):
            return bare_tensors(path), None
        tensors, header = read_tensors(path)
        return tensors, _checkpoint_header(path, header)
    content = read_pickle(path)
    if not isinstance(content, dict) or METADATA not in content:
        return content, None
    header, weights = content[METADATA], content.get("state_dict")
    if (
        not isinstance(header, dict)
        or not isinstance(weights, dict)
        or not all(isinstance(value, Tensor) for value in weights.values())
    ):
        raise damaged_header(path, "expected the metadata beside a state_dict of tensors")
    if content.get(METADATA_DIGEST, _older_digest(weights, header)) != _older_digest(weights, header):
        raise edited(path)
    return weights, header


def _checkpoint_header(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    if header.get("kind") != "checkpoint":
        raise ValueError(
            f"{path}: expected a checkpoint, got a {_short(header.get('kind'))}. Name the checkpoint's file "
            "with --mask"
        )
    return header


def _metadata(path: Path, header: Mapping[str, Any]) -> Metadata:
    """Parse the metadata in a header. Raises ValueError for unknown, missing and wrongly typed fields."""
    stored = {name: value for name, value in header.items() if name not in ("kind", "digest")}
    for name, value in stored.items():
        if name not in KINDS:
            raise damaged_header(path, f"unknown field {_short(name)!r}")
        what, holds = KINDS[name]
        if not holds(value):
            raise damaged_header(path, f"expected {what} for {name}, got {_short(value)}")
    required = [
        each.name for each in fields(Metadata) if each.default is MISSING and each.default_factory is MISSING
    ]
    missing = [name for name in required if name not in stored]
    if missing:
        raise damaged_header(path, f"without {', '.join(missing)}")
    return Metadata(**{name: _as_tuples(value) for name, value in stored.items()})


def _older_digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of metadata and tensors."""
    return text_digest(json.dumps({**header, "digest": digest_of(tensors)}, sort_keys=True, default=str))


def _as_tuples(value: Any) -> Any:
    """Convert lists back to tuples, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _as_tuples(inner) for name, inner in value.items()}
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_whole(side) for side in value)


def _is_setting(value: Any) -> bool:
    return value is None or isinstance(value, bool) or _is_number(value) or _is_text(value)


def _are_settings(value: Any) -> bool:
    """Return whether it is a dict from texts to numbers, texts, booleans, None, or lists of them."""
    if not isinstance(value, dict) or not all(_is_text(name) for name in value):
        return False
    singles = [
        part for each in value.values() for part in (each if isinstance(each, (list, tuple)) else [each])
    ]
    return all(_is_setting(single) for single in singles)


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "dataset": ("a text", _is_text),
    "split": ("a text", _is_text),
    "split_seed": ("an integer >= 0", _is_whole),
    "arch": ("a text", _is_text),
    "options": ("settings by name", _are_settings),
    "classes": ("an integer >= 0", _is_whole),
    "image_shape": ("three integers", _is_shape),
    "seed": ("an integer >= 0", _is_whole),
    "epochs": ("an integer >= 0", _is_whole),
    "trained_on": ("a text", _is_text),
    "train_score": ("a number", _is_number),
    "validation_score": ("a number", _is_number),
    "train_seconds": ("a number", _is_number),
    "versions": ("settings by name", _are_settings),
    "training": ("settings by name", _are_settings),
    "computed": ("a text", _is_text),
    "normalisation": ("a text", _is_text),
}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _short(value: Any, other: Any = None) -> str:
    """Shorten a long value for a message, unless it begins as the other one."""
    text = str(value)
    return text if len(text) <= 24 or str(other)[:12] == text[:12] else text[:12] + "..."
