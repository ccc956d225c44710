"""The contract that every registered method keeps."""

import copy
import functools
import random
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from lethe.data import ForgetRequest
from lethe.training import Recipe, fit
from lethe.training.process_group import ProcessGroup
from lethe.unlearn import METHODS, ForgetData, Oracles, Unlearned, copy_of, resolved, unlearn
from tests import short_log
from tests.bars import (
    CLASS_1,
    CLASSES,
    PER_CLASS,
    SEVEN_IMAGES,
    SIZE,
    classifier,
    fixture_model,  # noqa: F401 (a fixture)
    fixture_splits,  # noqa: F401 (a fixture)
    fixture_trained,  # noqa: F401 (a fixture)
    images_of,
    same_bits,
)

every_method = pytest.mark.parametrize("entry", list(METHODS), ids=lambda entry: entry.name)
every_request = pytest.mark.parametrize(
    "request_", [CLASS_1, SEVEN_IMAGES], ids=["whole class", "seven images"]
)


LARGER_STEPS = {"ESC_T": {"unlearn_lr": 30.0}}  # with few epochs of its own steps it removes nothing


def cheap(entry):
    """Few steps and epochs, under whatever name a method counts them."""
    numbers = {
        name: p.default for name, p in entry.hyperparameters.items() if name.endswith(("steps", "epochs"))
    }
    few = {name: 4 if default is None else min(default, 4) for name, default in numbers.items()}
    return few | LARGER_STEPS.get(entry.name, {})


@functools.cache
def retrained(request, seed=0):
    """An ideal model of the request: a short recipe, without the forget set."""
    retain = request.divide(images_of(PER_CLASS, seed=0), CLASSES, 0).retain
    model = classifier()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        fit(
            model,
            retain,
            Recipe(2, "adamw", lr=2e-2, batch_size=20),
            generator=torch.Generator().manual_seed(seed),
        )
    return model


def run(entry, model, splits, request, **world):
    oracles = Oracles(
        lambda seeds: (retrained(request, seed) for seed in seeds), judges=(world.get("seed", 1),)
    )
    needed = {"ideal": lambda: retrained(request), "oracles": oracles, "updates": short_log.updates}
    data = ForgetData.of(splits, request, **needed | world)
    if entry.facts.whole_class and set(data.forget.classes) != set(data.forget_classes):
        with pytest.raises(ValueError, match="whole class"):
            unlearn(entry.name, model, data, **cheap(entry))
        pytest.skip("it refuses a part of a class, as it declares")
    return unlearn(entry.name, model, data, **cheap(entry))


@dataclass(frozen=True)
class Call:
    """One call of a method: the model that it was given, before and after, and what came back."""

    before: nn.Module
    model: nn.Module
    result: Unlearned
    random_states: tuple[tuple[object, ...], tuple[object, ...]]  # the global ones, before and after
    drawn: list[tuple[str, ...]]  # what it drew random numbers for


def random_states():
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), (name, keys.tobytes(), *rest)


def half_frozen(model):
    """In train mode but for one layer, with a weight that wants no gradient: a method may not mind."""
    model = copy.deepcopy(model).train()
    model[2].eval()
    model[1].weight.requires_grad_(False)
    return model


@contextmanager
def other_random_states():
    """Other global random states than everywhere else in these tests."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        random.seed(17)
        np.random.seed(17)
        yield
    random.setstate(python)
    np.random.set_state(arrays)


def called(entry, given, splits, request, seed):
    before, drawn, states = copy.deepcopy(given), [], random_states()
    generator = ForgetData.generator

    def noted(data, *purpose):
        drawn.append(purpose)
        return generator(data, *purpose)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForgetData, "generator", noted)
        result = run(entry, given, splits, request, seed=seed)
    return Call(before, given, result, (states, random_states()), drawn)


@pytest.fixture(scope="module")
def calls(trained, splits):
    """A method's call for a request, made once; no test writes into it."""

    @functools.cache
    def call_of(entry, request, seed=3):
        return called(entry, half_frozen(trained), splits, request, seed)

    return call_of


def test_the_model_of_these_tests_has_learned_something(trained, splits):
    (x, y) = next(splits.train.batches(1000))
    assert (trained(x).argmax(1) == y).float().mean() > 0.95


# The contract


@every_method
@every_request
def test_the_input_model_is_untouched(entry, request_, calls):
    call = calls(entry, request_)
    before, model = call.before, call.model
    assert same_bits(model.state_dict(), before.state_dict())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@every_method
@every_request
def test_the_output_differs_unless_the_method_leaves_the_weights(entry, request_, calls):
    result = calls(entry, request_).result
    says_so = entry.facts.leaves_weights or "unchanged" in result.facts
    assert same_bits(result.model.state_dict(), calls(entry, request_).before.state_dict()) == says_so


@every_method
def test_no_method_leaves_the_weights_where_a_whole_class_goes(entry, calls):
    assert "unchanged" not in calls(entry, CLASS_1).result.facts


@every_method
@every_request
def test_the_output_is_the_same_architecture_with_finite_weights_in_eval_mode(entry, request_, calls):
    result, model = calls(entry, request_).result, calls(entry, request_).before
    inner = result.model.model if entry.facts.wraps else result.model
    before, after = model.state_dict(), inner.state_dict()
    assert isinstance(result, Unlearned)
    assert [(k, v.shape, v.dtype) for k, v in after.items()] == [
        (k, v.shape, v.dtype) for k, v in before.items()
    ]
    assert repr(inner) == repr(model)
    assert all(value.isfinite().all() for value in after.values())
    assert not any(m.training for m in result.model.modules())
    assert all(p.requires_grad for p in result.model.parameters())


@every_method
@every_request
def test_the_output_shares_no_memory_with_the_input(entry, request_, calls):
    def memory(model):
        return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    call = calls(entry, request_)
    assert not memory(call.result.model) & memory(call.model)


@every_method
@every_request
def test_the_output_carries_no_gradients(entry, request_, calls):
    result = calls(entry, request_).result
    assert [name for name, p in result.model.named_parameters() if p.grad is not None] == []


@every_method
@every_request
def test_a_seed_decides_every_bit(entry, request_, calls, model, splits):
    """The global random states decide nothing, and neither does the mode in which the model comes."""
    first = calls(entry, request_).result
    with other_random_states():
        again = run(entry, model, splits, request_, seed=3)
    assert same_bits(first.model.state_dict(), again.model.state_dict())
    assert first.history == again.history
    assert first.facts == again.facts
    assert (first.mask is None) == (again.mask is None)
    assert first.mask is None or torch.equal(first.mask.keep, again.mask.keep)


@pytest.mark.slow
@every_method
@every_request
def test_another_seed_gives_another_result_where_the_method_draws_anything(entry, request_, calls):
    one, other = calls(entry, request_), calls(entry, request_, seed=4)
    same_weights = same_bits(one.result.model.state_dict(), other.result.model.state_dict())
    same = same_weights and one.result.history == other.result.history
    drawn = one.drawn + other.drawn
    assert same == (not drawn and "oracles" not in entry.facts.needs)  # which oracle, the seed decides


@every_method
@every_request
def test_the_global_random_state_is_left_alone(entry, request_, calls):
    before, after = calls(entry, request_).random_states
    assert before == after


@pytest.mark.slow
@every_method
@pytest.mark.parametrize(
    "request_",
    [ForgetRequest((0, 1, 2)), ForgetRequest(indexes=(4,)), ForgetRequest((2,), number=29)],
    ids=["three of four", "one", "all but one"],
)
def test_a_forget_set_of_any_size_works(entry, request_, model, splits):
    result = run(entry, model, splits, request_)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    says_so = entry.facts.leaves_weights or "unchanged" in result.facts
    assert same_bits(result.model.state_dict(), model.state_dict()) == says_so


@every_method
@pytest.mark.parametrize("name", ["forget", "retain"])
def test_an_empty_set_is_refused_if_it_is_needed(entry, name, model, splits):
    if name not in entry.facts.needs:
        return  # test_needs.py
    data = ForgetData.of(splits, CLASS_1)
    nothing = splits.train.subset(torch.zeros(len(splits.train), dtype=torch.bool))
    with pytest.raises(ValueError, match=f"the {name} set: expected at least one image, got none"):
        unlearn(entry.name, model, replace(data, **{name: nothing}), **cheap(entry))


@every_method
def test_a_flag_that_it_does_not_have_is_refused(entry, model, splits):
    reason = rf"unknown flag of {entry.name} '--no_such_flag'.*[Ff]lags of {entry.name}: "
    with pytest.raises(ValueError, match=reason) as raised:
        unlearn(entry.name, model, ForgetData.of(splits, CLASS_1), no_such_flag=1)
    assert all(f"--{name}" in str(raised.value) for name in entry.hyperparameters)


learns_at_a_rate = [entry for entry in METHODS if "unlearn_lr" in entry.hyperparameters]


@pytest.mark.parametrize("entry", learns_at_a_rate, ids=lambda entry: entry.name)
def test_a_learning_rate_that_no_weight_can_hold_is_refused(entry, model, splits):
    data = ForgetData.of(splits, CLASS_1)
    message = r"^--unlearn_lr: expected a number > 0.* and at most 3e\+37, got 1e\+39\. Give e\.g\. "
    with pytest.raises(ValueError, match=message):
        unlearn(entry.name, model, data, unlearn_lr=1e39)
    with pytest.raises(ValueError, match=message):
        resolved(entry.name, model, data, {"unlearn_lr": 1e39})
    with pytest.raises(ValueError, match=message):
        entry.function(model, data, unlearn_lr=1e39)


@every_method
def test_the_docstring_is_the_help(entry):
    assert entry.summary.endswith(".")
    assert [name for name, p in entry.hyperparameters.items() if not p.help] == []


@every_method
def test_every_default_is_of_its_own_type(entry):
    assert [name for name, p in entry.hyperparameters.items() if p.required] == []
    assert {name: p.check(p.default) for name, p in entry.hyperparameters.items()} == entry.settings({})


@every_method
def test_amounts_and_what_depends_on_other_flags_are_resolved_before_the_method_runs(entry, model, splits):
    data = ForgetData.of(splits, CLASS_1)
    found = resolved(entry.name, model, data, entry.settings({}))
    counts = {name: value for name, value in found.items() if name.endswith("_count")}
    amounts = {name for name in entry.hyperparameters if name in ("topk", "kappa")}
    known = {name for name in amounts if entry.hyperparameters[name].default != "auto"}
    assert counts.keys() == {f"{name}_count" for name in known}
    assert all(1 <= count <= SIZE for count in counts.values())
    assert all(value is not None for value in found.values())
    defaults = {name: entry.hyperparameters[name].default for name in found.keys() - counts.keys()}
    assert all(default is None or default == found[name] for name, default in defaults.items())


@every_method
def test_a_returned_mask_is_the_change_of_the_model(entry, calls, model, splits):
    result = calls(entry, CLASS_1).result
    if result.mask is None:
        return
    expected = copy_of(model)
    with torch.no_grad():
        expected.get_submodule(result.mask.layer).weight[~result.mask.keep] = 0.0
    assert same_bits(result.model.state_dict(), expected.state_dict())
    counts = resolved(entry.name, model, ForgetData.of(splits, CLASS_1), entry.settings({}))
    if entry.hyperparameters["kappa"].default != "auto":
        assert result.mask.kappa_count == counts["kappa_count"]


def test_an_unknown_method_gets_the_nearest_name(model, splits):
    reason = r"unknown method 'MIMO'\. Did you mean 'MIMU'\? Methods: .*random_mask"
    with pytest.raises(ValueError, match=reason):
        unlearn("MIMO", model, ForgetData.of(splits, CLASS_1))


# default


@pytest.mark.parametrize("name", ["default", "raw", "do_nothing", "original", "DEFAULT"])
def test_default_is_the_initial_model(name, model, splits):
    result = unlearn(name, model, ForgetData.of(splits, CLASS_1))
    (x, _) = next(splits.test.batches(100))
    assert result.model is not model
    assert torch.equal(result.model(x), model(x))


# Several processes


@dataclass(frozen=True)
class Echo(ProcessGroup):
    """The first of two processes that send the same; `sent` is what it has sent."""

    size: int = 2
    sent: list[torch.Tensor] = field(default_factory=list)

    def all_reduce(self, values):
        self.sent.append(values)
        return values.mul_(2)

    def all_gather(self, values):
        self.sent.append(values)
        return [values, values]


@every_method
def test_a_method_declares_whether_processes_share_its_batches(entry, model, splits):
    group = Echo()
    run(entry, model, splits, CLASS_1, group=group)
    assert bool(group.sent) == entry.facts.parallel
