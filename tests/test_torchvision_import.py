"""torchvision beside a torch that it was not built for."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lethe.system import torchvision_import
from lethe.system.torchvision_import import torchvision_module

ROOT = Path(__file__).parent.parent


@pytest.fixture
def libraries(monkeypatch):
    """The names of the operator libraries defined while the test runs."""
    defined = []

    class Library:
        def __init__(self, name, kind):
            defined.append(name)

        def define(self, schema): ...

    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(torchvision_import, "_kept_alive", [])
    return defined


@pytest.mark.slow
def test_torchvision_is_imported_in_a_fresh_process_and_not_by_data():
    script = (
        "import sys, lethe.data; print('torchvision' in sys.modules); "
        "from lethe.system.torchvision_import import torchvision_module as m; "
        "print(m('datasets').MNIST.__name__, m('models').resnet18.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("False\nMNIST resnet18\n", 0), done.stderr


def test_an_import_that_succeeds_is_left_alone(monkeypatch, libraries):
    module = ModuleType("torchvision.datasets")
    monkeypatch.setattr(torchvision_import.importlib, "import_module", lambda name: module)
    assert torchvision_module("datasets") is module and libraries == []


def test_an_import_that_lacks_the_operator_is_tried_again_with_it(monkeypatch, libraries):
    module, attempts = ModuleType("torchvision.datasets"), []

    def import_module(name):
        attempts.append(name)
        if len(attempts) == 1:
            raise RuntimeError("operator torchvision::nms does not exist")
        return module

    monkeypatch.setattr(torchvision_import.importlib, "import_module", import_module)
    monkeypatch.setattr(torchvision_import.sys, "modules", dict(sys.modules))
    assert torchvision_module("datasets") is module and libraries == ["torchvision"]


def test_an_import_that_fails_otherwise_fails(monkeypatch, libraries):
    def import_module(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(torchvision_import.importlib, "import_module", import_module)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_module("datasets")
