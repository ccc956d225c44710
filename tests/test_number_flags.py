"""Every number flag of every registry, given what makes no sense: refused in one line, or the run ends finite
or says that it diverged.
"""

import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from lethe.data import DATASETS
from lethe.evaluation import METRICS
from lethe.models import ARCHITECTURES, build
from lethe.training.recipe import FLAGS as RECIPE
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn
from lethe.unlearn.add_ons import ADD_ONS
from tests import short_log
from tests.seeded import seeded

EXTREMES = (math.nan, math.inf, -math.inf, -1, 0, 1e300)


def number_flags(*registries):
    """(entry, flag) of each flag that takes numbers."""
    found = []
    for entry in itertools.chain(*registries):
        numbers = {name: flag for name, flag in entry.hyperparameters.items() if takes_numbers(flag)}
        found += [pytest.param(entry, flag, id=f"{entry.name}-{name}") for name, flag in numbers.items()]
    return pytest.mark.parametrize(("entry", "flag"), found)


def takes_numbers(flag):
    return re.search(r"\b(int|float)\b", str(flag.annotation)) is not None


def values_of(flag):
    """What makes no sense, and the greatest number that the flag takes; of integers that would be a run
    without end.
    """
    most = () if flag.range is None or "float" not in str(flag.annotation) else (flag.range.limit(1.0),)
    return [(value,) if "tuple" in str(flag.annotation) else value for value in (*EXTREMES, *most)]


def is_one_line_of(error, flag):
    return "\n" not in str(error) and f"--{flag.name}" in str(error)


EVERY = number_flags(METHODS, ARCHITECTURES, DATASETS, METRICS, ADD_ONS, [RECIPE])


@EVERY
def test_a_number_flag_has_a_range_or_is_an_amount(entry, flag):
    assert flag.range is not None or "percentage" in flag.expects


@EVERY
def test_a_search_draws_from_the_range(entry, flag):
    if flag.search is None:
        assert flag.name in ("oracle_seed", "topk")  # nothing that one would search
    elif flag.range is not None:
        assert all(
            flag.range.holds(value) for value in (flag.search.low, flag.search.middle, flag.search.high)
        )


# Methods


def network():
    layers = (
        lambda: nn.Conv2d(1, 2, 3, padding=1),
        nn.Flatten,
        lambda: nn.Linear(32, 6),
        nn.ReLU,
        lambda: nn.Linear(6, 3),
    )
    return seeded(lambda: nn.Sequential(*(layer() for layer in layers)))


def data_of():
    x, labels = torch.randn(30, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    oracles = Oracles(lambda seeds: (network() for _ in seeds), judges=(1,))
    data = ForgetData.of_tensors(
        x, labels, labels == 0, ideal=network, oracles=oracles, updates=short_log.updates
    )
    return replace(data, validation=data.retain)


@number_flags(METHODS)
def test_a_method_refuses_it_or_ends(entry, flag):
    for value in values_of(flag):
        try:
            unlearned = unlearn(
                entry.name,
                network(),
                data_of(),
                **few_steps(entry) | beside(entry, flag) | {flag.name: value},
            )
        except ValueError as error:
            assert is_one_line_of(error, flag)
        except FloatingPointError as error:
            assert "\n" not in str(error) and ("diverged" in str(error) or "is not finite" in str(error))
        else:
            assert all(weight.isfinite().all() for weight in unlearned.model.state_dict().values()), value


def few_steps(entry):
    few = {
        "unlearn_epochs": 2,
        "gcn_steps": 2,
        "sft_steps": 2,
        "noise_steps": 2,
        "noise_images": 4,
        "sketch_size": 16,
    }
    return {name: value for name, value in few.items() if name in entry.hyperparameters}


def beside(entry, flag):
    """What else is to be given so that the flag is looked at."""
    if flag.name in ("quantile", "memory", "memory_start", "beta") and "addon" in entry.hyperparameters:
        return {"addon": "GradMask"}
    if flag.name == "momentum" and "scrub_recipe" in entry.hyperparameters:
        return {"scrub_recipe": "large"}
    return {"refine_steps": 2} if flag.name == "refine_lr" else {}


# Architectures


@number_flags(ARCHITECTURES)
def test_an_architecture_refuses_it(entry, flag):
    for value in values_of(flag):
        with pytest.raises(ValueError, match=f"--{flag.name}") as raised:
            build(entry.name, (1, 8, 8), 3, seed=1, options={flag.name: value})
        assert is_one_line_of(raised.value, flag)
