"""What `test_pretend_device.py` runs in a process of its own, where there is a device `pretend`."""

import copy
import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import audit
import main_baseline
import mlflow_forget
from lethe.data import ForgetRequest, load_splits
from lethe.evaluation import METRICS, needs_of, outputs_of
from lethe.evaluation.impl import OF_MANY
from lethe.models import Mask, apply_mask, build, lift_mask
from lethe.system.device import (
    accelerator,
    check_device_name,
    device_named,
    has_bf16,
    random_state,
    restored_random_state,
    synchronize,
)
from lethe.training import (
    DiskCache,
    Recipe,
    StateFile,
    fit,
    fit_many,
    generator_for,
    load_checkpoint,
    save_checkpoint,
)
from lethe.training.loop import WATCHED
from lethe.training.process_group import own_device
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn
from tests import short_log
from tests.main_job_runs import call
from tests.pretend_device import PretendTensor, install, waits
from tests.saved_models import OLDER, SAFETENSORS, described, mlp
from tests.seeded import states_equal

install()  # before anything computes a gradient

PRETEND, CPU = torch.device("pretend:0"), torch.device("cpu")
REQUEST = ForgetRequest((3,))
SMALL = {"mlp": None, "cnn": {"channels": (4, 8), "hidden": 8}}
every_architecture = pytest.mark.parametrize("arch", SMALL)
ADAMW = Recipe(2, "adamw", lr=3e-3, batch_size=30)
SGD = Recipe(2, "sgd", lr=0.05, batch_size=30)


@functools.cache
def splits():
    """160 images of digits to train on, and 60 each to validate and test."""
    digits, few = load_splits("digits", "nowhere"), torch.arange(60)
    return replace(
        digits,
        train=digits.train.subset(torch.arange(160)),
        validation=digits.validation.subset(few),
        test=digits.test.subset(few),
    )


def new(arch, seed=1):
    return build(arch, (1, 8, 8), 10, seed=seed, options=SMALL[arch])


@functools.cache
def trained(arch, without=None):
    """A model that was trained on the CPU; without the request's images, where one is given."""
    images = splits().train if without is None else without.divide(splits().train, 10, 0).retain
    model = new(arch)
    fit(model, images, replace(ADAMW, epochs=4), generator=generator_for(1, "train"))
    return model


def on(device, model):
    return copy.deepcopy(model).to(device)


def data_on(device, arch, **world):
    ideal = on(device, trained(arch, without=REQUEST))
    oracles = Oracles(lambda seeds: [ideal for _ in seeds], judges=(1,))
    return ForgetData.of(
        splits(),
        REQUEST,
        device=device,
        ideal=lambda: ideal,
        oracles=oracles,
        updates=short_log.updates,
        **world,
    )


def logits(model, device):
    x, _ = next(splits().test.batches(60, device=device))
    with torch.no_grad():
        found = model(x)
    assert found.device == device
    return found.cpu()


def same_numbers(one, other, tolerance=1e-3):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def waits_of(call):
    """Return how often the CPU waited for the device's numbers, and what the call returned."""
    before = waits.total()
    found = call()
    return waits.total() - before, found


# The device itself


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda here: here + torch.ones(3), "expected all tensors on pretend:0"),
        (lambda here: torch.cat([here, torch.ones(3)]), "expected all tensors on pretend:0"),
        (lambda here: torch.stack([here.sum(), torch.tensor(1.0)]), "expected all tensors on pretend:0"),
        (lambda here: torch.zeros(()).add_(here.sum()), "expected an output on pretend:0"),
        (lambda here: torch.ones(3)[here.long()], "expected all tensors on pretend:0"),
        (lambda here: torch.randn(3, device="pretend", generator=generator_for(1)), "type for generator"),
        (lambda here: here.bernoulli_(generator=generator_for(1)), "type for generator"),
    ],
)
def test_it_refuses_what_an_accelerator_refuses(operation, reason):
    with pytest.raises(RuntimeError, match=reason):
        operation(torch.ones(3, device="pretend"))


def test_it_gives_no_array_and_counts_what_leaves_it():
    here = torch.ones(3).to("pretend")
    with pytest.raises(TypeError, match="Use Tensor.cpu"):
        here.numpy()
    assert waits_of(lambda: here[torch.tensor([0, 2])] + torch.tensor(1.0))[0] == 0  # no numbers of its own
    for reads in (here.cpu, here.tolist, here.sum().item, here.nonzero, lambda: here[here > 0]):
        assert waits_of(reads)[0] == 1
    assert waits_of(lambda: torch.zeros(3).copy_(here))[0] == 1


def test_its_random_numbers_are_its_own():
    before, own = torch.get_rng_state(), random_state(PRETEND)["random_pretend"]
    torch.rand(3, device="pretend")
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(random_state(PRETEND)["random_pretend"], own)


# Names


def test_it_is_found_and_named():
    assert device_named("auto") == accelerator() == torch.device("pretend")
    assert device_named("pretend") == PRETEND
    check_device_name("pretend")
    assert has_bf16(PRETEND)
    synchronize(PRETEND)
    with pytest.raises(ValueError, match="--device: expected cpu or a device that is here, got 'cuda'"):
        device_named("cuda")


def test_a_device_without_float64_is_refused(monkeypatch):
    monkeypatch.setattr(PretendTensor, "has_float64", False)
    with pytest.raises(ValueError, match="--device: expected a device with float64, .* 'pretend'. Use cpu"):
        device_named("pretend")
    with pytest.raises(ValueError, match="^expected a device with float64, .* got 'pretend'. Use cpu"):
        ForgetData.of(splits(), REQUEST, device="pretend")


def test_each_of_several_processes_has_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("auto") == own_device("pretend") == "pretend:1"
    with pytest.raises(ValueError, match="--device: expected auto, pretend or cpu for 2 processes"):
        own_device("pretend:0")


# Training


@every_architecture
@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("augment", [(), ("crop", "flip")], ids=["plain", "augmented"])
def test_a_training_is_that_of_the_cpu(arch, recipe, augment):
    models, histories = {}, {}
    for device in (CPU, PRETEND):
        models[device] = new(arch)
        histories[device] = fit(
            models[device],
            splits().train,
            replace(recipe, augment=augment),
            generator=generator_for(1, "train"),
            device=device,
        )
    for here, there in zip(histories[PRETEND], histories[CPU], strict=True):
        assert here == pytest.approx(there, rel=1e-4)
    same_numbers(logits(models[PRETEND], PRETEND), logits(models[CPU], CPU))


def test_a_training_reads_the_losses_once_in_many_steps():
    model, size, epochs = new("mlp"), 4, 2
    recipe = replace(SGD, batch_size=size, epochs=epochs)
    counted, _ = waits_of(
        lambda: fit(model, splits().train, recipe, generator=generator_for(1, "train"), device=PRETEND)
    )
    steps = math.ceil(len(splits().train) / size)
    reads_of_an_epoch = math.ceil(steps / WATCHED) + 1  # the losses, and their sum with the score
    assert counted <= epochs * reads_of_an_epoch + 1  # whether the weights are finite


def with_dropout():
    with restored_random_state(CPU, 1):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10))


class Killed(Exception):
    pass


def killed_after(steps):
    def progress(every, label, total=None):
        for number, step in enumerate(every):
            if number == steps:
                raise Killed
            yield step

    return progress


def test_dropout_resumes_with_the_device_s_random_state(tmp_path):
    recipe = replace(SGD, batch_size=10, epochs=3)

    def run(**how):
        model = with_dropout()
        fit(model, splits().train, recipe, generator=generator_for(1, "train"), device=PRETEND, **how)
        return model

    own = random_state(PRETEND)
    whole = run()
    state = StateFile(tmp_path / "state", {}, every=0.0)
    with pytest.raises(Killed):
        run(state=state, progress=killed_after(45))
    resumed = run(state=state)
    assert torch.equal(logits(resumed, PRETEND), logits(whole, PRETEND))
    for name, value in random_state(PRETEND).items():
        assert torch.equal(value, own[name])


def test_building_a_model_leaves_the_device_s_random_state():
    own = random_state(PRETEND)
    new("cnn")
    for name, value in random_state(PRETEND).items():
        assert torch.equal(value, own[name])


@every_architecture
def test_many_models_at_once_are_those_trained_alone_on_the_cpu(arch):
    train = splits().train
    rows = [torch.arange(k, 150 + k) for k in range(3)]
    at_once = [new(arch, seed=k) for k in range(3)]
    generators = [generator_for(k, "train") for k in range(3)]
    counted, _ = waits_of(
        lambda: fit_many(at_once, train, rows, ADAMW, generators=generators, device=PRETEND)
    )
    tensors = len(list(at_once[0].parameters()))  # whether the last weights are finite
    assert counted <= 2 * ADAMW.epochs + tensors  # losses and scores of an epoch, which has five batches
    for k, model in enumerate(at_once):
        alone = new(arch, seed=k)
        fit(alone, train.subset(rows[k]), ADAMW, generator=generator_for(k, "train"))
        same_numbers(logits(model, PRETEND), logits(alone, CPU))


def test_outputs_leave_the_device_once():
    model, batches = on(PRETEND, trained("cnn")), splits().test.batches(4, device=PRETEND)
    counted, outputs = waits_of(lambda: outputs_of(model, batches))
    assert counted == 2  # logits and labels
    assert outputs.logits.device == CPU


# Methods


def quick(entry):
    """An epoch of many small batches, or a few steps, under whatever name a method counts them."""
    few = {"epochs": 1, "steps": 3, "batch_size": 12, "noise_images": 9, "noise_copies": 2}
    return {
        name: value
        for name in entry.hyperparameters
        for ending, value in few.items()
        if name.endswith(ending)
    }


class CountedProgress:
    """A progress bar that counts how often the CPU waits within each of its steps: an epoch, or one step."""

    def __init__(self):
        self.waits = []

    def __call__(self, steps, label, total=None):
        for step in steps:
            before = waits.total()
            yield step
            self.waits.append(waits.total() - before)


def run(entry, arch, device, **world):
    return unlearn(entry.name, on(device, trained(arch)), data_on(device, arch, **world), **quick(entry))


def same_fact(value):
    return value if isinstance(value, str) else pytest.approx(value, rel=1e-3)


def is_run(entry, arch):
    """A joint name is its method's loop again, with an add-on; CT needs a kernel."""
    return (arch == "mlp" and entry.name != "CT") or (arch == "cnn" and not entry.facts.add_on)


METHODS_HERE = [(entry, arch) for entry in METHODS for arch in SMALL if is_run(entry, arch)]


@pytest.mark.parametrize(
    ("entry", "arch"), METHODS_HERE, ids=[f"{entry.name}-{arch}" for entry, arch in METHODS_HERE]
)
def test_a_method_is_that_of_the_cpu_and_waits_for_no_batch(entry, arch):
    progress = CountedProgress()
    there, here = run(entry, arch, CPU), run(entry, arch, PRETEND, progress=progress)
    same_numbers(logits(here.model, PRETEND), logits(there.model, CPU))
    for own, other in zip(here.history, there.history, strict=True):
        assert own == pytest.approx(other, rel=1e-3, abs=1e-4)
        assert {type(value) for value in own.values()} == {float}
    assert here.facts == {name: same_fact(value) for name, value in there.facts.items()}
    assert (here.mask is None) == (there.mask is None)
    assert here.mask is None or torch.equal(here.mask.keep.cpu(), there.mask.keep)
    assert (
        max(progress.waits, default=0) <= 3
    )  # an epoch has two batches of the forget set, 12 of the retain set


@every_architecture
def test_the_network_of_mimu_comes_from_the_cache(arch, tmp_path):
    settings = quick(METHODS["MIMU"])
    first, again = (
        unlearn(
            "MIMU", on(PRETEND, trained(arch)), data_on(PRETEND, arch, cache=DiskCache(tmp_path)), **settings
        )
        for _ in range(2)
    )
    assert (first.facts["network_cached"], again.facts["network_cached"]) == (0, 1)
    assert torch.equal(first.mask.keep, again.mask.keep)
    assert torch.equal(logits(first.model, PRETEND), logits(again.model, PRETEND))


@every_architecture
def test_mimu_chooses_the_same_mask_by_the_network_that_comes_with_it(arch):
    here, there = (
        unlearn("MIMU", on(device, trained(arch)), data_on(device, arch)) for device in (PRETEND, CPU)
    )
    assert torch.equal(here.mask.keep.cpu(), there.mask.keep)
    same_numbers(logits(here.model, PRETEND), logits(there.model, CPU))


def test_a_mask_is_applied_and_lifted():
    model = on(PRETEND, trained("mlp"))
    name, layer = next((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear))
    before, keep = logits(model, PRETEND), torch.zeros(layer.weight.shape, dtype=torch.bool)
    for mask in (Mask(name, keep), Mask(name, keep.to(PRETEND))):
        apply_mask(model, mask)
        assert logits(model, PRETEND).abs().max() == 0
        lift_mask(model, mask)
        assert torch.equal(logits(model, PRETEND), before)


# Files and commands


@pytest.mark.parametrize("name", [SAFETENSORS, OLDER])
def test_a_checkpoint_goes_to_the_cpu_and_back(name, tmp_path):
    there, here, again = mlp().to(PRETEND), mlp(seed=2), mlp(seed=3).to(PRETEND)
    save_checkpoint(tmp_path / name, there, described())
    load_checkpoint(tmp_path / name, here)
    assert states_equal(here.state_dict(), mlp().state_dict())
    save_checkpoint(tmp_path / name, here, described())
    load_checkpoint(tmp_path / name, again)
    assert {value.device for value in again.state_dict().values()} == {PRETEND}
    assert states_equal(again.state_dict(), there.state_dict())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder for each device: checkpoints and runs of one are not the other's."""
    return {name: tmp_path_factory.mktemp(name) for name in ("cpu", "pretend")}


OF_TIME = ("seconds", "speedup")  # how their names end
RUN = ("--unlearn", "NGPlus", "--unlearn_epochs", "2", "--epochs", "3", "--metrics", "all")
KLOM = ("klom", "--models", "10", "--epochs", "1", "--unlearn", "default")
ULIRA = ("ulira", "--shadows", "16", "--epochs", "1", "--unlearn", "default")


def metrics_of(*inputs):
    """The metrics that need one of these inputs; without any, those of a single run."""
    wanted = set(inputs) or None
    needs = {metric.name: OF_MANY & set(needs_of(metric.function)) for metric in METRICS}
    return {name for name, of_many in needs.items() if (of_many & wanted if wanted else not of_many)}


@pytest.mark.parametrize(
    ("main", "argv", "metrics"),
    [
        (mlflow_forget.main, RUN, metrics_of()),
        (audit.main, KLOM, metrics_of("models", "oracles")),
        (audit.main, ULIRA, metrics_of("shadows")),
    ],
    ids=["a run", "klom", "ulira"],
)
def test_a_command_gives_the_numbers_of_the_cpu(main, argv, metrics, places):
    found = {}
    for name, folder in places.items():
        outcome = call(folder, *argv, "--device", name, main=main)
        assert outcome.code == 0, outcome.err
        assert outcome.params["device"].startswith(name)
        found[name] = {
            metric: value for metric, value in outcome.metrics.items() if not metric.endswith(OF_TIME)
        }
        undefined = {tag.removeprefix("undefined.") for tag in outcome.tags if tag.startswith("undefined.")}
        assert metrics <= outcome.metrics.keys() | undefined
    assert found["pretend"] == pytest.approx(found["cpu"], rel=0.01, abs=0.01)


def test_models_that_were_trained_there_are_loaded_on_the_cpu(places):
    outcome = call(places["pretend"], *RUN, "--device", "cpu")
    assert outcome.code == 0
    assert "train" not in outcome.err


@pytest.mark.parametrize(
    ("main", "argv"), [(mlflow_forget.main, ["--unlearn", "default"]), (main_baseline.main, [])]
)
def test_an_unknown_device_is_refused_in_a_line(main, argv, capsys):
    assert main([*argv, "--device", "pretence"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --device: expected cpu or a device that is here, got 'pretence'")
