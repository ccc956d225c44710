"""Checkpoints: a model's weights, and in the header what it is and what it was trained on."""

from __future__ import annotations

import io
import json
import platform
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import Mask
from registry import __version__
from training.storage import (
    bare_tensors,
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

METADATA, METADATA_DIGEST = "lethe", "lethe_sha256"


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says of itself. `split` is the digest of the split, `trained_on` "train" or the forget request left out.

    `training`: the flags of the recipe that were not the defaults; `computed`: in which precision and memory format.
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


def library_versions() -> dict[str, str]:
    return {"lethe": __version__, "torch": str(torch.__version__), "python": platform.python_version(), "platform": sys.platform}


def save_checkpoint(path: Path, model: nn.Module, metadata: Metadata) -> None:
    """Write weights and metadata, whole or not at all: safetensors, or the older format where the name ends otherwise."""
    if path.suffix == ".safetensors":
        write_tensors(path, model.state_dict(), {"kind": "checkpoint", **asdict(metadata)})
        return
    content = io.BytesIO()
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    header = _plain(asdict(metadata))
    torch.save({"state_dict": tensors, METADATA: header, METADATA_DIGEST: _older_digest(tensors, header)}, content)
    write_bytes(path, content.getvalue())


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same weights, bit for bit."""
    return model_digest(model) == model_digest(other)


def model_digest(model: nn.Module) -> str:
    """SHA-256 of the state dict."""
    return digest_of(model.state_dict())


def checkpoint_digest(path: Path) -> str:
    """`model_digest` of the model in a checkpoint, from the tensors themselves. Raises as `load_checkpoint`."""
    return digest_of(_read(path)[0])


def named_digest(path: Path) -> str:
    """The weights' digest that a checkpoint names, which is checked when it is loaded; of a file that names none, `checkpoint_digest`."""
    header = _header(path) if path.suffix == ".safetensors" else {}
    return str(header["digest"]) if "digest" in header else checkpoint_digest(path)


def checkpoint_header_digest(path: Path) -> str | None:
    """SHA-256 of what a checkpoint says of itself, its weights' digest included; None for weights alone. Raises as `load_checkpoint`."""
    if path.suffix == ".safetensors":
        return header_digest(path) if has_header(path) else None
    tensors, header = _older_checkpoint(path)
    return _older_digest(tensors, header) if header else None


def unsealed(path: Path) -> str:
    """What can't be checked of a checkpoint from before the digest covered the header, as a line; empty for others."""
    sealed = is_sealed(path) if path.suffix == ".safetensors" else METADATA_DIGEST in (_content(path) or ())
    if sealed:
        return ""
    return (
        f"{path} was saved before a checkpoint's digest covered its header: whether what it says of itself (dataset, split, forget set) "
        "was edited can't be checked. A checkpoint that is made again can be"
    )


def check_checkpoint(path: Path, expected: Metadata, defaults: Mapping[str, Any] | None = None, *, named: bool = False) -> None:
    """ValueError if the checkpoint at `path` is of another architecture, dataset, split or forget set than `expected`.

    `defaults` are those of the architecture's options: one that the checkpoint does not name is younger than it, and had its
    default. Reads the header only. Weights alone have none: warns of an older `.pth.tar`, and of
    safetensors that a person has `named`; those that lie where Lethe puts its own are refused, for its own have one.
    """
    header = _header(path) if named or path.suffix != ".safetensors" else _checkpoint_header(path, read_header(path))
    if not header:
        warnings.warn(f"{path} has no metadata: that it fits this dataset, split and forget set can't be checked", stacklevel=2)
        return
    for name in ("arch", "dataset", "classes", "image_shape", "options", "training", "trained_on", "split_seed", "split"):
        wanted, found = _plain(getattr(expected, name)), header.get(name)
        if name == "options" and isinstance(found, dict):
            found = _plain(dict(defaults or {})) | found
        if name == "training":
            found = found or {}  # checkpoints from before there was a choice
        if name in ("arch", "trained_on") and wanted != found and shortened(wanted) == found:
            what = "the file of its architecture" if name == "arch" else "its forget list"
            warnings.warn(f"{path} names {what} by eight letters of a digest, as Lethe did before: another may share them", stacklevel=2)
            continue
        if wanted != found and name == "trained_on" and shortened(wanted) == shortened(str(found)):
            raise ValueError(
                f"{path}: expected a model trained on all but {wanted}, got one marked {found!r}: two forget lists that share the name "
                f"{shortened(wanted)}. Name another file with --mask, or another folder with --save_dir"
            )
        if wanted != found and name == "trained_on":
            images = "everything" if wanted == "train" else f"all but {wanted}"
            raise ValueError(
                f"{path}: expected a model trained on {images}, got {_trained_on(found)}. "
                "Name another file with --mask, or another folder with --save_dir"
            )
        if wanted != found:
            raise ValueError(
                f"{path}: expected a checkpoint with {name} {_short(wanted, found)}, got {_short(found, wanted)}. "
                f"{_way_out(name, wanted, found)}, or name another file with --mask"
            )


def checkpoint_metadata(path: Path) -> Metadata | None:
    """What a checkpoint says of itself; None for weights alone. Raises as `load_checkpoint`."""
    header = _header(path)
    return _metadata(path, header) if header else None


def load_checkpoint(path: Path, model: nn.Module) -> Metadata | None:
    """Load the weights into `model`, in place; returns the metadata (None for weights alone: an older `.pth.tar`, others' safetensors).

    Raises FileNotFoundError, or ValueError for a truncated or tampered file, one of another architecture, and a pickle
    that holds more than tensors.
    """
    tensors, header = _read(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: expected the weights of this architecture, got others ({reason}). Choose the --arch it was made with"
        ) from error
    return _metadata(path, header) if header else None


def save_mask(path: Path, mask: Mask, header: Mapping[str, Any]) -> None:
    """Write a mask (1 keeps, 0 switches off) with the layer it belongs to and what made it."""
    write_tensors(path, {"mask": mask.keep.to(torch.uint8)}, {**header, "kind": "mask", "layer": mask.layer})


def load_mask(path: Path) -> Mask:
    """The mask in a file that `save_mask` wrote. Raises FileNotFoundError or ValueError."""
    tensors, header = read_tensors(path)
    if header.get("kind") != "mask":
        raise ValueError(f"{path}: expected a mask, got a {header.get('kind')}. Name the mask's file")
    return Mask(header["layer"], tensors["mask"].bool())


def shortened(identity: str) -> str:
    """An identity as checkpoints from before 0.2 have it, with the first eight letters of a digest."""
    return re.sub(r"-([0-9a-f]{8})[0-9a-f]{56}(?![0-9a-f])", r"-\1", identity)


def _way_out(name: str, wanted: Any, found: Any) -> str:
    """What to ask for instead: flags as a person would write them."""
    if name in ("options", "training"):
        flags = {f"--{option} {_written(value)}" for option, value in found.items() if wanted.get(option) != value}
        return f"Ask for {' '.join(sorted(flags)) or f'fewer {name} flags'}"
    if name == "arch" and re.search(r"-[0-9a-f]{8}([0-9a-f]{56})?$", str(found)):
        return "Give the --arch path/to/file.py:function that it was made with; the file has to be the same, letter by letter"
    if name in ("split", "classes", "image_shape"):  # which nobody asks for: they are what the images are
        return (
            "The images differ from those it was trained on: they were changed, or are those of another folder. "
            "Train anew in another folder with --save_dir, bring those images back"
        )
    return f"Ask for {name} {_short(found)}"


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _trained_on(found: Any) -> str:
    return "one trained on everything" if found == "train" else f"one marked {found!r}"


def _header(path: Path) -> dict[str, Any]:
    """A checkpoint's header; empty for weights alone."""
    if path.suffix != ".safetensors":
        return _older_checkpoint(path)[1]
    return _checkpoint_header(path, read_header(path)) if has_header(path) else {}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata (empty for weights alone)."""
    if path.suffix != ".safetensors":
        return _older_checkpoint(path)
    if not has_header(path):
        return _without_module(bare_tensors(path)), {}
    tensors, header = read_tensors(path)
    return tensors, _checkpoint_header(path, header)


def _checkpoint_header(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    if header.get("kind") != "checkpoint":
        raise ValueError(f"{path}: expected a checkpoint, got a {header.get('kind')}. Name the checkpoint's file with --mask")
    return header


def _metadata(path: Path, header: dict[str, Any]) -> Metadata:
    stored = {name: value for name, value in header.items() if name not in ("kind", "digest")}
    tuples = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}  # JSON has none
    flags = {
        kind: {name: tuple(v) if isinstance(v, list) else v for name, v in stored.get(kind, {}).items()} for kind in ("options", "training")
    }
    try:
        return Metadata(**(stored | tuples | flags))
    except TypeError as error:
        raise ValueError(f"{path}: its metadata is that of another version of Lethe ({error}). Make the checkpoint again") from error


def _older_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata (empty if there is none) in a `.pth.tar`: a state dict, or a dictionary with one under `state_dict`."""
    content = _content(path)
    header = content.get(METADATA, {}) if isinstance(content, dict) else {}
    header = header if isinstance(header, dict) else {}
    said = content.get(METADATA_DIGEST) if isinstance(content, dict) else None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        raise ValueError(f"{path}: expected a state dict of tensors, or one under 'state_dict'. Save the model's state_dict")
    if said is not None and said != _older_digest(content, header):
        raise edited(path)
    return _without_module(content), header


def _older_digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of metadata and tensors."""
    return text_digest(json.dumps({**header, "digest": digest_of(tensors)}, sort_keys=True, default=str))


def _content(path: Path) -> Any:
    """What is in a `.pth.tar`, whatever it is. Raises FileNotFoundError, and ValueError for what would have to be run."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a checkpoint {path}, and there is none. Check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a pickle protocol before it refuses what is in it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises IndexError, struct.error, ...
        raise ValueError(
            f"{path}: expected a pickle of tensors alone, and it is damaged or holds more, which loading would run as code "
            f"({type(error).__name__}). Save the state_dict again where you trust the file"
        ) from error


def _without_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that they have outside of DistributedDataParallel."""
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _short(value: Any, other: Any = None) -> str:
    """A value as a message has it: of a long one the beginning, unless the other one begins alike."""
    text = str(value)
    return text if len(text) <= 24 or str(other)[:12] == text[:12] else text[:12] + "..."
