"""What tests/test_distributed.py has torchrun's agent start twice: main_baseline.py, mlflow_forget.py,
methods whose weights are written down, and trainings whose histories are.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

import main_baseline
import mlflow_forget
from lethe.data import load_splits
from lethe.models import build
from lethe.training import StateFile, fit, generator_for, model_digest
from lethe.training.process_group import joined
from lethe.training.recipe import Recipe
from tests.unlearned_together import weights_of_all

RECIPES = {
    "mlp": Recipe(4, "adamw", lr=3e-3, weight_decay=1e-2),
    "mlp augmented": Recipe(2, lr=0.05, augment=("crop", "cutout"), label_smoothing=0.1, schedule="cosine"),
    "cnn": Recipe(3, "adamw", lr=3e-3),
}
WORDS = ["--epochs", "5", "--save_dir", "results"]
RUN = (
    "--unlearn RL --unlearn_epochs 2 --batch_size 101 --unlearn_lr 0.005 0.01 --report skip --ideal skip "
    "--metrics retain_loss --arch cnn --epochs 2 --save_dir cnn"
).split()


def trained(arch, recipe, group=None, **options):
    """The history and the model of one training on digits."""
    train = load_splits("digits", ".").train
    model = build(arch, train.image_shape, 10, seed=1)
    own = {} if group is None else {"group": group}
    return fit(model, train, recipe, generator=generator_for(1, "train"), **own, **options), model


def resumed(group):
    """The first recipe, stopped in the middle of its second epoch, and gone on with."""

    def stopped(steps, label):
        for number, step in enumerate(steps):
            if number == 13:
                raise KeyboardInterrupt
            yield step

    with suppress(KeyboardInterrupt):
        trained("mlp", RECIPES["mlp"], group, state=StateFile(Path("state"), {}, every=0.0), progress=stopped)
    return trained("mlp", RECIPES["mlp"], group, state=StateFile(Path("state"), {}, every=0.0))


def diverged(group):
    """The messages of a training whose loss is not finite in the second process alone, in its only step."""
    train = load_splits("digits", ".").train.subset(torch.arange(8))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    if not group.first:
        model.register_forward_hook(lambda module, inputs, logits: logits * float("nan"))
    try:
        fit(model, train, Recipe(1), generator=generator_for(1, "train"), group=group)
    except FloatingPointError as error:
        return [str(error)], model
    return [], model


class WithUnused(nn.Module):
    """A model with a layer that its logits do not depend on."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(3, 3)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1))


def unused(group=None):
    """The history and the model of a training that leaves parameters without a gradient."""
    torch.manual_seed(1)
    model = WithUnused()
    own = {} if group is None else {"group": group}
    return fit(
        model, load_splits("digits", ".").train, RECIPES["mlp"], generator=generator_for(1, "train"), **own
    ), model


def threads_of_gloo():
    """The number of this process's threads that gloo has started."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


def torchrun(function, *given):
    """Call a function in two processes, forks of this one, as torchrun runs a script; what it returns is the
    exit code. Returns 1 where one of them failed.
    """
    words = "--nproc_per_node 2 --rdzv_backend c10d --rdzv_endpoint localhost:0 --start_method fork none.py"
    config, _, _ = config_from_args(parse_args(words.split()))
    try:
        elastic_launch(config, exiting)(function, *given)
    except ChildFailedError:
        return 1
    return 0


def exiting(function, *given):
    """End this process where the function's exit code isn't 0."""
    if code := function(*given):
        sys.exit(code)


def everything() -> int:
    with joined(
        torch.device("cpu")
    ) as group:  # once: those who join a second time may meet what is left of the first
        code = main_baseline.main(WORDS) or mlflow_forget.main(RUN)
        torch.save(weights_of_all(group), f"unlearned{group.rank}.pt")
        found = {name: trained(name.split()[0], recipe, group) for name, recipe in RECIPES.items()}
        found["mlp resumed"] = resumed(group)
        found["unused"] = unused(group)
        found["mlp diverged"] = diverged(group)
        content = {
            name: {"history": history, "digest": model_digest(model)}
            for name, (history, model) in found.items()
        }
        content["unused"]["spare"] = found["unused"][1].spare.weight.tolist()
        Path(f"rank{group.rank}.json").write_text(json.dumps(content))
    Path(f"threads{group.rank}.json").write_text(json.dumps(threads_of_gloo()))
    return code
