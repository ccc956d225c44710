"""Images: datasets, forget and retain splits, batches."""

from vision_data import digits, hub_sets, image_folders, imagenet_folders, torchvision_sets
from vision_data.asked_normalisation import AUTO, DATA, NONE, checked_normalisation, in_words, normalisation_of, spelled
from vision_data.forget_request import Division, ForgetRequest, read_indexes
from vision_data.image_set import ImageSet, Normalisation, forward_batch
from vision_data.impl import DATASETS, RawDataset, origin
from vision_data.splits import Splits, load_splits, split

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
    "digits",
    "forward_batch",
    "hub_sets",
    "image_folders",
    "imagenet_folders",
    "in_words",
    "load_splits",
    "normalisation_of",
    "origin",
    "read_indexes",
    "spelled",
    "split",
    "torchvision_sets",
]
