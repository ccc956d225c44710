"""Images: datasets, forget and retain splits, batches."""

from lethe.data.asked_normalisation import (
    AUTO,
    DATA,
    NONE,
    checked_normalisation,
    in_words,
    normalisation_of,
    spelled,
)
from lethe.data.forget_request import Division, ForgetRequest, read_indexes
from lethe.data.image_set import ImageSet, Normalisation, forward_batch
from lethe.data.impl import DATASETS, RawDataset, origin, register
from lethe.data.splits import Splits, load_splits, split
from lethe.registry import import_modules

import_modules(__name__, __path__)

__all__ = [
    "AUTO",
    "DATA",
    "DATASETS",
    "NONE",
    "Division",
    "ForgetRequest",
    "ImageSet",
    "Normalisation",
    "RawDataset",
    "Splits",
    "checked_normalisation",
    "forward_batch",
    "in_words",
    "load_splits",
    "normalisation_of",
    "origin",
    "read_indexes",
    "register",
    "spelled",
    "split",
]
