"""Methods of unlearning: each a function in its own file, from a model and its data to an unlearned model."""

from unlearn import default, logit_attribution, mimu, random_mask, sft
from unlearn.amount import Amount, count_of
from unlearn.impl import METHODS, ForgetData, Unlearned, copy_of, masked_layer, register, resolved, unlearn

__all__ = [
    "METHODS",
    "Amount",
    "ForgetData",
    "Unlearned",
    "copy_of",
    "count_of",
    "default",
    "logit_attribution",
    "masked_layer",
    "mimu",
    "random_mask",
    "register",
    "resolved",
    "sft",
    "unlearn",
]
