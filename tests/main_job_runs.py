"""The main job in a folder of a test module's own: what a command gave back, and runs that several tests look
at.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import mlflow_forget

ROOT = Path(__file__).resolve().parent.parent
MIMU = ("--unlearn", "MIMU", "--kappa", "0.1", "--epochs", "2", "--gcn_steps", "3")
RANDOM = ("--unlearn", "random_mask", "--epochs", "2")
AGAINST_THE_IDEAL = ("avg_gap_without_mia", "rUA", "tow", "fidelity", "js_divergence", "activation_distance")

METHODS_OF_A_USER = '''
import copy
import torch
from lethe.models import Mask, switched_off
from lethe.unlearn import Unlearned

def halve(model, data):
    """Halve every weight."""
    student = copy.deepcopy(model)
    for weight in student.parameters():
        weight.data *= 0.5
    return student

def first_rows(model, data, *, rows: int = 1):
    """Switch off the first rows of linear2."""
    student = copy.deepcopy(model)
    keep = torch.ones(64, 128, dtype=torch.bool)
    keep[:rows] = False
    mask = Mask("linear2", keep)
    switched_off(student, mask)
    return Unlearned(student, mask)

def broken(model, data):
    """Fail, as code does."""
    raise RuntimeError("the weights fell out")

def stopped(model, data):
    """As if a person pressed Ctrl-C here."""
    raise KeyboardInterrupt
'''

TINY_DATASET = '''
import torch
from lethe.data import RawDataset

def tiny(folder):
    """Three classes of noise."""
    draw = torch.Generator().manual_seed(0)
    def part(count):
        images = torch.randint(256, (count, 1, 4, 4), dtype=torch.uint8, generator=draw)
        return images, torch.arange(count) % 3
    return RawDataset(part(150), part(60), ("a", "b", "c"))
'''


@dataclass(frozen=True)
class Outcome:
    """What a command gave back: its exit code, what it printed, and the runs that it names, oldest first."""

    code: int
    out: str
    err: str
    runs: list[Run]

    @property
    def run(self) -> Run:
        (run,) = self.runs
        return run

    @property
    def metrics(self) -> dict[str, float]:
        return self.run.data.metrics

    @property
    def params(self) -> dict[str, str]:
        return self.run.data.params

    @property
    def tags(self) -> dict[str, str]:
        return self.run.data.tags

    @property
    def artifacts(self) -> Path:
        return artifacts_of(self.run)


def artifacts_of(run: Run) -> Path:
    return Path(url2pathname(run.info.artifact_uri.removeprefix("file://")))


def client_of(folder: Path, store: str = "mlflow.db") -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder / store}")


def all_runs(folder: Path, store: str = "mlflow.db") -> list[Run]:
    """Every run of the store, oldest first."""
    client = client_of(folder, store)
    return list(
        client.search_runs(
            [e.experiment_id for e in client.search_experiments()], order_by=["attributes.start_time"]
        )
    )


def call(folder: Path, *argv: str, main: Any = mlflow_forget.main, store: str = "mlflow.db") -> Outcome:
    """A script's main in `folder`, its output caught."""
    known = {run.info.run_id for run in all_runs(folder, store)} if (folder / store).exists() else set()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    runs = (
        [run for run in all_runs(folder, store) if run.info.run_id not in known]
        if (folder / store).exists()
        else []
    )
    return Outcome(code, out.getvalue(), err.getvalue(), runs)


def files_below(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(autouse=True, scope="module")
def default_store() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
        yield


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory) -> Path:
    """Where a person works. A blank in its name, as many have."""
    place: Path = tmp_path_factory.mktemp("my work")
    (place / "mine.py").write_text(METHODS_OF_A_USER)
    (place / "tiny.py").write_text(TINY_DATASET)
    return place


@dataclass(frozen=True)
class Jobs:
    """The same command twice, then the same for another class; what lay in the folder after each."""

    first: Outcome
    again: Outcome
    other_class: Outcome
    files: list[set[str]]
    checkpoint: list[bytes]


@pytest.fixture(name="jobs", scope="module")
def fixture_jobs(folder) -> Jobs:
    outcomes, files, checkpoint = [], [], []
    for flags in ((), (), ("--class-to-replace", "3")):
        outcomes.append(call(folder, *MIMU, *flags))
        files.append(files_below(folder))
        checkpoint.append((folder / "results/digits/1mlp_ep2.safetensors").read_bytes())
    return Jobs(*outcomes, files, checkpoint)
