"""The optimisers beside torch's own."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lethe.training import optimizers

KINDS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": True}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.01}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.0, "fused": True}),
]


def stepped(kind, settings, *, steps=4, halfway=None):
    """The weights after some steps. halfway: of them, where the optimiser's state goes through a file."""
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = kind([weights], **settings)
    for step in range(steps):
        if step == halfway:
            state = pickle.loads(pickle.dumps(optimizer.state_dict()))
            optimizer = kind([weights], **settings)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (weights**2).sum().backward()
        optimizer.step()
    return weights.detach()


@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_the_steps_have_the_bits_of_torchs_own(name, settings):
    ours, torchs = getattr(optimizers, name), getattr(torch.optim, name)
    assert torch.equal(stepped(ours, settings), stepped(torchs, settings))
    assert torch.equal(stepped(ours, settings, halfway=2), stepped(torchs, settings))
    assert issubclass(ours, torchs)


def test_a_step_is_not_differentiated():
    weights = torch.nn.Parameter(torch.ones(1))
    weights.grad = torch.ones(1)
    optimizers.SGD([weights], lr=1.0).step()
    assert weights.item() == 0.0 and weights.is_leaf


SCRIPT = """
import sys, torch
from lethe.training import optimizers
weights = torch.nn.Parameter(torch.ones(3))
for kind in (optimizers.SGD, optimizers.Adam, optimizers.AdamW):
    optimizer = kind([weights], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    optimizer.zero_grad()
    weights.sum().backward()
    optimizer.step()
    schedule.step()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


def test_no_method_steps_torchs_own():
    sources = (Path(__file__).parent.parent / "unlearn").rglob("*.py")
    own = re.compile(r"torch\.optim\.(SGD|Adam|AdamW)\(")
    assert [path.name for path in sources if own.search(path.read_text())] == []


@pytest.mark.slow
def test_no_step_imports_torchs_compiler():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
