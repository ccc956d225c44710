"""The training loop, checkpoints, random streams and the cache."""

from lethe.system.progress_place import silent
from lethe.training.checkpoints import (
    Loaded,
    Metadata,
    check_checkpoint,
    checkpoint_digest,
    checkpoint_header_digest,
    checkpoint_metadata,
    library_versions,
    load_checkpoint,
    load_mask,
    load_weights,
    model_digest,
    named_digest,
    same_weights,
    save_checkpoint,
    save_mask,
    shortened,
    unsealed,
)
from lethe.training.disk_cache import Cache, DiskCache, Tensors, computed_once
from lethe.training.loop import Progress, descend, fit, warm_up
from lethe.training.many import fit_many
from lethe.training.recipe import Recipe
from lethe.training.seeds import generator_for
from lethe.training.state import StateFile
from lethe.training.storage import check_writable, digest_of, write_bytes

__all__ = [
    "Cache",
    "DiskCache",
    "Loaded",
    "Metadata",
    "Progress",
    "Recipe",
    "StateFile",
    "Tensors",
    "check_checkpoint",
    "check_writable",
    "checkpoint_digest",
    "checkpoint_header_digest",
    "checkpoint_metadata",
    "computed_once",
    "descend",
    "digest_of",
    "fit",
    "fit_many",
    "generator_for",
    "library_versions",
    "load_checkpoint",
    "load_mask",
    "load_weights",
    "model_digest",
    "named_digest",
    "same_weights",
    "save_checkpoint",
    "save_mask",
    "shortened",
    "silent",
    "unsealed",
    "warm_up",
    "write_bytes",
]
