"""The facts of a real run's report: the command that makes it again, the request in words, and what lands in
the tracking store.
"""

import contextlib
import io
import shlex
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from lethe.data import ForgetRequest
from lethe.experiment import run_flags
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.experiment.run_report import command_of
from lethe.sweeps.sweep import run_all
from lethe.unlearn import ForgetData, unlearn

NAMES = ("0", "1", "cat", "dog")


@pytest.mark.parametrize(
    "config",
    [
        PipelineConfig("MIMU", {"topk": 50, "kappa": 0.1}),
        PipelineConfig(
            "SFT", {}, BaseConfig(seed=3, epochs=2, arch="mlp", arch_options={"hidden": (32, 16)})
        ),
        PipelineConfig(
            "FT",
            {"unlearn_epochs": 3, "unlearn_lr": 1e-05},
            BaseConfig(request=ForgetRequest(("3", "5")), split_seed=2),
        ),
        PipelineConfig(
            "RL",
            {},
            BaseConfig(request=ForgetRequest((-1,), 45), data="my data", save_dir=Path("a b")),
            ideal="skip",
        ),
        PipelineConfig(
            "SCRUB",
            {},
            experiment="it's mine",
            metrics=("mia", "tow"),
            checkpoint_epochs=(1, 3),
            report="no_images",
        ),
        PipelineConfig("SRL", {}, unlearn_augment=("crop", "flip")),
        PipelineConfig(
            "random_mask", {"kappa": "50%"}, BaseConfig(mask=Path("my.safetensors"), device="cpu")
        ),
    ],
    ids=lambda config: config.unlearn,
)
def test_the_command_makes_the_same_config_again(config):
    words = shlex.split(command_of(config))
    (again,) = run_flags.configs_from(*run_flags.options_of(words[3:]))

    assert words[:3] == ["python", "-u", "mlflow_forget.py"]
    assert again == config


def test_a_setting_that_is_none_is_said():
    assert (
        command_of(PipelineConfig("random_mask", {"mask_layer": None}))
        == "python -u mlflow_forget.py --unlearn random_mask --mask_layer none"
    )


def test_a_list_of_indexes_comes_from_its_file_or_from_the_artifact():
    from_file = ForgetRequest((), None, (1, 2), "mine.txt")
    from_python = ForgetRequest((), None, (1, 2))

    assert "--forget_indexes mine.txt" in command_of(PipelineConfig("FT", {}, BaseConfig(request=from_file)))
    assert "--forget_indexes forget_indexes.txt" in command_of(
        PipelineConfig("FT", {}, BaseConfig(request=from_python))
    )


@pytest.mark.parametrize(
    ("request_", "count", "words"),
    [
        (ForgetRequest((0,)), 128, "class 0"),
        (ForgetRequest((2,)), 128, "class 2 (cat)"),
        (ForgetRequest((0, 2, 3)), 300, "classes 0, 2 (cat) and 3 (dog)"),
        (ForgetRequest((3,), 45), 45, "45 images of class 3 (dog)"),
        (ForgetRequest((-1,), 4500), 4500, "4,500 images"),
        (ForgetRequest((), None, (7,)), 1, "1 image"),
    ],
)
def test_a_request_in_words(request_, count, words):
    assert request_.in_words(count, NAMES) == words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three runs in a store of their own: with a report, without images, without a report; and a sweep of
    two.
    """
    folder = tmp_path_factory.mktemp("reports")
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        base = BaseConfig(epochs=2)
        runs = {
            report: Pipeline(PipelineConfig("logit_attribution", {}, base, report=report)).run()
            for report in ("full", "no_images", "skip")
        }
        run_all(
            [PipelineConfig("random_mask", {"kappa": kappa}, base, report="skip") for kappa in (0.1, 0.2)]
        )
    return folder, runs


def run_of(place, report):
    folder, runs = place
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_run(runs[report].run_id)


def artifacts(place, report):
    folder = Path(run_of(place, report).info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_its_report_with_its_numbers_and_its_command(place):
    page = artifacts(place, "full")["report.html"].read_text()
    _, runs = place

    assert f"{runs['full'].metrics['retain_score']:,.2f}" in page
    assert "python -u mlflow_forget.py --unlearn logit_attribution --epochs 2" in page
    assert run_of(place, "full").info.run_id in page
    assert page.count('alt="Forget image') == 12
    assert "loss (nats)" in page and "score (percent)" in page
    assert "<code>forget_count</code></th><td>128" in page


def test_a_report_without_images_has_none_and_one_can_be_skipped(place):
    page = artifacts(place, "no_images")["report.html"].read_text()

    assert 'alt="Forget image' not in page
    assert "--report no_images" in page
    assert not [name for name in artifacts(place, "skip") if name.startswith(("report", "pictures"))]
    assert run_of(place, "skip").data.params["report"] == "skip"


def test_what_is_drawn_changes_no_number_and_no_hash(place):
    hashes = {run_of(place, report).data.tags["config_hash"] for report in ("full", "no_images", "skip")}
    scores = {
        tuple(run.metrics[name] for name in ("forget_loss", "retain_score", "mia_auc"))
        for run in place[1].values()
    }

    assert len(hashes) == len(scores) == 1


@pytest.mark.parametrize("report", ["full", "skip"])
def test_verdict_and_description_are_there_with_and_without_a_page(place, report):
    tags = run_of(place, report).data.tags

    assert tags["mlflow.note.content"].startswith(f"**{tags['verdict']}**")
    assert "| `forget_score` |" in tags["mlflow.note.content"]
    assert "class 0" in tags["verdict"]


def test_the_parent_of_a_sweep_describes_its_runs(place):
    folder, _ = place
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (parent,) = client.search_runs(["1"], "tags.sweep = 'parent'")
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    note = parent.data.tags["mlflow.note.content"]

    assert note.startswith("**2 runs, in which these vary: kappa**")
    assert all(f"| {child.info.run_name} |" in note for child in children)
    assert len(children) == 2


def test_a_new_experiment_says_what_it_is_and_has_a_view(place):
    folder, _ = place
    tags = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_experiment("1").tags

    assert (
        "(#/experiments/1/runs?viewStateShareKey=lethe&workflowType=machine_learning)"
        in tags["mlflow.note.content"]
    )
    assert "metrics.`forget_score`" in tags["mlflow.sharedViewState.lethe"]
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_another_report_is_refused():
    with pytest.raises(ValueError, match="--report: expected one of full, no_images, skip, got 'pdf'"):
        Pipeline(PipelineConfig("FT", {}, report="pdf"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "settings", "step"),
    [("SFT", {"sft_steps": 2}, "step"), ("FT", {"unlearn_epochs": 2}, "epoch")],
)
def test_a_history_says_whether_it_goes_by_epochs_or_by_steps(method, settings, step):
    images, labels = torch.rand(40, 1, 4, 4), torch.arange(40) % 4
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    unlearned = unlearn(method, model, ForgetData.of_tensors(images, labels, forget=labels == 0), **settings)
    assert (len(unlearned.history), unlearned.step) == (2, step)
