"""The training loop, checkpoints, random streams and the cache."""

from training.checkpoints import (
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
from training.disk_cache import Cache, DiskCache, Tensors, computed_once
from training.loop import Progress, descend, fit, silent, warm_up
from training.many import fit_many
from training.recipe import Recipe
from training.seeds import generator_for, restored_random_state
from training.state import StateFile
from training.storage import check_writable, digest_of, write_bytes

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
    "restored_random_state",
    "same_weights",
    "save_checkpoint",
    "save_mask",
    "shortened",
    "silent",
    "unsealed",
    "warm_up",
    "write_bytes",
]
