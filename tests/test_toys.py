"""One file outside the repository adds a method, an architecture, a dataset, a metric or an add-on.

Each toy registers itself with facts and a flag of its own; one run of the command line uses them all. A
reader of a store is such a file too: tests/test_readers.py.
"""

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from lethe.data import DATASETS
from lethe.evaluation import METRICS
from lethe.models import ARCHITECTURES
from lethe.unlearn import METHODS
from lethe.unlearn.add_ons import ADD_ONS
from tests.main_job_runs import Outcome, call, client_of, default_store  # noqa: F401 (a fixture of every test here)

METHOD = '''
import copy
import torch
from lethe.unlearn import register

@register("Mute", source="nobody 2026")
def mute(model, data, *, logit: float = -10.0, scale: float = 1.0):
    """Give the forget class one logit, whatever the image."""
    student = copy.deepcopy(model)
    (forgotten,) = data.forget_classes
    with torch.no_grad():
        student[-1].weight[forgotten] = 0.0
        student[-1].bias[forgotten] = scale * logit
    return student
'''
ARCHITECTURE = '''
import math
from torch import nn
from lethe.models import register

@register("narrow", lr=0.05, batch_size=16)
def narrow(image_shape, classes, *, width: int = 8):
    """One hidden layer."""
    first = nn.Linear(math.prod(image_shape), width)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(width, classes)).eval()
'''
DATASET = '''
import torch
from lethe.data import RawDataset, register

def bars(count, draw):
    """Images of class c: noise, and row c is lit."""
    labels = torch.arange(count) % 3
    images = torch.randint(60, (count, 1, 4, 4), dtype=torch.uint8, generator=draw)
    images[torch.arange(count), 0, labels] += 150
    return images, labels

@register("Bars", arch="mlp", epochs=6, embedded=True)
def read(folder):
    """Three classes of 4 x 4 pixels."""
    draw = torch.Generator().manual_seed(0)
    return RawDataset(bars(300, draw), bars(90, draw), ("top", "middle", "bottom"))
'''
ADD_ON = '''
import torch
from lethe.unlearn.add_ons import register

@register("Frozen")
def frozen(*, first: int = 1):
    """Keep the first tensors of weights as they are."""
    def rule(step):
        zeros = [torch.zeros_like(d) for d in step.direction[:first]]
        return zeros + step.direction[first:]
    return rule
'''
METRIC = '''
from lethe.evaluation import register

GROUPS = ("headline", "summary", "overview")

@register("own_logit", unit="points", better="near 1", better_of_classes="near 0", groups=GROUPS)
def own_logit(model):
    """Mean logit of the true class over the forget set."""
    return model.forget.logits.gather(1, model.forget.labels[:, None]).double().mean().item()
'''

TASK = "--dataset data.py:read --arch arch.py:narrow --width 6 --class_to_replace 1 --experiment toys".split()


@pytest.fixture(scope="module", autouse=True)
def registries():
    """What the toys register ends with this module."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (METHODS, ARCHITECTURES, DATASETS, METRICS, ADD_ONS):
            for table in ("_entries", "_names"):
                patch.setattr(registry, table, dict(getattr(registry, table)))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("toys")
    toys = {"method": METHOD, "arch": ARCHITECTURE, "data": DATASET, "metric": METRIC, "addon": ADD_ON}
    for name, text in toys.items():
        (place / f"{name}.py").write_text(text)
    return place


@pytest.fixture(scope="module")
def done(folder) -> Outcome:
    words = "--unlearn method.py:mute --logit -50 --metrics forget_score,metric.py:own_logit"
    outcome = call(folder, *words.split(), *TASK)
    assert outcome.code == 0, outcome.err
    return outcome


def weights_of(outcome: Outcome, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the initial and of the unlearned model."""
    (checkpoint,) = folder.glob("results/*/1narrow*_width6.safetensors")
    return load_file(checkpoint), load_file(outcome.artifacts / "unlearned.safetensors")


def test_a_method(done, folder):
    initial, unlearned = weights_of(done, folder)

    assert (done.params["logit"], done.params["scale"]) == ("-50.0", "1.0")
    assert unlearned["3.bias"].tolist() == [initial["3.bias"][0], -50.0, initial["3.bias"][2]]
    assert (done.metrics["forget_score"], done.metrics["initial_forget_score"]) == (0.0, 100.0)


def test_an_add_on(done, folder):
    words = "--unlearn NGPlus --addon addon.py:frozen --first 2 --metrics forget_score --report skip"
    outcome = call(folder, *words.split(), *TASK)
    assert outcome.code == 0, outcome.err
    initial, unlearned = weights_of(outcome, folder)

    assert outcome.params["first"] == "2"
    assert (outcome.artifacts / "code/addon.py").read_text() == ADD_ON
    assert {name for name in initial if initial[name].equal(unlearned[name])} == {"1.weight", "1.bias"}


def test_an_architecture(done, folder):
    shapes = {name: tuple(weight.shape) for name, weight in weights_of(done, folder)[1].items()}

    assert shapes == {"1.weight": (6, 16), "1.bias": (6,), "3.weight": (3, 6), "3.bias": (3,)}
    assert [done.params[name] for name in ("width", "train_lr", "train_batch_size")] == ["6", "0.05", "16"]


def test_a_dataset(done):
    assert (done.params["epochs"], done.params["forget_request"]) == ("6", "class 1 (middle)")
    assert (done.params["forget_count"], done.params["retain_count"]) == ("90", "180")
    assert done.params["ideal_model"] == "trained"  # as of embedded data


def test_a_metric(done, folder):
    initial, ideal = done.metrics["initial_own_logit"], done.metrics["ideal_own_logit"]
    experiment = client_of(folder).get_experiment_by_name("toys")
    note = done.tags["mlflow.note.content"]
    page = (done.artifacts / "report.html").read_text()

    assert done.metrics["own_logit"] == -50.0 < ideal < initial
    assert re.search(rf"^own_logit +{initial:.3f} +-50.000 +{ideal:.3f}$", done.out, flags=re.MULTILINE)
    assert f"| `own_logit` | {initial:.2f} | -50.00 | {ideal:.2f} | near 0 |" in note
    assert "metrics.`own_logit`" in experiment.tags["mlflow.sharedViewState.lethe"]
    assert "own_logit" in page.partition("Predictions")[0] and "points; good: near 0" in page
