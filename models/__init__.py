"""Architectures, their split around a layer, and masks."""

from lethe import checkout
from lethe.models.contract import check_copies, check_logits, check_trains, fails_on_one
from lethe.models.impl import ARCHITECTURES, build, is_builtin, register
from lethe.models.mask import Mask, apply_mask, check_maskable, lift_mask, switched_off, uncompiled
from lethe.models.masked_layer import (
    MaskedLayer,
    alike,
    evaluating,
    find_layer,
    linear_layers,
    split_at,
    tail_at,
)
from lethe.models.work import step_work
from lethe.registry import import_modules

checkout.alias(__name__)
import_modules(__name__, __path__)

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
    "evaluating",
    "fails_on_one",
    "find_layer",
    "is_builtin",
    "lift_mask",
    "linear_layers",
    "register",
    "split_at",
    "step_work",
    "switched_off",
    "tail_at",
    "uncompiled",
]
