"""Lethe: a tracked registry of machine-unlearning methods for image classifiers.

    import lethe

    data = lethe.ForgetData.of_dataset(train_set, forget=[17, 404, 1203])
    forgotten = lethe.forget(model, data, "SSD").model

The names in `__all__` are the public ones, with those of `lethe.settings`: CONTRIBUTING.md says how they
change. Importing the package
imports neither torch nor MLflow; each name imports what it needs when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.checkout import MovedModules
from lethe.version import __version__

if TYPE_CHECKING:  # what _PLACES says, for type checkers, editors and the documentation
    from lethe.data import DATASETS, ForgetRequest, ImageSet, Normalisation, RawDataset, load_splits
    from lethe.data import register as register_dataset
    from lethe.evaluation import METRICS, ModelOutputs, Outputs
    from lethe.evaluation import register as register_metric
    from lethe.experiment.base_config import BaseConfig
    from lethe.experiment.measure import Measured, measure
    from lethe.experiment.pipeline import Pipeline, Result
    from lethe.experiment.run_config import PipelineConfig
    from lethe.models import ARCHITECTURES, Mask, apply_mask, lift_mask
    from lethe.models import register as register_architecture
    from lethe.system.progress_place import silent
    from lethe.tracking.readers import READERS
    from lethe.tracking.readers import register as register_reader
    from lethe.tracking.stored_run import Point, StoredRun
    from lethe.training import DiskCache, descend, load_mask
    from lethe.unlearn import METHODS, ForgetData, Unlearned, copy_of, forget
    from lethe.unlearn import register as register_method
    from lethe.unlearn.add_ons import ADD_ONS, Step
    from lethe.unlearn.add_ons import register as register_add_on

__all__ = [
    "ADD_ONS",
    "ARCHITECTURES",
    "DATASETS",
    "METHODS",
    "METRICS",
    "READERS",
    "BaseConfig",
    "DiskCache",
    "ForgetData",
    "ForgetRequest",
    "ImageSet",
    "Mask",
    "Measured",
    "ModelOutputs",
    "Normalisation",
    "Outputs",
    "Pipeline",
    "PipelineConfig",
    "Point",
    "RawDataset",
    "Result",
    "Step",
    "StoredRun",
    "Unlearned",
    "__version__",
    "apply_mask",
    "copy_of",
    "descend",
    "forget",
    "lift_mask",
    "load_mask",
    "load_splits",
    "measure",
    "register_add_on",
    "register_architecture",
    "register_dataset",
    "register_method",
    "register_metric",
    "register_reader",
    "silent",
]

# The module of each public name. `register_...` is `register` there.
_PLACES = {
    "ADD_ONS": "lethe.unlearn.add_ons",
    "ARCHITECTURES": "lethe.models",
    "DATASETS": "lethe.data",
    "METHODS": "lethe.unlearn",
    "METRICS": "lethe.evaluation",
    "READERS": "lethe.tracking.readers",
    "BaseConfig": "lethe.experiment.base_config",
    "DiskCache": "lethe.training",
    "ForgetData": "lethe.unlearn",
    "ForgetRequest": "lethe.data",
    "ImageSet": "lethe.data",
    "Mask": "lethe.models",
    "Measured": "lethe.experiment.measure",
    "ModelOutputs": "lethe.evaluation",
    "Normalisation": "lethe.data",
    "Outputs": "lethe.evaluation",
    "Pipeline": "lethe.experiment.pipeline",
    "PipelineConfig": "lethe.experiment.run_config",
    "Point": "lethe.tracking.stored_run",
    "RawDataset": "lethe.data",
    "Result": "lethe.experiment.pipeline",
    "Step": "lethe.unlearn.add_ons",
    "StoredRun": "lethe.tracking.stored_run",
    "Unlearned": "lethe.unlearn",
    "apply_mask": "lethe.models",
    "copy_of": "lethe.unlearn",
    "descend": "lethe.training",
    "forget": "lethe.unlearn",
    "lift_mask": "lethe.models",
    "load_mask": "lethe.training",
    "load_splits": "lethe.data",
    "measure": "lethe.experiment.measure",
    "register_add_on": "lethe.unlearn.add_ons",
    "register_architecture": "lethe.models",
    "register_dataset": "lethe.data",
    "register_method": "lethe.unlearn",
    "register_metric": "lethe.evaluation",
    "register_reader": "lethe.tracking.readers",
    "silent": "lethe.system.progress_place",
}
_PACKAGES = ("data", "evaluation", "models", "settings", "training", "unlearn")

if not (Path(__file__).parent / "unlearn").is_dir():
    # A checkout without symbolic links, as on Windows: lethe/unlearn is a text file there, and the folder is
    # at the root.
    __path__.append(str(Path(__file__).resolve().parent.parent))

sys.meta_path.append(MovedModules())


def _imported(name: str) -> Any:
    """Import a public name, or a package of Lethe, when it is first used.

    Raises AttributeError with the nearest name. `from lethe import registry` comes here first, and imports
    the module after the error.
    """
    if name in _PACKAGES:
        return import_module(f"lethe.{name}")
    if name not in _PLACES:
        raise AttributeError(_unknown(name), name=name, obj=sys.modules[__name__])
    there = "register" if name.startswith("register_") else name
    value = getattr(import_module(_PLACES[name]), there)
    globals()[name] = value  # found without __getattr__ from now on
    return value


if not TYPE_CHECKING:  # a type checker would take any name for there
    __getattr__ = _imported  # PEP 562


def __dir__() -> list[str]:
    special = [name for name in globals() if name.startswith("__")]
    return sorted({*special, *__all__, *_PACKAGES})


def _unknown(name: str) -> str:
    if name.startswith("_"):
        return f"module 'lethe' has no attribute {name!r}"
    from lethe.nearest_name import did_you_mean

    public = [each for each in (*__all__, *_PACKAGES) if not each.startswith("_")]
    return f"lethe: {did_you_mean('name', name, public)}"
