"""A folder of a test module's own, and the tracking store in it."""

from pathlib import Path

import pytest


def store_in(folder: Path) -> str:
    """Named whole: MLflow keeps a store open by its URI, in whatever folder the next test is."""
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def there(folder, monkeypatch) -> None:
    """Every test of a module that imports this runs in the module's `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_in(folder))
