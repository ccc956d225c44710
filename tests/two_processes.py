"""What tests/test_distributed.py has torchrun start twice: main_baseline.py, then trainings whose histories are written down."""

import json
import sys
from pathlib import Path

import torch

import main_baseline
from models import build
from training import fit, generator_for, model_digest
from training.recipe import Recipe
from training.world import joined
from vision_data import load_splits

RECIPES = {
    "mlp": Recipe(4, "adamw", lr=3e-3, weight_decay=1e-2),
    "mlp augmented": Recipe(2, lr=0.05, augment=("crop", "cutout"), label_smoothing=0.1, schedule="cosine"),
    "cnn": Recipe(3, "adamw", lr=3e-3),
}
WORDS = ["--epochs", "5", "--save_dir", "results"]


def trained(arch, recipe, world=None):
    """The history and the model of one training on digits."""
    train = load_splits("digits", ".").train
    model = build(arch, train.image_shape, 10, seed=1)
    own = {} if world is None else {"world": world}
    return fit(model, train, recipe, generator=generator_for(1, "train"), **own), model


def main() -> int:
    torch.set_num_threads(1)
    code = main_baseline.main(WORDS)
    with joined(torch.device("cpu")) as world:
        found = {name: trained(name.split()[0], recipe, world) for name, recipe in RECIPES.items()}
        content = {name: {"history": history, "digest": model_digest(model)} for name, (history, model) in found.items()}
        Path(f"rank{world.rank}.json").write_text(json.dumps(content))
    return code


if __name__ == "__main__":
    sys.exit(main())
