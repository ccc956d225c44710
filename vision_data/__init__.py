"""Images: datasets, forget and retain splits, batches."""

from vision_data import digits, hub_sets, image_folders, imagenet_folders, torchvision_sets
from vision_data.forget_request import ForgetRequest, read_indexes
from vision_data.image_set import ImageSet, Normalisation, forward_batch
from vision_data.impl import DATASETS, RawDataset, origin
from vision_data.splits import Splits, load_splits, split

__all__ = [
    "DATASETS",
    "ForgetRequest",
    "ImageSet",
    "Normalisation",
    "RawDataset",
    "Splits",
    "digits",
    "forward_batch",
    "hub_sets",
    "image_folders",
    "imagenet_folders",
    "load_splits",
    "origin",
    "read_indexes",
    "split",
    "torchvision_sets",
]
