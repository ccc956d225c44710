"""What README and the docs show works as it stands."""

import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import mlflow_forget
from lethe import METHODS, ForgetData

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def block(opening: str, page: str) -> str:
    """The Python example of a page that holds a text."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if opening in text]
    return found


@pytest.fixture
def registry_as_it_was(monkeypatch):
    """What a test registers is forgotten afterwards."""
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.setattr(METHODS, "_names", dict(METHODS._names))


@pytest.fixture
def method_file(tmp_path, monkeypatch, registry_as_it_was):
    """The method of docs/add_a_method.md in a file of its own."""
    file = tmp_path / "uniform.py"
    file.write_text(block("def uniform", "docs/add_a_method.md"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield file
    for name in [name for name in sys.modules if name.startswith("lethe_user_uniform")]:
        del sys.modules[name]


def test_the_example_of_a_method_runs_from_its_file(method_file, capsys):
    command = [
        "--unlearn",
        f"{method_file}:uniform",
        *"--unlearn_epochs 2 --unlearn-lr 0.01 --epochs 3 --metrics forget_score --report skip".split(),
    ]
    assert mlflow_forget.main(command) == 0
    assert "forget_score" in capsys.readouterr().out


def test_the_file_of_each_image_has_the_numbers_of_the_run(tmp_path, monkeypatch, capsys):
    from mlflow import MlflowClient

    from lethe import Pipeline, PipelineConfig

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = Pipeline(PipelineConfig("default", {})).run()
    MlflowClient().download_artifacts(result.run_id, "per_image.parquet", str(tmp_path))
    exec(compile(block("read_parquet", "docs/python.md"), "example", "exec"), {})
    printed = [float(line) for line in capsys.readouterr().out.splitlines()[-2:]]

    assert printed == pytest.approx([result.metrics["forget_score"], result.metrics["mia"]])


def test_the_test_of_the_example_passes(method_file):
    METHODS[f"{method_file}:uniform"]
    scope: dict = {}
    exec(compile(block("def test_one_step", "docs/add_a_method.md"), "example", "exec"), scope)
    scope["test_one_step_goes_towards_even_probabilities"]()


def test_the_example_of_a_method_keeps_the_whole_contract(tmp_path):
    (tmp_path / "uniform.py").write_text(block("def uniform", "docs/add_a_method.md"))
    (tmp_path / "registers_uniform.py").write_text(
        f"from lethe.unlearn import METHODS\n\nMETHODS[{str(tmp_path / 'uniform.py')!r} + ':uniform']\n"
    )
    contract = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "registers_uniform",
        "-k",
        "Uniform",
        "tests/test_methods.py",
    ]
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        contract,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_readme_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_a_tracked_run_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quick = (
        block("Pipeline(config)", "docs/python.md")
        .replace('"kappa": 0.1}', '"kappa": 0.1, "gcn_steps": 2}')
        .replace("request=", "epochs=3, request=")
    )
    exec(compile(quick, "example", "exec"), {})
    forget, retain = capsys.readouterr().out.split()
    assert 0 <= float(forget) <= 100
    assert 0 <= float(retain) <= 100


def test_ten_lines_forget_images_with_your_own_model(tmp_path, monkeypatch, capsys):
    lines = block("retrained", "README.md").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 10
    before, after = forgets_with_own_model("\n".join(lines), tmp_path, monkeypatch)
    assert len(capsys.readouterr().out.split()) == 3
    assert after.keys() == before.keys() and not all(after[name].equal(before[name]) for name in before)


def test_the_forgotten_model_is_saved(tmp_path, monkeypatch, capsys):
    before, _ = forgets_with_own_model(block("forgotten.pt", "docs/python.md"), tmp_path, monkeypatch)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "forget_score",
        "retain_score",
        "test_score",
        "mia",
        "avg_gap_without_mia",
    ]
    saved = torch.load("forgotten.pt", weights_only=True)
    assert saved.keys() == before.keys() and not all(saved[name].equal(before[name]) for name in before)


def forgets_with_own_model(example, tmp_path, monkeypatch):
    """Run an example; return the given model's weights, which it keeps, and the forgotten model's."""
    monkeypatch.chdir(tmp_path)
    labels = torch.arange(1300) % 4
    images = torch.nn.functional.one_hot(labels, 6).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, retrained = (nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)) for _ in range(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scope = {
        "model": model,
        "retrained": retrained,
        "train_set": TensorDataset(images, labels),
        "test_set": TensorDataset(images, labels),
    }
    exec(compile(example, "example", "exec"), scope)
    assert all(value.equal(model.state_dict()[name]) for name, value in before.items())
    return before, scope["forgotten"].state_dict()


def test_a_class_of_a_dataset_of_pictures_is_forgotten_by_its_name(capsys):
    class Pictures(list):
        classes = ("cat", "dog")

    labels = {"red": 1, "blue": 0, "green": 0}
    pictures = Pictures((Image.new("RGB", (8, 8), colour), label) for colour, label in labels.items())
    scope = {"pictures": pictures}
    exec(compile(block('ForgetRequest(("cat",))', "docs/python.md"), "example", "exec"), scope)
    assert capsys.readouterr().out == "2 1 2\n"


def test_a_method_is_registered_in_ones_own_script(registry_as_it_was):
    model = nn.Sequential(nn.Linear(6, 4))
    images, labels = torch.eye(6), torch.arange(6) % 4
    scope = {"model": model, "data": ForgetData.of_dataset((images, labels), [0])}
    exec(compile(block("def noise", "docs/python.md"), "example", "exec"), scope)
    assert not torch.equal(scope["forgotten"][0].weight, model[0].weight)


def test_what_readme_and_the_docs_name_is_there():
    links = {
        (page, link) for page in PAGES for link in re.findall(r"\[[^]]*\]\(([^)#:]+)\)", page.read_text())
    }
    assert [(page.name, link) for page, link in sorted(links) if not (page.parent / link).exists()] == []


def test_your_own_model_and_images_run_as_readme_shows(capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fc1, fc2 = nn.Linear(6, 20), nn.Linear(20, 4)
    model = nn.Sequential(OrderedDict(fc1=fc1, relu=nn.ReLU(), fc2=fc2))
    labels = torch.arange(80) % 4
    images = torch.nn.functional.one_hot(labels, 6).float()
    scope = {"model": model, "labels": labels, "images": images, "test_images": images, "test_labels": labels}
    exec(
        compile(
            block('mask_layer="fc1"', "docs/python.md").replace("topk=50,", "topk=50, gcn_steps=2,"),
            "example",
            "exec",
        ),
        scope,
    )
    assert scope["result"].mask.layer == "fc1"
    assert scope["result"].mask.kappa_count == 12
    assert not scope["result"].model.fc1.weight[~scope["result"].mask.keep].any()
