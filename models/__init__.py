"""Architectures, their split around a layer, and masks."""

from models import cnn, mlp, published, resnet, resnet9, vgg, vit
from models.contract import check_copies, check_logits, check_trains, fails_on_one
from models.impl import ARCHITECTURES, build, is_builtin
from models.mask import Mask, apply_mask, check_maskable, lift_mask, switched_off, uncompiled
from models.masked_layer import MaskedLayer, alike, evaluating, find_layer, linear_layers, split_at, tail_at

__all__ = [
    "ARCHITECTURES",
    "Mask",
    "MaskedLayer",
    "alike",
    "apply_mask",
    "build",
    "check_copies",
    "check_logits",
    "check_maskable",
    "check_trains",
    "cnn",
    "evaluating",
    "fails_on_one",
    "find_layer",
    "is_builtin",
    "lift_mask",
    "linear_layers",
    "mlp",
    "published",
    "resnet",
    "resnet9",
    "split_at",
    "switched_off",
    "tail_at",
    "uncompiled",
    "vgg",
    "vit",
]
