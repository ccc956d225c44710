"""Checkpoints whose header somebody edited: with the digest left as it was, taken out, or made anew."""

import json
from pathlib import Path
from typing import Literal

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lethe.training.storage import HEADER, HEADER_DIGEST, text_digest

Seal = Literal["left", "taken out", "made anew"]


def edit_header(source: Path, target: Path, seal: Seal = "left", **changes: object) -> None:
    """Write `source` to `target` with other entries in the header."""
    with safe_open(source, framework="pt") as file:
        notes = dict(file.metadata())
    notes[HEADER] = json.dumps(json.loads(notes[HEADER]) | changes, sort_keys=True)
    if seal == "taken out":
        del notes[HEADER_DIGEST]
    if seal == "made anew":
        notes[HEADER_DIGEST] = text_digest(notes[HEADER])
    save_file(load_file(source), target, notes)
