"""The main job on digits, as a person runs it: what it computes, what it leaves behind, and how it ends."""

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import main_baseline
import main_ideal
import mlflow_forget
from base_models import BaseConfig
from models import ARCHITECTURES
from pipeline import Pipeline, PipelineConfig
from training import load_mask
from unlearn import METHODS
from vision_data import ForgetRequest, load_splits

ROOT = Path(__file__).resolve().parent.parent
MIMU = ("--unlearn", "MIMU", "--epochs", "2", "--gcn_steps", "3")
RANDOM = ("--unlearn", "random_mask", "--epochs", "2")

FIVE = ("forget_loss", "retain_loss", "forget_probability", "forget_score", "retain_score")
MIA = ("mia", "mia_lr", "mia_auc", "mia_correctness", "mia_confidence", "mia_entropy", "mia_m_entropy", "mia_prob")
MEASURED = (*FIVE, *(f"test_{name}" for name in FIVE), "test_loss", "test_score", *MIA, "rf_js_divergence", "zrf")
AGAINST_THE_IDEAL = ("avg_gap", "rUA", "tow", "fidelity", "js_divergence", "activation_distance")

METHODS_OF_A_USER = '''
import copy
import torch
from models import Mask, switched_off
from unlearn import Unlearned

def scale(model, data, *, factor: float = 0.5):
    """Scale every weight."""
    student = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(factor * torch.nn.utils.parameters_to_vector(student.parameters()).detach(), student.parameters())
    return student

def halve(model, data):
    """Halve every weight."""
    return scale(model, data)

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
from vision_data import RawDataset

def tiny(folder):
    """Three classes of noise."""
    draw = torch.Generator().manual_seed(0)
    def part(count):
        return torch.randint(256, (count, 1, 4, 4), dtype=torch.uint8, generator=draw), torch.arange(count) % 3
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
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()], order_by=["attributes.start_time"]))


def call(folder: Path, *argv: str, main: Any = mlflow_forget.main, store: str = "mlflow.db") -> Outcome:
    """A script's main in `folder`, its output caught."""
    known = {run.info.run_id for run in all_runs(folder, store)} if (folder / store).exists() else set()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    runs = [run for run in all_runs(folder, store) if run.info.run_id not in known] if (folder / store).exists() else []
    return Outcome(code, out.getvalue(), err.getvalue(), runs)


def saved(outcome: Outcome, name: str) -> dict[str, torch.Tensor]:
    return load_file(outcome.artifacts / name)


def raw_json(outcome: Outcome) -> Any:
    """The raw metrics, read by the letter of JSON: no NaN, no Infinity."""

    def refused(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    (path,) = outcome.artifacts.glob("*.json")
    return json.loads(path.read_text(), parse_constant=refused)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture(autouse=True, scope="module")
def default_store() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
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


@pytest.fixture(scope="module")
def jobs(folder) -> Jobs:
    outcomes, files, checkpoint = [], [], []
    for flags in ((), (), ("--class-to-replace", "3")):
        outcomes.append(call(folder, *MIMU, *flags))
        files.append(files_below(folder))
        checkpoint.append((folder / "results/digits/1mlp_ep2.safetensors").read_bytes())
    return Jobs(*outcomes, files, checkpoint)


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
    flags = {action.dest for action in mlflow_forget.flags(METHODS["MIMU"], ARCHITECTURES["mlp"])._actions}
    flags -= {"help", "list", "config", "skip_finished"}  # where flags come from, and whether anything is done at all

    assert flags - set(jobs.first.params) == set()


def test_params_hold_the_resolved_values(jobs):
    counts = [len(load_digits().target[load_digits().target == label]) for label in range(10)]
    train = [n - round(0.2 * n) - round(0.1 * (n - round(0.2 * n))) for n in counts]
    wanted = {
        "unlearn": "MIMU", "dataset": "digits", "arch": "mlp", "seed": "1", "split_seed": "0", "epochs": "2", "class_to_replace": "0",
        "hidden": "(128, 64)", "topk": "50", "topk_count": "50", "kappa": "0.1", "kappa_count": str(round(0.1 * 128 * 64)),
        "gcn_steps": "3", "request": "class0", "forget_count": str(train[0]), "retain_count": str(sum(train[1:])),
        "experiment": "digits-mlp", "ideal": "auto", "device": "cuda:0" if torch.cuda.is_available() else "cpu",
    }  # fmt: skip

    assert {name: jobs.first.params.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("prefix", ["", "initial_", "ideal_"])
def test_metrics_have_the_names_of_the_specification(prefix, jobs):
    assert {prefix + name for name in MEASURED} - set(jobs.first.metrics) == set()


def test_the_unlearned_model_alone_is_compared_with_the_ideal(jobs):
    assert set(AGAINST_THE_IDEAL) <= set(jobs.first.metrics)
    assert not {f"{of}_{name}" for of in ("initial", "ideal") for name in AGAINST_THE_IDEAL} & set(jobs.first.metrics)


def test_the_incompetent_teacher_is_only_compared_with(jobs):
    assert not [name for name in (*jobs.first.metrics, *jobs.first.tags) if "incompetent" in name]


def test_avg_gap_is_the_mean_distance_to_the_ideal(jobs):
    metrics = jobs.first.metrics
    compared = ("forget_score", "retain_score", "test_retain_score", "mia")

    assert metrics["avg_gap"] == pytest.approx(sum(abs(metrics[name] - metrics[f"ideal_{name}"]) for name in compared) / 4)


def test_the_raw_json_holds_the_metrics_at_full_precision(jobs):
    raw, metrics = raw_json(jobs.first), jobs.first.metrics
    measured = raw["metrics"] | {f"{of}_{name}": value for of in ("initial", "ideal") for name, value in raw[of].items()}

    assert measured == {name: metrics.get(name) for name in measured}
    assert set(measured) >= {*MEASURED, *(f"initial_{name}" for name in MEASURED), "avg_gap"}
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
    assert all(torch.equal(unlearned[name].view(torch.int32), model[name].view(torch.int32)) for name in model)


def scores_by_hand(weights: dict[str, torch.Tensor], request: ForgetRequest) -> dict[str, float]:
    """The scores of a bias-free MLP with these weights, by three products."""
    splits = load_splits("digits", "./data", 0)
    forget, retain = request.divide(splits.train, 10, 0)

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
    [("", "unlearned.safetensors"), ("initial_", "1mlp_ep2.safetensors"), ("ideal_", "1mlp_ep2_ideal_class0.safetensors")],
)
def test_the_logged_scores_are_those_of_the_saved_weights(prefix, file, folder, jobs):
    path = jobs.first.artifacts / file if prefix == "" else folder / "results/digits" / file
    by_hand = scores_by_hand(load_file(path), ForgetRequest())

    assert {name: jobs.first.metrics[prefix + name] for name in by_hand} == pytest.approx(by_hand)


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def assert_sensible(path: Path) -> None:
    width, height = png_size(path)
    assert 500 <= width <= 2000
    assert 300 <= height <= 1500
    assert 5_000 < path.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["class_probabilities", "margins", "layer", "layer_weights"])
def test_a_masking_run_has_pictures(name, jobs):
    assert_sensible(jobs.first.artifacts / f"pictures/{name}.png")


def test_forget_retain_and_test_set_are_inputs(jobs):
    inputs = {tag.value: given.dataset for given in jobs.first.run.inputs.dataset_inputs for tag in given.tags}

    assert set(inputs) == {"forget", "retain", "test"}
    assert len({dataset.digest for dataset in inputs.values()}) == 3
    assert all("digits" in dataset.name for dataset in inputs.values())


@pytest.mark.parametrize(("name", "steps"), [("unlearn_loss", 3), ("initial_train_loss", 2), ("initial_train_score", 2)])
def test_there_is_a_history_of_each_training(name, steps, folder, jobs):
    points = client_of(folder).get_metric_history(jobs.first.run.info.run_id, name)

    assert [point.step for point in points] == list(range(1, steps + 1))
    assert len({point.value for point in points}) == steps


def test_stages_have_their_seconds(jobs):
    metrics = jobs.first.metrics
    stages = [metrics[f"stage_{name}_seconds"] for name in ("tracking_start", "initial", "ideal", "unlearn", "evaluate", "report")]

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
    assert re.search(rf"^avg_gap +{metrics['avg_gap']:.3f}$", out, re.MULTILINE)
    assert re.search(r"^stage +seconds$", out, re.MULTILINE)
    assert "mlflow ui" in out
    assert "sqlite:///mlflow.db" in out
    assert "eval/metrics_and_plots/json/" in out


# Again


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    """Without times, the training that a second run has no need of, and whether a network came from the cache."""
    return {
        name: value
        for name, value in metrics.items()
        if not name.endswith("_seconds") and not name.startswith("initial_train_") and name not in ("network_cached", "speedup")
    }


def test_the_same_command_measures_the_same(jobs):
    assert jobs.again.code == 0
    assert timeless(jobs.again.metrics) == timeless(jobs.first.metrics)
    assert len(timeless(jobs.first.metrics)) > 3 * len(MEASURED)


def test_the_second_run_loads_what_the_first_one_trained(jobs):
    assert jobs.again.params["initial_model"] == jobs.again.params["ideal_model"] == "loaded"
    assert jobs.again.params["initial_digest"] == jobs.first.params["initial_digest"]
    assert jobs.checkpoint[0] == jobs.checkpoint[1] == jobs.checkpoint[2]
    assert {f for f in jobs.files[1] if f.startswith("results/")} == {f for f in jobs.files[0] if f.startswith("results/")}


def test_the_network_of_a_model_is_trained_once_for_all_classes(jobs):
    assert [outcome.metrics["network_cached"] for outcome in (jobs.first, jobs.again, jobs.other_class)] == [0, 1, 1]
    assert jobs.other_class.params["request"] == "class3"
    mine, others = saved(jobs.first, "mask.safetensors")["mask"], saved(jobs.other_class, "mask.safetensors")["mask"]
    assert not torch.equal(mine, others)


def test_config_hash_is_the_same_for_the_same_settings_alone(jobs, sweep, some_images):
    children = [run.data.tags["config_hash"] for run in sweep.runs if "config_hash" in run.data.tags]
    others = [jobs.other_class.tags["config_hash"], some_images.tags["config_hash"], *children]

    assert jobs.first.tags["config_hash"] == jobs.again.tags["config_hash"]
    assert len({jobs.first.tags["config_hash"], *others}) == 1 + len(others) == 7


def test_save_dir_holds_checkpoints_and_the_cache_only(jobs):
    kept = {name.removeprefix("results/digits/") for name in jobs.files[2] if name.startswith("results/")}
    cached = {name for name in kept if re.fullmatch(r"cache/([0-9a-f]+\.safetensors|locks/[0-9a-f]+\.safetensors\.lock)", name)}

    models = {f"1mlp_ep2{which}.safetensors" for which in ("", "_ideal_class0", "_ideal_class3")}
    assert kept - cached == models | {f"locks/{model}.lock" for model in models}
    assert cached


def test_nothing_is_left_anywhere_else(jobs):
    ours = {"results", "eval", "mlruns", "mlflow.db", ".mlflow.db.0.lock"}
    assert {name.partition("/")[0] for name in jobs.files[2]} == ours | {"mine.py", "tiny.py"}
    assert not [name for name in jobs.files[2] if name.endswith(".partial")]


def test_hyphens_are_underscores(folder, jobs):
    hyphens = call(folder, "--unlearn", "mimu", "--epochs=2", "--gcn-steps", "3", "--class-to-replace=3", "--split-seed", "0")

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
    picture = artifacts_of(parent) / "pictures/forget_and_retain_over_kappa.png"

    assert_sensible(picture)


def test_every_combination_has_its_own_json(folder, sweep):
    kinds = [folder / f"eval/metrics_and_plots/json/mlp_digits_top-none_kappa_{kappa}" for kappa in ("0.1", "0.5")]

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

    outcome = call(folder, *RANDOM, "--forget-indexes", "indexes.txt", "--ideal", "skip")

    assert outcome.code == 0
    assert (outcome.params["forget_count"], outcome.params["forget_indexes"]) == ("20", "indexes.txt")
    assert outcome.params["request"].startswith("indexes-")


# The ideal model


def printed_command(outcome: Outcome) -> list[str]:
    (words,) = re.findall(r"python (-u main_ideal\.py.*)", outcome.out)
    return shlex.split(words)


@pytest.mark.parametrize("ideal", ["auto", "skip"])
def test_without_the_ideal_model_the_command_that_makes_it_is_printed(ideal, folder):
    outcome = call(folder, *RANDOM, "--dataset", "tiny.py:tiny", "--arch", "mlp", "--kappa", "5", "--ideal", ideal)

    assert outcome.code == 0
    assert outcome.params["ideal_model"] == "none"
    assert not [name for name in outcome.metrics if name.startswith("ideal_") or name in AGAINST_THE_IDEAL]
    assert {f"undefined.{name}" for name in AGAINST_THE_IDEAL} <= set(outcome.tags)
    assert printed_command(outcome)


def test_the_printed_command_makes_the_ideal_model_and_auto_loads_it(folder):
    job = (*RANDOM, "--dataset", "tiny.py:tiny", "--arch", "mlp", "--hidden", "8,4", "--kappa", "5", "--class_to_replace", "2")
    job = (*job, "--save_dir", str(folder / "tiny models"))
    command = printed_command(call(folder, *job))
    (folder / "main_ideal.py").symlink_to(ROOT / "main_ideal.py")

    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=120)
    then = call(folder, *job)

    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / "tiny models/1mlp_ep2_hidden8-4_ideal_class2.safetensors") in done.stdout
    assert then.params["ideal_model"] == "loaded"
    assert "avg_gap" in then.metrics


def test_train_makes_the_ideal_model_of_any_dataset(folder):
    outcome = call(folder, *RANDOM, "--dataset", "tiny.py:tiny", "--arch", "mlp", "--kappa", "5", "--ideal", "train", "--save_dir", "train")

    assert outcome.params["ideal_model"] == "trained"
    assert (folder / "train/1mlp_ep2_ideal_class0.safetensors").is_file()
    assert "main_ideal.py" not in outcome.out


@pytest.mark.parametrize(
    ("main", "name"), [(main_baseline.main, "1mlp_ep1.safetensors"), (main_ideal.main, "1mlp_ep1_ideal_class4.safetensors")]
)
def test_base_models_are_trained_once_and_shown(main, name, tmp_path):
    first = call(tmp_path, "--epochs", "1", "--class_to_replace", "4", main=main)
    again = call(tmp_path, "--epochs", "1", "--class_to_replace", "4", main=main)
    scores = re.findall(r"(validation|test) score(?: of the retained classes)? (\d+\.\d\d) %", first.out)

    assert (first.code, again.code) == (0, 0)
    assert re.search(rf"model trained in [\d.]+ s: results/digits/{re.escape(name)}", first.out)
    assert re.search(rf"model loaded: results/digits/{re.escape(name)}", again.out)
    assert [which for which, _ in scores] == ["validation", "test"]
    assert scores == re.findall(r"(validation|test) score(?: of the retained classes)? (\d+\.\d\d) %", again.out)
    assert files_below(tmp_path) == {f"results/digits/{name}", f"results/digits/locks/{name}.lock"}


def test_the_baseline_is_trained_on_all_and_the_ideal_without_the_forget_set(folder):
    flags = ("--epochs", "15", "--class_to_replace", "4", "--save_dir", "fifteen")
    for main in (main_baseline.main, main_ideal.main):
        call(folder, *flags, main=main)
    outcome = call(folder, "--unlearn", "default", *flags)

    assert outcome.metrics["initial_forget_score"] > 80
    assert outcome.metrics["ideal_forget_score"] == 0
    assert outcome.metrics["ideal_test_retain_score"] > 80
    assert outcome.params["initial_model"] == outcome.params["ideal_model"] == "loaded"


# A person's own method, and Python


@pytest.mark.parametrize(
    ("words", "factor"),
    [(("mine.py:halve",), 0.5), (("mine.py:scale",), 0.5), (("mine.py:scale", "--factor", "0.25"), 0.25)],
)
def test_a_method_from_a_file_runs(words, factor, folder, jobs):
    outcome = call(folder, "--unlearn", *words, "--epochs", "2", "--ideal", "skip")
    initial = load_file(folder / "results/digits/1mlp_ep2.safetensors")
    unlearned = saved(outcome, "unlearned.safetensors")

    assert outcome.code == 0, outcome.err
    assert all(torch.equal(unlearned[name], factor * initial[name]) for name in initial)
    assert outcome.params.get("factor", "0.5") == str(factor)
    assert not (outcome.artifacts / "mask.safetensors").exists()


def test_a_mask_of_a_users_method_is_counted_kept_and_drawn(folder, jobs):
    outcome = call(folder, "--unlearn", "mine.py:first_rows", "--rows", "2", "--epochs", "2")

    assert outcome.code == 0, outcome.err
    assert outcome.params["kappa_count"] == str(2 * 128)
    assert load_mask(outcome.artifacts / "mask.safetensors").kappa_count == 2 * 128
    assert_sensible(outcome.artifacts / "pictures/layer.png")


def test_fewer_weights_than_asked_for_are_a_warning_and_the_true_number_a_param(folder, jobs):
    outcome = call(folder, *MIMU, "--ranking", "set_difference", "--topk", "50")
    masked = load_mask(outcome.artifacts / "mask.safetensors").kappa_count

    assert masked <= 50 < round(0.1 * 64 * 128)
    assert outcome.params["kappa_count"] == str(masked)
    assert f"{masked} weights were switched off, fewer than the {round(0.1 * 64 * 128)} asked for" in outcome.tags["warning"]
    assert outcome.tags["warning"] in outcome.out


def test_two_methods_of_one_name_do_not_share_a_hash(folder, jobs):
    (folder / "other.py").write_text(METHODS_OF_A_USER.replace("0.5", "0.125"))
    mine, other = (call(folder, "--unlearn", f"{file}.py:halve", "--epochs", "2", "--ideal", "skip") for file in ("mine", "other"))

    assert mine.tags["config_hash"] != other.tags["config_hash"]


def test_the_experiment_is_an_object_too(folder, jobs):
    config = PipelineConfig(unlearn="random_mask", settings={"kappa": 5}, base=BaseConfig(epochs=2), experiment="from Python")
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


# Ends


def test_an_exception_ends_the_run_failed(folder, jobs):
    with pytest.raises(RuntimeError, match="the weights fell out"):
        call(folder, "--unlearn", "mine.py:broken", "--epochs", "2")
    run = all_runs(folder)[-1]
    trace = (artifacts_of(run) / "error.txt").read_text()

    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "RuntimeError: the weights fell out"
    assert "Traceback (most recent call last)" in trace
    assert "in broken" in trace
    assert mlflow.active_run() is None


def test_ctrl_c_ends_the_run_killed(folder, jobs):
    outcome = call(folder, "--unlearn", "mine.py:stopped", "--epochs", "2")

    assert outcome.code == 130
    assert outcome.run.info.status == "KILLED"
    assert "interrupted" in outcome.err
    assert "Traceback" not in outcome.err
    assert call(folder, *RANDOM).run.info.status == "FINISHED"


def test_ctrl_c_in_one_of_several_ends_all_that_run_killed(folder, jobs):
    outcome = call(folder, "--unlearn", "mine.py:stopped", "--epochs", "2", "--seed", "1", "2")

    assert outcome.code == 130
    assert [run.info.status for run in outcome.runs] == ["KILLED", "KILLED"]  # the parent and its first child


def training(folder: Path) -> bool:
    """Whether the run has noted its settings, after which it trains. Read beside the job, without disturbing it."""
    if not (folder / "mlflow.db").exists():
        return False
    with closing(sqlite3.connect(f"file:{folder / 'mlflow.db'}?mode=ro", uri=True)) as store, contextlib.suppress(sqlite3.OperationalError):
        return bool(store.execute("SELECT 1 FROM params JOIN runs USING (run_uuid) WHERE status = 'RUNNING'").fetchall())
    return False


def started(folder: Path, argv: Sequence[str]) -> subprocess.Popen[str]:
    """The job as a process of its own, with Ctrl-C at its default even where pytest runs in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-u", str(ROOT / "mlflow_forget.py"), *argv],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, previous)


def test_signals_end_a_training_run_killed_and_the_next_start_works(folder, jobs, tmp_path_factory):
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143}
    folders = {name: tmp_path_factory.mktemp(name.name) for name in expected}
    for place in folders.values():
        shutil.copy(folder / "mlflow.db", place)  # making a new store takes seconds
    processes = {name: started(place, ["--unlearn", "random_mask", "--epochs", "1000000"]) for name, place in folders.items()}
    try:
        for name, process in processes.items():
            deadline = time.monotonic() + 60
            while not training(folders[name]) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(0.5)
            process.send_signal(name)
            _, err = process.communicate(timeout=30)

            assert process.returncode == expected[name], err
            assert "Traceback" not in err
            assert all_runs(folders[name])[-1].info.status == "KILLED"
            assert {file for file in files_below(folders[name] / "results") if not file.endswith((".state", ".lock"))} == set()
            assert call(folders[name], *RANDOM).run.info.status == "FINISHED"
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
