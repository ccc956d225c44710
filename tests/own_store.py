"""A folder of a test module's own, and the tracking store in it."""

from pathlib import Path
from urllib.request import url2pathname

import mlflow
import pytest
from mlflow.entities import Run


def store_in(folder: Path) -> str:
    """Named whole: MLflow keeps a store open by its URI, in whatever folder the next test is."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def runs() -> list[Run]:
    """All runs of the store, newest first."""
    newest_first = ["attributes.start_time DESC"]
    return mlflow.search_runs(search_all_experiments=True, output_format="list", order_by=newest_first)


def artifact(run: Run, name: str = "") -> Path:
    """The path of a run's artifact, or of the folder of all."""
    return Path(url2pathname(run.info.artifact_uri.removeprefix("file://"))) / name


@pytest.fixture(autouse=True)
def there(folder, monkeypatch) -> None:
    """Every test of a module that imports this runs in the module's `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_in(folder))
