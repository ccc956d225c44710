"""The settings of a training: what each means, how flags change them, and what keeps models of different
settings apart.
"""

import copy
import math
from dataclasses import astuple, replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional as F

import main_baseline
import main_ideal
from lethe.command_line import progress_bar
from lethe.data import ImageSet, Normalisation
from lethe.data.augmentation import Moves, augmentations
from lethe.experiment import pipeline
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.identity import config_hash_of, run_params
from lethe.experiment.model_sets import train_set
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.models import build
from lethe.system.device import CPU
from lethe.training import Recipe, StateFile, fit, fit_many, generator_for, load_checkpoint, model_digest
from lethe.training.checkpoints import checkpoint_metadata
from lethe.training.precision import Precision, deterministic, precision_of, seconds_of
from lethe.training.recipe import FLAGS, changed, differences, optimizer_of, schedule_of

SHAPE = (1, 8, 8)


def tiny(count=12, shape=SHAPE):
    pixels = torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageSet(
        pixels,
        torch.arange(count) % 3,
        torch.arange(count),
        Normalisation((0.5,) * shape[0], (0.25,) * shape[0]),
    )


def trained(recipe, arch="mlp", images=None):
    images = images or tiny()
    model = build(arch, images.image_shape, 10, seed=1)
    return model, fit(model, images, recipe, generator=generator_for(1, "train"))


# Steps by hand


def test_cosine_is_half_a_cosine_from_lr_to_0():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = schedule_of(optimizer, Recipe(3, lr=0.3, batch_size=5, schedule="cosine"), 12)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.15 * (1 + math.cos(math.pi * step / 9)) for step in range(9)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_a_step_with_label_smoothing_by_hand():
    images, recipe = (
        tiny(),
        Recipe(1, "sgd", lr=0.2, batch_size=12, label_smoothing=0.3, weight_decay=0.0, schedule="cosine"),
    )
    model = build("mlp", SHAPE, 10, seed=1, options={"hidden": ()})
    weight = model.linear1.weight.detach().clone()
    x, y = next(images.batches(12))
    target = 0.7 * F.one_hot(y, 10) + 0.03
    probabilities = (x.flatten(1) @ weight.T).softmax(1)
    gradient = (probabilities - target).T @ x.flatten(1) / 12
    (epoch,) = fit(model, images, recipe, generator=generator_for(1))
    torch.testing.assert_close(
        model.linear1.weight.detach(), weight - 0.2 * 1.9 * gradient
    )  # Nesterov's first step: 1 + momentum
    assert epoch["loss"] == pytest.approx(-(target * probabilities.log()).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize(
    "how",
    [
        {"precision": "bf16"},
        {"memory_format": "channels_last"},
        {"precision": "bf16", "memory_format": "channels_last"},
    ],
)
def test_a_faster_step_is_nearly_the_same(arch, how, digits):
    recipe = Recipe(2, "adamw", lr=3e-3)
    model, history = trained(replace(recipe, **how), arch, digits.train)
    _, plain = trained(recipe, arch, digits.train)
    assert history[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=0.1)
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())


def test_channels_last_and_bf16_reach_the_model():
    seen = []

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            h = self.conv(x)
            seen.append((x.is_contiguous(memory_format=torch.channels_last), h.dtype))
            return self.out(h.mean((2, 3)))

    recipe = Recipe(1, precision="bf16", memory_format="channels_last")
    fit(Looks(), tiny(shape=(3, 8, 8)), recipe, generator=generator_for(1))
    assert seen == [(True, torch.bfloat16)]


def test_dropout_depends_on_the_seed_alone():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    digests = []
    for seed in (1, 1, 2):
        torch.rand(3)
        one = copy.deepcopy(model)
        fit(one, tiny(), Recipe(1, batch_size=12), generator=generator_for(seed))
        digests.append(model_digest(one))
    assert digests[0] == digests[1] != digests[2]


def test_many_models_with_settings_of_their_own_are_those_trained_alone(digits):
    few = digits.train.subset(torch.arange(60))
    recipe = Recipe(1, "adamw", lr=3e-3, label_smoothing=0.2, augment=("cutout",), schedule="cosine")
    models = [build("mlp", SHAPE, 10, seed=k) for k in range(2)]
    fit_many(models, few, [torch.arange(60)] * 2, recipe, generators=[generator_for(k) for k in range(2)])
    for k, model in enumerate(models):
        alone = build("mlp", SHAPE, 10, seed=k)
        fit(alone, few, recipe, generator=generator_for(k))
        torch.testing.assert_close(model.state_dict(), alone.state_dict())


# Divergence


def test_a_loss_that_is_not_finite_stops_at_its_step():
    steps = []

    def counting(every, label):
        for step in every:
            steps.append(step)
            yield step

    model = build("mlp", SHAPE, 10, seed=1)
    remedy = r"Choose a smaller --train_lr \(it is 1e\+30\)"
    line = rf"training diverged in epoch 1: the loss is (nan|inf) at step [2-4] of 4. {remedy}"
    with pytest.raises(FloatingPointError, match=line):
        fit(model, tiny(), Recipe(5, lr=1e30, batch_size=3), generator=generator_for(1), progress=counting)
    assert len(steps) <= 4


@pytest.mark.parametrize("many", [False, True])
def test_a_last_step_that_ruins_the_weights_is_noticed(many, tmp_path):
    model, recipe = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        Recipe(1, lr=3e37, weight_decay=1e4, batch_size=60),
    )
    images, state = tiny(), StateFile(tmp_path / "state", {}, every=0.0)
    reason = r"training diverged in epoch 1: a weight is not finite after .*smaller --train_lr"
    with pytest.raises(FloatingPointError, match=reason):
        if many:
            fit_many([model], images, [torch.arange(len(images))], recipe, generators=[generator_for(1)])
        else:
            fit(model, images, recipe, generator=generator_for(1), state=state)
    assert not state.path.exists()


# Deterministic operations


class WithoutDeterministicForm(nn.Module):
    """A layer whose operation torch has no deterministic form of, on a CPU neither."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1).clone().put_(torch.tensor([0]), torch.zeros(1)))


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("many", [False, True])
def test_an_operation_without_a_deterministic_form_is_one_line(many, precision, digits):
    recipe = Recipe(1, deterministic=True, precision=precision)
    remedy = "Leave the flag out, or choose another --arch"
    says = rf"--train_deterministic: expected operations .* got put_\. {remedy}$"
    with pytest.raises(ValueError, match=says):
        if many:
            fit_many(
                [WithoutDeterministicForm()],
                digits.train,
                [torch.arange(9)],
                recipe,
                generators=[generator_for(1)],
            )
        else:
            fit(WithoutDeterministicForm(), digits.train, recipe, generator=generator_for(1))
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_errors_of_deterministic_mode_pass():
    with pytest.raises(RuntimeError, match="something else"), deterministic(True):
        raise RuntimeError("something else")


# The fastest precision, memory format and compiling


def test_the_fastest_way_is_taken(monkeypatch):
    seconds = {
        Precision(): 3.0,
        Precision(bf16=True): 2.0,
        Precision(channels_last=True): 1.0,
        Precision(bf16=True, channels_last=True): 4.0,
    }
    monkeypatch.setattr(
        "lethe.training.precision.seconds_of", lambda precision, *_: (9.0, seconds[precision])
    )
    recipe = Recipe(1, precision="auto", memory_format="auto")

    def batch():
        return torch.zeros(1), torch.zeros(1)

    assert precision_of(recipe, nn.Flatten(), batch, 1) == Precision(channels_last=True)
    assert precision_of(replace(recipe, memory_format="contiguous"), nn.Flatten(), batch, 1) == Precision(
        bf16=True
    )


@pytest.mark.parametrize(
    ("times", "found"),
    [
        ([0.96] * 30, Precision()),
        ([3.0, 0.9, 3.0] * 10, Precision(bf16=True)),
        ([3.0] * 29 + [0.9], Precision(bf16=True)),
    ],
)
def test_another_way_than_plain_float32_has_to_be_clearly_faster_in_its_best_measurement(
    times, found, monkeypatch
):
    answers = iter(times)
    monkeypatch.setattr(
        "lethe.training.precision.seconds_of",
        lambda precision, *_: (0.0, next(answers) if precision.bf16 else 1.0),
    )
    batch = (torch.zeros(1), torch.zeros(1))
    assert precision_of(Recipe(1, precision="auto"), nn.Flatten(), lambda: batch, 1) == found


def test_measurements_that_take_long_are_few(monkeypatch):
    now, asked = [0.0], []

    def measured(precision, *_):
        now[0] += 1.0
        asked.append(precision)
        return 9.0, 1.0

    monkeypatch.setattr("lethe.training.precision.seconds_of", measured)
    monkeypatch.setattr("lethe.training.precision.time.perf_counter", lambda: now[0])
    precision_of(
        Recipe(1, precision="auto", memory_format="auto"),
        nn.Flatten(),
        lambda: (torch.zeros(1), torch.zeros(1)),
        1,
    )
    assert len(asked) == 4


@pytest.mark.parametrize(
    "precision", [Precision(*flags) for flags in product((False, True), repeat=3)], ids=str
)
def test_the_words_of_a_precision_are_its_name(precision):
    assert Precision.named(str(precision)) == precision
    auto = Recipe(1, precision="auto", memory_format="auto", compile="auto")
    settled = precision.settled(auto, CPU)
    assert (
        settled.precision == "bf16",
        settled.memory_format == "channels_last",
        settled.compile == "auto",
    ) == astuple(precision)
    assert precision.settled(Recipe(1), CPU) == Recipe(1)


@pytest.mark.parametrize(("steps", "compiled"), [(9, False), (20, True)])
def test_compiling_is_chosen_where_it_pays(steps, compiled, monkeypatch):
    monkeypatch.setattr(
        "lethe.training.precision.seconds_of",
        lambda precision, *_: (10.0, 1.0) if precision.compiled else (0.0, 2.0),
    )
    found = precision_of(
        Recipe(1, compile="auto"), nn.Flatten(), lambda: (torch.zeros(1), torch.zeros(1)), steps
    )
    assert found.compiled == compiled


def no_compiler(model):
    def called(x):
        raise TorchDynamoException("No working C++ compiler\nat all")

    return called


def test_without_a_compiler_nothing_is_compiled(monkeypatch, digits):
    monkeypatch.setattr(torch, "compile", no_compiler)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    says = r"--train_compile: this model can't be compiled here \(No working C\+\+ compiler\). Choose no"
    with pytest.warns(UserWarning, match=says):
        assert (
            precision_of(Recipe(1, compile="auto"), model, lambda: next(digits.train.batches(4)), 99)
            == Precision()
        )
    with pytest.raises(ValueError, match=says):
        fit(model, digits.train, Recipe(1, compile="yes"), generator=generator_for(1))


def test_measuring_leaves_model_and_random_state_alone(digits):
    model = build("cnn", SHAPE, 10, seed=1).train()
    before, state = model_digest(model), torch.get_rng_state()
    first, each = seconds_of(
        Precision(bf16=True, channels_last=True), model, *next(digits.train.batches(32)), Recipe(1)
    )
    assert first > 0 and each > 0
    assert model_digest(model) == before and torch.equal(torch.get_rng_state(), state)


def test_auto_trains_and_says_how(digits, tmp_path):
    config = BaseConfig(
        epochs=1, save_dir=tmp_path, training={"train_precision": "auto", "train_memory_format": "auto"}
    )
    metadata = BaseModels(config).initial().metadata
    assert metadata.computed in {
        f"{p} {m}" for p in ("float32", "bf16") for m in ("contiguous", "channels_last")
    }
    assert metadata.training == dict(config.training)


AUTO = {"train_precision": "auto", "train_memory_format": "auto"}


@pytest.mark.parametrize("first", ["initial", "ideal"])
def test_models_that_are_compared_are_computed_in_one_way(first, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lethe.training.loop.precision_of", lambda *_: Precision(bf16=True, channels_last=True)
    )
    config = BaseConfig(epochs=1, save_dir=tmp_path, training=AUTO)
    getattr(BaseModels(config), first)()
    precisions = []
    monkeypatch.setattr(
        "lethe.training.loop.precision_of",
        lambda recipe, *others: precisions.append(recipe) or precision_of(recipe, *others),
    )
    monkeypatch.setattr("lethe.training.many.precision_of", None)
    base = BaseModels(config)
    others = [base.initial(), base.ideal()]
    assert [made.metadata.computed for made in others] == ["bf16 channels_last"] * 2
    assert (precisions[0].precision, precisions[0].memory_format) == ("bf16", "channels_last")
    train_set(base, "oracles", 2)
    assert (
        all((recipe.precision, recipe.memory_format) == ("bf16", "channels_last") for recipe in precisions)
        and len(precisions) == 2
    )


def test_a_way_that_this_machine_can_not_compute_is_measured_anew(monkeypatch):
    recipe, theirs = (
        Recipe(1, precision="auto", memory_format="auto", compile="auto"),
        Precision(bf16=True, channels_last=True, compiled=True),
    )
    here = theirs.settled(recipe, CPU)
    assert (here.precision, here.memory_format, here.compile) == ("bf16", "channels_last", "auto")
    monkeypatch.setattr("lethe.training.precision.has_bf16", lambda device: False)
    here = theirs.settled(recipe, CPU)
    assert (here.precision, here.memory_format, here.compile) == ("auto", "channels_last", "auto")


def test_many_models_are_measured_once(digits, monkeypatch):
    asked = []
    monkeypatch.setattr("lethe.training.many.precision_of", lambda *_: asked.append(1) or Precision())
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(3)]
    fit_many(
        models,
        digits.train,
        [torch.arange(8)] * 3,
        Recipe(1, precision="auto"),
        generators=[generator_for(k) for k in range(3)],
    )
    assert asked == [1]


def test_deterministic_mode_is_not_ended_by_a_thread_for_the_others(digits, monkeypatch):
    entered, seen = [], []

    def once(wanted):
        entered.append(wanted)
        return deterministic(wanted)

    def watched(model, kept, recipe, *, progress, **others):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return list(progress(range(1), ""))

    monkeypatch.setattr("lethe.training.many.deterministic", once)
    monkeypatch.setattr("lethe.training.many.fit", watched)
    rows, recipe = [torch.arange(8)] * 3, Recipe(1, deterministic=True)
    fit_many([nn.Linear(1, 1) for _ in rows], digits.train, rows, recipe, generators=[generator_for(1)] * 3)
    assert entered == [True] and seen == [True] * 3


def test_many_models_that_diverge_are_a_mistake_in_the_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main_ideal.main(["--oracles", "2", "--epochs", "1", "--train_lr", "1e30"]) == 2
    assert (
        "error: training diverged in epoch 1: the loss is nan. Choose a smaller --train_lr (it is 1e+30)"
        in capsys.readouterr().err
    )


def test_deterministic_mode_lasts_as_long_as_the_training():
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    trained(Recipe(1, deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()


# Augmentation


@settings(max_examples=25)
@given(seed=st.integers(0, 99), height=st.integers(4, 20), width=st.integers(4, 20))
def test_cutout_is_a_square_of_the_mean_colour(seed, height, width):
    images = torch.full((3, 2, height, width), 200, dtype=torch.uint8)
    moves = Moves.drawn(3, height, torch.Generator().manual_seed(seed), ("cutout",))
    found = moves(images, Normalisation((0.1, 0.2), (1.0, 1.0)))
    half = max(1, height // 4) / 2
    for image, (row, column) in zip(found, moves.holes, strict=True):
        for y in range(height):
            for x in range(width):
                inside = abs(y + 0.5 - row * height) <= half and abs(x + 0.5 - column * width) <= half
                assert (image[:, y, x] == 0).all() == inside
    assert (found == 0)[:, 0].sum((1, 2)).min() >= 1 or half < 1


@pytest.mark.parametrize("kinds", [("crop",), ("flip",), ("crop", "flip")])
def test_a_kind_that_is_not_asked_for_does_nothing(kinds):
    moves = Moves.drawn(50, 16, torch.Generator().manual_seed(0), kinds)
    assert (moves.down.unique().tolist() == [2]) == ("crop" not in kinds)
    assert moves.mirrored.any() == ("flip" in kinds)
    assert moves.holes is None


def test_without_a_kind_images_stay_as_they_are():
    images = tiny().images
    assert torch.equal(Moves.drawn(12, 8, torch.Generator(), ())(images), images)
    assert augmentations(True) == ("crop", "flip") and augmentations(False) == ()


def test_an_unknown_kind_is_refused():
    reason = "--train_augment: augmentation: expected some of crop, flip, cutout, got 'mixup'"
    with pytest.raises(ValueError, match=reason):
        Recipe(1, augment=("mixup",))


# Flags


def test_the_flags_change_the_recipe_and_its_differences_name_them():
    usual = Recipe(3, "adamw", lr=0.1, augment=True)
    given = {
        "train_lr": 0.2,
        "train_augment": ("none",),
        "train_schedule": "cosine",
        "train_optimizer": "adamw",
    }
    recipe = changed(usual, **FLAGS.settings(given))
    assert recipe == Recipe(3, "adamw", lr=0.2, augment=(), schedule="cosine")
    assert differences(recipe, usual) == {
        "train_lr": 0.2,
        "train_augment": ("none",),
        "train_schedule": "cosine",
    }
    assert differences(changed(usual, train_augment=("crop", "flip")), usual) == {}


def test_every_setting_has_a_flag():
    assert {f"train_{name}" for name in Recipe.__dataclass_fields__} - {"train_epochs"} == set(
        FLAGS.hyperparameters
    )


def test_optimisers_have_the_settings():
    optimizer = optimizer_of([nn.Parameter(torch.zeros(1))], Recipe(1, "adamw", lr=0.5, weight_decay=0.25))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.5, 0.25)


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """The exit code and the line of main_baseline.py, which left nothing behind."""
    monkeypatch.chdir(tmp_path)

    def run(*words, main=main_baseline.main):
        code = main(list(words))
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--train_lr", "0"], "--train_lr: expected a number > 0, got 0.0"),
        (["--train_lr", "nan"], "--train_lr: expected a number > 0, got 'nan'"),
        (["--train_lr", "fast"], "--train_lr: expected a number > 0, got 'fast'"),
        (["--train_optimizer", "adam"], "--train_optimizer: expected one of sgd, adamw or none, got 'adam'"),
        (["--train_batch_size", "0"], "--train_batch_size: expected an integer >= 1, got 0"),
        (["--train_weight_decay", "-1"], "--train_weight_decay: expected a number >= 0, got -1.0"),
        (
            ["--train_label_smoothing", "1"],
            "--train_label_smoothing: expected a number from 0 to below 1, got 1.0",
        ),
        (["--train_augment", "crop,mixup"], "--train_augment: expected one of crop, flip, cutout, none"),
        (
            ["--train_augment", "none,crop"],
            "--train_augment: expected none alone, or some of crop, flip, cutout, got none,crop",
        ),
        (["--train_schedule", "step"], "--train_schedule: expected one of one_cycle, cosine, got 'step'"),
        (["--train_precision", "fp8"], "--train_precision: expected one of float32, bf16, auto, got 'fp8'"),
        (
            ["--train_memory_format", "x"],
            "--train_memory_format: expected one of contiguous, channels_last, auto",
        ),
        (["--train_compile", "maybe"], "--train_compile: expected one of no, yes, auto"),
        (["--train_deterministic", "2"], "--train_deterministic: expected true or false, got '2'"),
        (["--lr", "0.1"], "unknown flag '--lr'"),
        (
            ["--train_lr", "1e30", "--train_optimizer", "sgd"],
            "training diverged in epoch 1: the loss is nan at step",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(words, line, said, tmp_path):
    code, error = said(*words)
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and line in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


# Checkpoints of different settings


def test_the_name_holds_the_settings_that_are_not_the_usual_ones(tmp_path):
    def name(**training):
        return BaseModels(BaseConfig(epochs=2, save_dir=tmp_path, training=training)).initial_path.name

    assert name() == "1mlp_ep2.safetensors"
    assert name(train_lr=3e-3) == "1mlp_ep2.safetensors"  # the architecture's own
    assert (
        name(train_lr=0.01, train_augment=("crop", "flip")) == "1mlp_ep2_augmentcrop-flip_lr0.01.safetensors"
    )


def test_the_name_of_a_published_architecture_is_a_files(tmp_path):
    base = BaseModels(BaseConfig(arch="torchvision:shufflenet_v2_x0_5", epochs=2, save_dir=tmp_path))
    assert base.initial_path.name == "1torchvision-shufflenet_v2_x0_5_ep2.safetensors"


def test_a_checkpoint_of_other_settings_is_refused(said, tmp_path):
    assert said("--epochs", "1", "--checkpoint", "mine.safetensors", "--train_lr", "0.01")[0] == 0
    code, error = said("--epochs", "1", "--checkpoint", "mine.safetensors", "--train_lr", "0.02")
    assert code == 2
    assert "expected a checkpoint with training {'train_lr'" in error and "Ask for --train_lr 0.01" in error


def test_a_checkpoint_of_the_usual_settings_is_refused_where_others_are_asked_for(said):
    assert said("--epochs", "1", "--checkpoint", "mine.safetensors")[0] == 0
    code, error = said("--epochs", "1", "--checkpoint", "mine.safetensors", "--train_lr", "0.02")
    assert code == 2 and "Ask for fewer training flags" in error


def test_the_ideal_model_is_trained_as_the_given_checkpoint_was(said):
    words = ("--epochs", "1", "--checkpoint", "mine.safetensors")
    assert said(*words, "--train_lr", "0.01", "--train_schedule", "cosine")[0] == 0
    assert said(*words, main=main_ideal.main)[0] == 0
    (ideal,) = Path("results/digits").glob("*ideal*.safetensors")
    assert checkpoint_metadata(ideal).training == {"train_lr": 0.01, "train_schedule": "cosine"}


def test_a_checkpoint_from_before_there_was_a_choice_is_accepted(tmp_path):
    base = BaseModels(BaseConfig(epochs=1, save_dir=tmp_path))
    trained = base.initial()
    assert load_checkpoint(trained.path, base.untrained()).training == {}


def test_the_command_of_the_ideal_model_has_the_settings(tmp_path):
    config = BaseConfig(
        epochs=1, save_dir=tmp_path, training={"train_lr": 0.01, "train_augment": ("crop", "cutout")}
    )
    command = BaseModels(config).ideal_command()
    assert "--train_augment crop,cutout --train_lr 0.01" in command


def test_settings_are_part_of_the_config_hash_and_the_params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "check_store", lambda _: None)
    hashes = {}
    for name, training in (
        ("usual", {}),
        ("the same", {"train_schedule": "one_cycle"}),
        ("other", {"train_schedule": "cosine"}),
    ):
        job = Pipeline(PipelineConfig("default", base=BaseConfig(epochs=1, training=training)))
        initial = pipeline.Trained(job.base.untrained(), tmp_path, None, True, 0.0, [])
        hashes[name] = config_hash_of(job.checked, initial, None)
        assert run_params(job.checked)["train_schedule"] == ("cosine" if name == "other" else "one_cycle")
    assert hashes["usual"] == hashes["the same"] != hashes["other"]


# Progress


def test_the_bar_says_loss_score_images_a_second_and_time_left(capsys, digits):
    def bar(steps, label, total=None):
        shown = progress_bar(steps, label, total)
        shown.delay, shown.mininterval, shown.miniters, shown.dynamic_miniters = 0, 0, 1, False
        return shown

    fit(
        build("mlp", SHAPE, 10, seed=1),
        digits.train,
        Recipe(3, "adamw"),
        generator=generator_for(1),
        progress=bar,
        label="initial model",
    )
    text = capsys.readouterr().err
    assert "initial model" in text
    assert any(
        all(word in line for word in ("loss ", " %, ", " images/s", "<")) for line in text.splitlines()
    )


def test_in_a_file_each_update_of_a_bar_is_a_line(capsys):
    shown = progress_bar(range(3), "steps")
    shown.delay, shown.mininterval, shown.miniters, shown.dynamic_miniters = 0, 0, 1, False
    assert list(shown) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and all(line.startswith("steps: ") for line in lines)
    assert "\r" not in "".join(lines)
