"""A small model, what its checkpoint says of it, and how the files are called."""

from dataclasses import replace

from lethe.models import build
from lethe.training import Metadata

SHAPE = (1, 8, 8)


def mlp(seed=1, hidden=(8,)):
    return build("mlp", SHAPE, 10, seed=seed, options={"hidden": hidden})


SAFETENSORS, OLDER = "model.safetensors", "model.pth.tar"


def described(**changes):
    metadata = Metadata(
        dataset="digits",
        split="5" * 64,
        split_seed=0,
        arch="mlp",
        options={"hidden": (8,)},
        classes=10,
        image_shape=SHAPE,
        seed=1,
        epochs=3,
        train_score=99.5,
        validation_score=97.25,
        train_seconds=1.5,
        versions={"torch": "2"},
    )
    return replace(metadata, **changes)
