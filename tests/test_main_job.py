"""The main job on digits, as a person runs it: what it computes and leaves behind, with their own method, and
from Python.
"""

import contextlib
import itertools
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from lethe.data import ForgetRequest, load_splits
from lethe.evaluation import UNDECIDED
from lethe.experiment import run_flags
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.forget_flags import CHOICE
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.models import ARCHITECTURES
from lethe.training import load_mask
from lethe.unlearn import METHODS
from tests.main_job_runs import (
    AGAINST_THE_IDEAL,
    METHODS_OF_A_USER,
    MIMU,
    RANDOM,
    Outcome,
    artifacts_of,
    call,
    client_of,
    default_store,  # noqa: F401 (a fixture)
    files_below,
    fixture_folder,  # noqa: F401 (a fixture)
    fixture_jobs,  # noqa: F401 (a fixture)
)

pytestmark = pytest.mark.slow

FEW = ("--metrics", "forget_score", "--report", "skip")  # where it isn't about those
FIVE = ("forget_loss", "retain_loss", "forget_probability", "forget_score", "retain_score")
MIA = (
    "mia",
    "mia_lr",
    "mia_auc",
    "mia_correctness",
    "mia_confidence",
    "mia_entropy",
    "mia_m_entropy",
    "mia_prob",
)
MEASURED = (
    *FIVE,
    *(f"test_{name}" for name in FIVE),
    "test_loss",
    "test_score",
    *MIA,
    "rf_js_divergence",
    "zrf",
)


def saved(outcome: Outcome, name: str) -> dict[str, torch.Tensor]:
    return load_file(outcome.artifacts / name)


def raw_json(outcome: Outcome) -> Any:
    """The raw metrics, read by the letter of JSON: no NaN, no Infinity."""

    def refused(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    (path,) = outcome.artifacts.glob("*_seed*.json")
    return json.loads(path.read_text(), parse_constant=refused)


@pytest.fixture(scope="module")
def sweep(folder, jobs) -> Outcome:
    return call(folder, *RANDOM, "--kappa", "0.1", "0.5", "--seed", "1", "2")


@pytest.fixture(scope="module")
def some_images(folder, jobs) -> Outcome:
    return call(folder, *RANDOM, "--class_to_replace", "-1", "--num_indexes_to_replace", "40")


# One run


def test_a_run_finishes(jobs):
    assert jobs.first.code == 0
    assert jobs.first.run.info.status == "FINISHED"
    assert jobs.first.run.info.run_id in jobs.first.out


def test_every_flag_is_a_param(jobs):
    flags = {action.dest for action in run_flags.flags(METHODS["MIMU"], ARCHITECTURES["mlp"])._actions}
    flags -= {
        "help",
        "list",
        "config",
        "skip_finished",
    }  # where flags come from, and whether anything is done at all
    flags -= set(CHOICE)  # params only where they were asked for

    assert flags - set(jobs.first.params) == set()


def test_params_hold_the_resolved_values(jobs):
    counts = [len(load_digits().target[load_digits().target == label]) for label in range(10)]
    train = [n - round(0.2 * n) - round(0.1 * (n - round(0.2 * n))) for n in counts]
    wanted = {
        "unlearn": "MIMU", "dataset": "digits", "arch": "mlp", "hidden": "(128, 64)",
        "seed": "1", "split_seed": "0", "epochs": "2", "class_to_replace": "0",
        "topk": "50", "topk_count": "50", "kappa": "0.1", "kappa_count": str(round(0.1 * 128 * 64)),
        "gcn_steps": "3", "request": "class0", "forget_request": "class 0",
        "forget_count": str(train[0]), "retain_count": str(sum(train[1:])),
        "experiment": "digits-mlp", "ideal": "auto",
        "device": "cuda:0" if torch.cuda.is_available() else "cpu",
    }  # fmt: skip

    assert {name: jobs.first.params.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("prefix", ["", "initial_", "ideal_"])
def test_metrics_have_the_names_of_the_specification(prefix, jobs):
    undecided = {
        name.removeprefix("undefined.") for name, why in jobs.first.tags.items() if why.startswith(UNDECIDED)
    }
    assert {prefix + name for name in MEASURED} - set(jobs.first.metrics) <= undecided & {
        prefix + name for name in MIA
    }


def test_the_unlearned_model_alone_is_compared_with_the_ideal(jobs):
    assert set(AGAINST_THE_IDEAL) <= set(jobs.first.metrics)
    assert not {f"{of}_{name}" for of in ("initial", "ideal") for name in AGAINST_THE_IDEAL} & set(
        jobs.first.metrics
    )


def test_the_incompetent_teacher_is_only_compared_with(jobs):
    assert not [name for name in (*jobs.first.metrics, *jobs.first.tags) if "incompetent" in name]


def test_the_gap_is_the_mean_distance_to_the_ideal(jobs):
    metrics = jobs.first.metrics
    compared = ("forget_score", "retain_score", "test_retain_score")

    assert metrics["avg_gap_without_mia"] == pytest.approx(
        sum(abs(metrics[name] - metrics[f"ideal_{name}"]) for name in compared) / 3
    )


def test_the_raw_json_holds_the_metrics_at_full_precision(jobs):
    raw, metrics = raw_json(jobs.first), jobs.first.metrics
    measured = raw["metrics"] | {
        f"{of}_{name}": value for of in ("initial", "ideal") for name, value in raw[of].items()
    }

    assert measured == {name: metrics.get(name) for name in measured}
    decided = [name for name in MEASURED if name not in MIA]
    assert set(measured) >= {*decided, *(f"initial_{name}" for name in decided), "avg_gap_without_mia"}
    assert any(value != round(value, 6) for value in measured.values())


def test_the_raw_json_lies_where_its_settings_say(folder, jobs, some_images):
    for outcome, kind, request in (
        (jobs.first, "top-50_kappa_0.1", "MIMU_class0"),
        (some_images, "top-none_kappa_0.1", "random_mask_any-40"),
    ):
        digest = outcome.tags["config_hash"][:8]
        path = folder / f"eval/metrics_and_plots/json/mlp_digits_{kind}/{request}_seed1_{digest}.json"

        assert json.loads(path.read_text())["run_id"] in {outcome.run.info.run_id, jobs.again.run.info.run_id}
        assert (outcome.artifacts / path.name).is_file()


def test_the_mask_on_the_initial_model_is_the_unlearned_model(folder, jobs):
    model = load_file(folder / "results/digits/1mlp_ep2.safetensors")
    mask = load_mask(jobs.first.artifacts / "mask.safetensors")
    model[f"{mask.layer}.weight"] = torch.where(mask.keep, model[f"{mask.layer}.weight"], 0.0)
    unlearned = saved(jobs.first, "unlearned.safetensors")

    assert mask.kappa_count == int(jobs.first.params["kappa_count"])
    assert set(unlearned) == set(model)
    assert all(
        torch.equal(unlearned[name].view(torch.int32), model[name].view(torch.int32)) for name in model
    )


def scores_by_hand(weights: dict[str, torch.Tensor], request: ForgetRequest) -> dict[str, float]:
    """The scores of a bias-free MLP with these weights, by three products."""
    splits = load_splits("digits", "./data", 0)
    division = request.divide(splits.train, 10, 0)
    forget, retain = division.forget, division.retain

    def score(images: torch.Tensor, labels: torch.Tensor) -> float:
        pixels = splits.train.images.double() / 16
        h = ((images.double() / 16 - pixels.mean()) / pixels.std(correction=0)).flatten(1)
        h = (h @ weights["linear1.weight"].double().T).relu()
        h = (h @ weights["linear2.weight"].double().T).relu()
        right = (h @ weights["linear3.weight"].double().T).argmax(1) == labels
        return 100 * right.double().mean().item()

    sets = {"forget": forget, "retain": retain, "test": splits.test, "test_forget": splits.test.of_classes(0)}
    return {f"{name}_score": score(images.images, images.labels) for name, images in sets.items()}


@pytest.mark.parametrize(
    ("prefix", "file"),
    [
        ("", "unlearned.safetensors"),
        ("initial_", "1mlp_ep2.safetensors"),
        ("ideal_", "1mlp_ep2_ideal_class0.safetensors"),
    ],
)
def test_the_logged_scores_are_those_of_the_saved_weights(prefix, file, folder, jobs):
    path = jobs.first.artifacts / file if prefix == "" else folder / "results/digits" / file
    by_hand = scores_by_hand(load_file(path), ForgetRequest())

    assert {name: jobs.first.metrics[prefix + name] for name in by_hand} == pytest.approx(by_hand)


def assert_sensible(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert 500 <= float(root.attrib["width"]) <= 2000
    assert 300 <= float(root.attrib["height"]) <= 1500
    assert 1_000 < path.stat().st_size < 1_000_000


def test_a_masking_run_has_the_pictures_of_its_page_as_files(jobs):
    pictures = {path.name: path for path in (jobs.first.artifacts / "pictures").iterdir()}
    page = (jobs.first.artifacts / "report.html").read_text()

    assert {
        "class_probabilities.svg",
        "losses_unlearned.svg",
        "attack_roc.svg",
        "layer.svg",
        "layer_weights.svg",
    } <= set(pictures)
    assert len(pictures) == page.count("<svg")
    for path in pictures.values():
        assert_sensible(path)


def test_forget_retain_and_test_set_are_inputs(jobs):
    inputs = {
        tag.value: given.dataset for given in jobs.first.run.inputs.dataset_inputs for tag in given.tags
    }

    assert set(inputs) == {"forget", "retain", "test"}
    assert len({dataset.digest for dataset in inputs.values()}) == 3
    assert all("digits" in dataset.name for dataset in inputs.values())


@pytest.mark.parametrize(
    ("name", "steps"), [("unlearn_loss", 3), ("initial_train_loss", 2), ("initial_train_score", 2)]
)
def test_there_is_a_history_of_each_training(name, steps, folder, jobs):
    points = client_of(folder).get_metric_history(jobs.first.run.info.run_id, name)

    assert [point.step for point in points] == list(range(1, steps + 1))
    assert len({point.value for point in points}) == steps


def test_stages_have_their_seconds(jobs):
    metrics = jobs.first.metrics
    stages = [
        metrics[f"stage_{name}_seconds"]
        for name in ("tracking_start", "initial", "ideal", "unlearn", "evaluate", "report")
    ]

    assert all(seconds >= 0 for seconds in stages)
    assert sum(stages) <= metrics["stage_total_seconds"] < 300
    assert metrics["unlearn_seconds"] == metrics["stage_unlearn_seconds"]


def test_the_run_says_what_made_it(jobs):
    assert jobs.first.tags["lethe_version"]
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", jobs.first.tags["git_commit"])
    assert jobs.first.params["initial_model"] == jobs.first.params["ideal_model"] == "trained"


def test_the_report_is_a_table_and_says_where_things_are(jobs):
    out, metrics = jobs.first.out, jobs.first.metrics
    shown = [f"{metrics[prefix + 'test_retain_score']:.3f}" for prefix in ("initial_", "", "ideal_")]

    assert re.search(r"^metric +initial +unlearned +ideal$", out, re.MULTILINE)
    assert re.search(rf"^test_retain_score +{' +'.join(map(re.escape, shown))}$", out, re.MULTILINE)
    assert re.search(rf"^avg_gap_without_mia +{metrics['avg_gap_without_mia']:.3f}$", out, re.MULTILINE)
    assert re.search(r"^stage +seconds$", out, re.MULTILINE)
    assert "mlflow ui" in out
    assert "sqlite:///mlflow.db" in out
    assert "eval/metrics_and_plots/json/" in out


# Again


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    """Without times, the training that a second run has no need of, and whether a network came from the
    cache.
    """
    return {
        name: value
        for name, value in metrics.items()
        if not name.endswith("_seconds")
        and not name.startswith("initial_train_")
        and name not in ("network_cached", "speedup")
    }


def test_the_same_command_measures_the_same(jobs):
    assert jobs.again.code == 0
    assert timeless(jobs.again.metrics) == timeless(jobs.first.metrics)
    assert len(timeless(jobs.first.metrics)) > 3 * len(MEASURED)


def test_the_second_run_loads_what_the_first_one_trained(jobs):
    assert jobs.again.params["initial_model"] == jobs.again.params["ideal_model"] == "loaded"
    assert jobs.again.params["initial_digest"] == jobs.first.params["initial_digest"]
    assert jobs.checkpoint[0] == jobs.checkpoint[1] == jobs.checkpoint[2]
    assert {f for f in jobs.files[1] if f.startswith("results/")} == {
        f for f in jobs.files[0] if f.startswith("results/")
    }


def test_the_network_of_a_model_is_trained_once_for_all_classes(jobs):
    assert [outcome.metrics["network_cached"] for outcome in (jobs.first, jobs.again, jobs.other_class)] == [
        0,
        1,
        1,
    ]
    assert jobs.other_class.params["request"] == "class3"
    mine, others = (
        saved(jobs.first, "mask.safetensors")["mask"],
        saved(jobs.other_class, "mask.safetensors")["mask"],
    )
    assert not torch.equal(mine, others)


def test_config_hash_is_the_same_for_the_same_settings_alone(jobs, sweep, some_images):
    children = [run.data.tags["config_hash"] for run in sweep.runs if "config_hash" in run.data.tags]
    others = [jobs.other_class.tags["config_hash"], some_images.tags["config_hash"], *children]

    assert jobs.first.tags["config_hash"] == jobs.again.tags["config_hash"]
    assert len({jobs.first.tags["config_hash"], *others}) == 1 + len(others) == 7


def test_save_dir_holds_checkpoints_and_the_cache_only(jobs):
    kept = {name.removeprefix("results/digits/") for name in jobs.files[2] if name.startswith("results/")}
    cached = {
        name
        for name in kept
        if re.fullmatch(r"cache/([0-9a-f]+\.safetensors|locks/[0-9a-f]+\.safetensors\.lock)", name)
    }

    models = {f"1mlp_ep2{which}.safetensors" for which in ("", "_ideal_class0", "_ideal_class3")}
    assert kept - cached == models | {f"locks/{model}.lock" for model in models}
    assert cached


def test_nothing_is_left_anywhere_else(jobs):
    ours = {"results", "eval", "mlruns", "mlflow.db"}
    assert {name.partition("/")[0] for name in jobs.files[2]} == ours | {"mine.py", "tiny.py"}
    assert not [name for name in jobs.files[2] if name.endswith(".partial")]


def test_hyphens_are_underscores(folder, jobs):
    hyphens = call(
        folder,
        *"--unlearn mimu --kappa 0.1 --epochs=2 --gcn-steps 3 --class-to-replace=3 --split-seed 0".split(),
    )

    assert hyphens.tags["config_hash"] == jobs.other_class.tags["config_hash"]


# Several


def test_several_values_make_a_parent_with_a_child_for_each_combination(sweep):
    (parent,) = [run for run in sweep.runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in sweep.runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    combinations = [(run.data.params["kappa"], run.data.params["seed"]) for run in children]

    assert sweep.code == 0
    assert sorted(combinations) == sorted(itertools.product(("0.1", "0.5"), ("1", "2")))
    assert {run.info.status for run in sweep.runs} == {"FINISHED"}
    assert len(sweep.runs) == 5


def test_several_kappas_make_a_picture_of_forget_and_retain(sweep):
    (parent,) = [run for run in sweep.runs if "mlflow.parentRunId" not in run.data.tags]
    picture = artifacts_of(parent) / "pictures/forget_and_retain_over_kappa.svg"

    assert_sensible(picture)


def test_every_combination_has_its_own_json(folder, sweep):
    kinds = [
        folder / f"eval/metrics_and_plots/json/mlp_digits_top-none_kappa_{kappa}" for kappa in ("0.1", "0.5")
    ]

    assert [len(list(kind.glob("random_mask_class0_seed*.json"))) for kind in kinds] == [2, 2]


# What to forget


def test_a_number_of_images_is_forgotten(some_images):
    assert some_images.code == 0
    assert (some_images.params["request"], some_images.params["forget_count"]) == ("any-40", "40")
    assert not [name for name in some_images.metrics if name.startswith(("test_forget_", "test_retain_"))]
    assert "undefined.test_forget_score" in some_images.tags
    assert re.search(r"not measured: .*test_forget_score.*: no whole class was forgotten", some_images.out)


def test_listed_images_are_forgotten(folder, jobs):
    chosen = load_splits("digits", "./data", 0).train.indexes[5:205:10].tolist()
    (folder / "indexes.txt").write_text("\n".join(map(str, chosen)))

    outcome = call(folder, *RANDOM, "--forget-indexes", "indexes.txt", "--ideal", "skip", *FEW)

    assert outcome.code == 0
    assert (outcome.params["forget_count"], outcome.params["forget_indexes"]) == ("20", "indexes.txt")
    assert outcome.params["request"].startswith("indexes-")


# A person's own method, and Python


def test_a_mask_of_a_users_method_is_counted_kept_and_drawn(folder, jobs):
    outcome = call(folder, "--unlearn", "mine.py:first_rows", "--rows", "2", "--epochs", "2")

    assert outcome.code == 0, outcome.err
    assert outcome.params["kappa_count"] == str(2 * 128)
    assert load_mask(outcome.artifacts / "mask.safetensors").kappa_count == 2 * 128
    assert_sensible(outcome.artifacts / "pictures/layer.svg")


def test_fewer_weights_than_asked_for_are_a_warning_and_the_true_number_a_param(folder, jobs):
    outcome = call(folder, *MIMU, "--ranking", "set_difference", "--topk", "50", *FEW)
    masked = load_mask(outcome.artifacts / "mask.safetensors").kappa_count

    assert masked <= 50 < round(0.1 * 64 * 128)
    assert outcome.params["kappa_count"] == str(masked)
    assert (
        f"{masked} weights were switched off, fewer than the {round(0.1 * 64 * 128)} asked for"
        in outcome.tags["warning"]
    )
    assert outcome.tags["warning"] in outcome.out


def test_two_methods_of_one_name_do_not_share_a_hash(folder, jobs):
    (folder / "other.py").write_text(METHODS_OF_A_USER.replace("0.5", "0.125"))
    mine, other = (
        call(folder, "--unlearn", f"{file}.py:halve", "--epochs", "2", "--ideal", "skip", *FEW)
        for file in ("mine", "other")
    )

    assert mine.tags["config_hash"] != other.tags["config_hash"]


def test_the_experiment_is_an_object_too(folder, jobs):
    config = PipelineConfig(
        unlearn="random_mask", settings={"kappa": 5}, base=BaseConfig(epochs=2), experiment="from Python"
    )
    with contextlib.chdir(folder):
        result = Pipeline(config).run()
    run = client_of(folder).get_run(result.run_id)

    assert result.unlearned.mask is not None
    assert result.unlearned.mask.kappa_count == 5
    assert result.metrics == {name: run.data.metrics[name] for name in result.metrics}
    assert result.initial["forget_score"] == jobs.first.metrics["initial_forget_score"]
    assert client_of(folder).get_experiment(run.info.experiment_id).name == "from Python"


def test_a_pipeline_leaves_nothing_before_it_runs(tmp_path):
    with contextlib.chdir(tmp_path):
        Pipeline(PipelineConfig(unlearn="MIMU"))

    assert files_below(tmp_path) == set()


def test_another_store_is_obeyed_with_its_artifacts_beside_it(tmp_path, monkeypatch, jobs):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    outcome = call(tmp_path, *MIMU, "--experiment", "my own", store="other.db")

    assert outcome.code == 0
    assert client_of(tmp_path, "other.db").get_experiment(outcome.run.info.experiment_id).name == "my own"
    assert outcome.artifacts.is_relative_to(tmp_path / "mlruns")
    assert "sqlite:///other.db" in outcome.out
    assert not (tmp_path / "mlflow.db").exists()
    # Another folder, another store, everything made anew: the same bits.
    assert timeless(outcome.metrics) == timeless(jobs.first.metrics)
    assert saved(outcome, "unlearned.safetensors").keys() == saved(jobs.first, "unlearned.safetensors").keys()
    assert outcome.tags["config_hash"] == jobs.first.tags["config_hash"]
