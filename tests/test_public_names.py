"""`import lethe`: the public names, which change as CONTRIBUTING.md says, and what importing them costs."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lethe

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = """
ADD_ONS ARCHITECTURES DATASETS METHODS METRICS READERS
BaseConfig DiskCache ForgetData ForgetRequest ImageSet Mask Measured ModelOutputs Normalisation Outputs
Pipeline PipelineConfig Point RawDataset Result Step StoredRun Unlearned __version__
apply_mask copy_of descend forget lift_mask load_mask load_splits measure
register_add_on register_architecture register_dataset register_method register_metric register_reader
silent
""".split()


TYPES_OF_SETTINGS = """
Amount BatchSize BetweenZeroAndOne Count CountFromZero Epochs Help LearningRate MaskLayer Momentum Positive
RESOLVED Range Search Seed Share Temperature Weight WeightDecay
""".split()
IMPORTED = re.compile(r"^ *from (lethe(?:\.\w+)*) import (.*)$|^ *import (lethe\.[\w.]*)", flags=re.MULTILINE)
FOR_USERS = [
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "docs").rglob("*.ipynb"),
    *(ROOT / "examples").rglob("*.py"),
    ROOT / "README.md",
]


def test_the_public_names_are_these():
    assert sorted(lethe.__all__) == sorted(PUBLIC)
    assert sorted(lethe.settings.__all__) == sorted(TYPES_OF_SETTINGS)
    assert set(PUBLIC) <= set(dir(lethe))


@pytest.mark.parametrize("path", FOR_USERS, ids=lambda path: path.name)
def test_examples_use_public_names_alone(path):
    known = {"lethe": PUBLIC, "lethe.settings": TYPES_OF_SETTINGS}
    for module, names, elsewhere in IMPORTED.findall(path.read_text(encoding="utf-8")):
        assert not elsewhere
        assert set(names.split(", ")) <= set(known[module])


def for_type_checkers():
    """The public names that `if TYPE_CHECKING:` imports: name -> (module, name there)."""
    (block,) = [
        node for node in ast.parse(Path(lethe.__file__).read_text()).body if isinstance(node, ast.If)
    ][:1]
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_are_told_what_python_gets():
    told = for_type_checkers()

    assert told.keys() == set(PUBLIC) - {"__version__"}
    for name, (module, there) in told.items():
        assert getattr(lethe, name) == getattr(importlib.import_module(module), there), name


def test_a_wrong_name_is_answered_by_the_nearest():
    with pytest.raises(
        AttributeError, match=r"lethe: unknown name 'forgetdata'\. Did you mean 'ForgetData'\?"
    ):
        lethe.forgetdata  # noqa: B018


def test_packages_and_modules_stay_importable():
    from lethe import nearest_name, registry

    assert registry.Registry.__module__ == "lethe.registry"
    assert nearest_name.__name__ == "lethe.nearest_name"
    assert lethe.unlearn.METHODS is lethe.METHODS
    assert lethe.data.ImageSet is lethe.ImageSet


PROGRAM = """
import sys, lethe
print(*sys.modules.keys() & {"torch", "mlflow", "numpy"}, "|", lethe.data.__name__, callable(lethe.forget))
[getattr(lethe, name) for name in lethe.__all__]
print("mlflow" in sys.modules)
"""


def test_importing_lethe_imports_neither_torch_nor_mlflow():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n") == ["| lethe.data True", "False", ""]
