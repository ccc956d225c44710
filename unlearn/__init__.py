"""Methods of unlearning: each a function in its own file, from a model and its data to an unlearned model.

Importing the package imports every file in it, so that a new method is there as soon as its file is.
"""

from lethe import checkout
from lethe.registry import import_modules
from lethe.unlearn.amount import Amount, count_of
from lethe.unlearn.impl import (
    METHODS,
    ForgetData,
    Refused,
    Unlearned,
    check_model,
    copy_of,
    forget,
    masked_layer,
    register,
    resolved,
    unlearn,
)
from lethe.unlearn.oracles import Oracles

checkout.alias(__name__)
import_modules(__name__, __path__)

__all__ = [
    "METHODS",
    "Amount",
    "ForgetData",
    "Oracles",
    "Refused",
    "Unlearned",
    "check_model",
    "copy_of",
    "count_of",
    "forget",
    "masked_layer",
    "register",
    "resolved",
    "unlearn",
]
