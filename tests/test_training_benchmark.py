"""benchmarks/training.py: its parts on images that are drawn, and what it says without a GPU."""

import json
import math

import pytest
import torch
from torch import nn

from benchmarks import training as benchmark
from lethe.data import DATASETS, RawDataset, load_splits
from lethe.models import build

QUICK = ["--device", "cpu", "--repeats", "1", "--steps", "1", "--batch_size", "4"]


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Few images in the place of MNIST and CIFAR10."""

    def part(count, shape):
        return torch.randint(
            0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        ), torch.arange(count) % 10

    for name, shape in (("MNIST", (1, 28, 28)), ("CIFAR10", (3, 32, 32))):
        raw = RawDataset(part(100, shape), part(20, shape), tuple(map(str, range(10))))
        entry = DATASETS[name]
        entries = DATASETS._entries | {name: type(entry)(name, lambda folder, raw=raw: raw, (), entry.facts)}
        monkeypatch.setattr(DATASETS, "_entries", entries)


def test_the_steps_of_each_model_and_the_loading_are_a_row(tmp_path, capsys):
    file = tmp_path / "numbers.json"
    assert benchmark.main([*QUICK, "--archs", "mlp", "resnet9", "--json", str(file)]) == 0
    shown, numbers = capsys.readouterr().out, json.loads(file.read_text())
    assert [row["model"] for row in numbers["steps"]] == ["mlp", "resnet9"]
    assert numbers["steps"][0]["precision"] == "float32 contiguous"
    assert all(float(row["fit ms"]) > 0 and float(row["bare cpu ms"]) > 0 for row in numbers["steps"])
    assert numbers["load"][0]["CIFAR10"] == "120 images"
    assert numbers["goal"] == [] and "goal: not measured, there is no GPU here" in shown


@pytest.mark.parametrize(("flag", "value"), [("--repeats", "0"), ("--steps", "0"), ("--batch_size", "1")])
def test_a_number_that_makes_no_sense_is_refused(flag, value, capsys):
    assert benchmark.main([flag, value]) == 2
    assert f"error: {flag}: expected at least" in capsys.readouterr().err


def test_the_operations_of_an_image_are_those_of_its_products_by_hand():
    model = build("resnet9", (3, 32, 32), 10, seed=1)
    counts = {}

    def note(layer, inputs, output):
        each = (
            layer.in_channels * math.prod(layer.kernel_size)
            if isinstance(layer, nn.Conv2d)
            else layer.in_features
        )
        counts[layer] = 2 * each * output[0].numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note)
    train = load_splits("CIFAR10", ".").train
    found = benchmark.operations_of(model, train, torch.device("cpu"))
    assert found == 3 * sum(counts.values()) - counts[model.conv1.conv]  # the images need no gradient
