"""--metrics: which ones are measured, what is said of those that can't be, and that the rest of a run does
not depend on it.
"""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

import mlflow_forget
import mlruns_parser
from lethe.evaluation import METRICS, OF_MANY, Missing, chosen, is_undecided, names_in, needs_of
from lethe.experiment import measure as measurement
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.sweeps.sweep import run_all
from tests.own_store import store_in, there  # noqa: F401 (there: a fixture of every test here)

pytestmark = pytest.mark.slow

COSTLY = {"probe_score", "probe_gap", "relearn_steps", "relearn_censored", "anamnesis_index"}
OF_THIRDS = {entry.name for entry in METRICS if needs_of(entry.function) == ("model", "memorisation")}
OF_AUDITS = {entry.name for entry in METRICS if not OF_MANY.isdisjoint(needs_of(entry.function))}
QUICK = PipelineConfig(
    unlearn="random_mask", settings={"kappa": 0.5}, base=BaseConfig(epochs=2), report="skip"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("choice")
    (place / "mine.py").write_text(
        "def halved(model):\n    return model.metric('forget_score') / 2\n\n"
        "def mia(model):\n    return 0.0\n\n"
        "def divided(model, oracles):\n    return 1.0\n"
    )
    return place


def names(*words: str) -> list[str]:
    return [entry.name for entry in chosen(words)]


def test_default_is_all_that_is_not_costly_nor_of_many_models():
    assert set(names("default")) == set(METRICS.names) - COSTLY - OF_THIRDS - OF_AUDITS
    assert set(names("all")) == set(METRICS.names)


def test_names_are_in_any_case_and_once_each():
    assert names("RUA", "forget_score", "rua") == ["rUA", "forget_score"]
    assert names("forget_score", "Default")[0] == "forget_score"
    left_out = COSTLY | OF_THIRDS | OF_AUDITS
    assert len(names("default", "probe_score")) == len(METRICS.names) - len(left_out) + 1


# Where a metric is shown


def test_the_groups_are_those_of_the_tables():
    five = ["forget_loss", "retain_loss", "forget_probability", "forget_score", "retain_score"]
    gaps = ["avg_gap", "avg_gap_without_mia"]

    assert names_in("headline")[:5] == five and names_in("headline")[-3:] == [*gaps, "rUA"]
    assert names_in("overview") == [*five, "mia", *gaps]
    assert names_in("summary") == [
        *five[3:],
        "test_score",
        "test_forget_score",
        "test_retain_score",
        "mia",
        *gaps,
    ]
    assert len(names_in("attack")) == 7


@pytest.mark.parametrize(
    ("name", "of_classes", "of_images"),
    [
        ("forget_score", "lower", "near the ideal's"),
        ("forget_loss", "higher", "near the ideal's"),
        ("retain_score", "higher", "higher"),
        ("mia_auc", "near the ideal's", "near 0.5"),
        ("mia", "near the ideal's", "near the ideal's"),
    ],
)
def test_the_direction_that_is_good_depends_on_what_was_forgotten(name, of_classes, of_images):
    facts = METRICS[name].facts

    assert (facts.direction(True), facts.direction(False)) == (of_classes, of_images)


@pytest.mark.parametrize("words", [(), ("",)])
def test_no_name_is_refused(words):
    reason = "--metrics: expected all, default or names separated by commas, got none"
    with pytest.raises(ValueError, match=reason):
        chosen(words)


def test_two_of_one_name_are_refused():
    reason = "--metrics: expected metrics of different names, got several called mia"
    with pytest.raises(ValueError, match=reason):
        chosen(["mia", "mine.py:mia"])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            "forget_scor",
            "--metrics: unknown metric 'forget_scor'. Did you mean 'forget_score'? Metrics: "
            "activation_distance, ",
        ),
        (",", "--metrics: expected all, default or names separated by commas, got none. Name at least one"),
        ("nothing.py:f", "expected path/to/file.py:function, got 'nothing.py:f'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left(value, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert mlflow_forget.main(["--unlearn", "FT", "--metrics", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()

    assert line.startswith("error: ")
    assert says in line
    assert list(tmp_path.iterdir()) == []


def test_the_list_has_every_metric(capsys):
    assert mlflow_forget.main(["--list"]) == 0
    out = capsys.readouterr().out
    first = {line.split(" ")[0] for line in out.splitlines()}

    assert set(METRICS.names) <= first
    assert max(map(len, out.splitlines())) <= 140


def test_only_what_is_asked_for_is_measured_and_written():
    result = Pipeline(replace(QUICK, metrics=("forget_score", "tow"))).run()
    run = MlflowClient().get_run(result.run_id).data

    assert set(result.metrics) == {"forget_score", "tow"}
    assert (set(result.initial), set(result.ideal)) == ({"forget_score"}, {"forget_score"})
    assert not {"mia", "initial_mia", "retain_score", "speedup"} & set(run.metrics)
    assert run.params["metrics"] == "forget_score,tow"
    assert json.loads(result.json_path.read_text())["metrics"] == result.metrics
    assert result.undefined == {}


@pytest.fixture(scope="module")
def everything(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store_in(folder))
        return Pipeline(replace(QUICK, metrics=("all",))).run()


def test_a_value_does_not_depend_on_what_else_is_asked_for(everything):
    some = Pipeline(replace(QUICK, metrics=("mia_auc", "probe_gap", "zrf"))).run()

    assert some.metrics == {name: everything.metrics[name] for name in ("mia_auc", "probe_gap", "zrf")}
    undecided = {name for name in METRICS.names if is_undecided(name, everything.undefined)}
    assert set(everything.metrics) == set(METRICS.names) - OF_AUDITS - OF_THIRDS - undecided
    missing = {
        name.removeprefix("initial_").removeprefix("ideal_")
        for name, why in everything.undefined.items()
        if not why.undecided
    }
    assert missing == OF_AUDITS | OF_THIRDS
    assert COSTLY - {"probe_gap", "anamnesis_index"} <= set(everything.ideal)


def test_another_choice_is_another_setting_and_overwrites_nothing():
    pipelines = [
        Pipeline(replace(QUICK, metrics=metrics))
        for metrics in (("forget_score",), ("mia_auc",), ("mia_auc", "zrf"))
    ]
    paths = {pipeline.run().json_path for pipeline in pipelines}

    assert len(paths) == 3


def test_what_is_missing_is_said_with_the_command_that_makes_it(capsys):
    words = "--unlearn random_mask --kappa 0.5 --epochs 2 --class_to_replace 3 --ideal skip --metrics all"
    assert mlflow_forget.main(words.split()) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not measured")]
    line, klom, ulira, of_both, thirds = sorted(lines, key=lambda line: line.partition(": needs ")[2])

    assert line.endswith(
        ": needs an ideal model. Make it: python -u main_ideal.py --epochs 2 --class_to_replace 3"
    )
    assert {"avg_gap", "tow", "rUA", "speedup", "probe_gap", "anamnesis_index"} <= set(
        re.findall(r"\w+", line)
    )
    assert klom.endswith(": needs many unlearned models and oracles (python -u audit.py klom --unlearn NAME)")
    assert ulira.endswith(": needs shadow models (python -u audit.py ulira --unlearn NAME)")
    shadows = "main_ideal.py --shadows 128 --epochs 2 --class_to_replace 3"
    assert thirds.endswith(f": needs the memorisation of the forget images. Make it: python -u {shadows}")
    assert of_both.endswith(shadows)


def test_a_users_own_metric_that_needs_what_nobody_has_is_said():
    result = Pipeline(replace(QUICK, metrics=("mine.py:divided", "mine.py:halved", "forget_score"))).run()

    assert result.metrics["halved"] == result.metrics["forget_score"] / 2
    assert result.undefined["divided"] == Missing("needs oracles (python -u audit.py klom --unlearn NAME)")


def test_everything_that_was_asked_for_is_shown(capsys):
    words = "--unlearn random_mask --kappa 0.5 --epochs 2 --metrics zrf,weight_distance"
    assert mlflow_forget.main(words.split()) == 0
    out = capsys.readouterr().out

    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("metric "))
    assert [line.split()[0] for line in lines[start + 2 : start + 4]] == ["zrf", "weight_distance"]


def test_warnings_do_not_depend_on_the_choice():
    def warnings(metrics):
        config = replace(QUICK, settings={"kappa": 0.999}, metrics=(metrics,))
        return [note for note in map(str, Pipeline(config).run().notes) if note.startswith("warning")]

    said = warnings("default")
    assert "destroyed the model: retain_score" in said[0]
    assert warnings("zrf") == said
    assert warnings("all") == said


def test_intermediate_models_get_what_is_asked_for():
    config = PipelineConfig(
        "FT",
        {"unlearn_epochs": 2},
        BaseConfig(epochs=2),
        checkpoint_epochs=(1, 2),
        metrics=("zrf", "speedup"),
    )
    result = Pipeline(config).run()

    assert set(result.metrics) == {"zrf", "speedup"}
    assert [set(values) for values in result.checkpoints.values()] == [{"zrf"}, {"zrf"}]


def test_with_intermediate_models_the_base_models_are_evaluated_once(monkeypatch):
    seen = []
    model_outputs = measurement.model_outputs
    monkeypatch.setattr(
        measurement,
        "model_outputs",
        lambda model, *a, **k: seen.append(model) or model_outputs(model, *a, **k),
    )
    config = PipelineConfig(
        "FT",
        {"unlearn_epochs": 2},
        BaseConfig(epochs=2),
        checkpoint_epochs=(1,),
        metrics=("forget_score", "fidelity"),
        report="skip",
    )
    Pipeline(config).run()

    assert len(seen) == 4  # the initial and the ideal model, the one after epoch 1, the final one


def test_one_forward_pass_per_image(monkeypatch):
    """All metrics of a model share it; only the costly ones train and ask again."""
    images = []
    run = nn.Module.__call__

    def counted(self, *args, **kwargs):
        if type(self).__name__ == "MLP" or isinstance(getattr(self, "linear1", None), nn.Linear):
            images.append(len(args[0]))
        return run(self, *args, **kwargs)

    pipeline = Pipeline(QUICK)
    initial, ideal = pipeline.base.initial().model, pipeline.base.ideal().model
    data, test = pipeline.checked.data, pipeline.base.splits.test
    every = len(data.forget) + len(data.retain) + len(data.validation) + len(test)
    monkeypatch.setattr(nn.Module, "__call__", counted)
    measurement.measure(
        initial, {"initial": initial, "ideal": ideal, "incompetent": pipeline.base.incompetent()}, data, test
    )

    tried = 4 * (2 + 1)  # each model is held to what a model has to give first
    assert sum(images) == tried + 3 * every + len(
        data.forget
    )  # the untrained model is asked about the forget set alone


def test_kept_values_are_added_to(monkeypatch):
    """A later run that asks for more measures only what is new."""
    pipeline = Pipeline(replace(QUICK, base=BaseConfig(epochs=1)))
    initial, data, test = pipeline.base.initial().model, pipeline.checked.data, pipeline.base.splits.test
    asked = []
    evaluate = measurement.evaluate

    def noted(**given):
        asked.extend(metric.name for metric in given["names"]) if "progress" in given else None
        return evaluate(**given)

    monkeypatch.setattr(measurement, "evaluate", noted)
    for metrics in (["mia_auc"], ["mia_auc", "forget_loss"], ["forget_loss"]):
        measurement.measure(initial, {"initial": initial}, data, test, metrics=chosen(metrics))

    assert asked == ["mia_auc", "forget_loss"]


# Over seeds


def test_several_seeds_are_summed_up(capsys):
    words = "--unlearn random_mask --kappa 0.5 --epochs 2 --seed 1 2 3 --metrics forget_score,js_divergence"
    assert mlflow_forget.main(words.split()) == 0
    out = capsys.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(out) if line.startswith("random_mask class0 kappa=0.5: mean ±"))

    assert out[start].endswith("over seeds 1, 2, 3")
    assert out[start + 1].split("  ")[0] == "metric"
    assert any(line.startswith("js_divergence") and " ± " in line for line in out[start:])


def test_the_parent_run_has_the_values_of_all_seeds_and_gaps_seed_by_seed():
    some = replace(QUICK, metrics=("forget_score", "retain_score"))
    results = run_all([replace(some, base=replace(some.base, seed=seed)) for seed in (1, 2)])
    store = MlflowClient()
    experiment = store.get_run(results[0].run_id).info.experiment_id
    parent = store.search_runs(
        [experiment], "tags.sweep = 'parent'", order_by=["attributes.start_time DESC"], max_results=1
    )[0]
    path = store.download_artifacts(parent.info.run_id, "over_seeds.json")
    found = json.loads(Path(path).read_text())["random_mask class0 kappa=0.5"]["retain_score"]
    ours, ideals = (
        [getattr(result, which)["retain_score"] for result in results] for which in ("metrics", "ideal")
    )

    assert (found["unlearned"]["values"], found["ideal"]["values"]) == (ours, ideals)
    assert found["gap"]["values"] == [a - b for a, b in zip(ours, ideals, strict=True)]
    assert found["gap"]["mean"] == pytest.approx(sum(found["gap"]["values"]) / 2)


def test_the_parser_has_the_choice_and_the_metrics(everything):
    assert mlruns_parser.main(["--all"]) == 0
    with Path("mlruns_parsed.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("metrics") == "all"]
    assert rows and all(float(row["probe_score"]) >= 0 for row in rows)


def test_a_curve_over_kappa_is_left_out_where_its_scores_were_not_asked_for():
    run_all(
        [replace(QUICK, settings={"kappa": kappa}, metrics=("zrf",), ideal="skip") for kappa in (0.2, 0.5)]
    )


def test_nan_weights_are_no_value(tmp_path):
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.weight, float("nan"))
    reason = "the unlearned model: expected logits with a finite maximum, got NaN or infinity"
    with pytest.raises(FloatingPointError, match=reason):
        from lethe.data import ImageSet
        from lethe.unlearn import ForgetData

        images, labels = torch.randn(8, 2), torch.arange(8) % 2
        data = ForgetData.of_tensors(images, labels, torch.arange(8) < 4)
        measurement.measure(broken, {"initial": nn.Linear(2, 2)}, data, ImageSet.of_tensors(images, labels))


# What a sweep says, and what is refused before it


def test_a_sweep_says_what_was_not_measured_once(capsys):
    words = "--unlearn random_mask --class_to_replace 3 --epochs 2 --ideal skip --kappa 0.2 0.5 "
    words += "--metrics mia_auc,rUA"
    assert mlflow_forget.main(words.split()) == 0
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not measured")]

    assert missing == [
        "not measured: rUA: needs an ideal model. Make it: python -u main_ideal.py --epochs 2 "
        "--class_to_replace 3"
    ]


def test_the_same_run_twice_is_refused(capsys):
    words = "--unlearn random_mask --kappa 0.5 --epochs 2 --seed 1 2 1"
    assert mlflow_forget.main(words.split()) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(
            "expected every run once, got the same twice: random_mask with kappa 0.5, seed 1. Leave out the "
            "repeated value"
        )
    )


def test_a_need_that_there_is_none_of_is_refused(folder, capsys):
    (folder / "needy.py").write_text("def needy(model, orcales):\n    return 1.0\n")
    assert mlflow_forget.main(["--unlearn", "default", "--metrics", f"{folder / 'needy.py'}:needy"]) == 2
    assert "needy: expected parameters among model, ideal, " in capsys.readouterr().err


def test_the_scores_of_each_image_are_those_of_the_attacks_that_were_asked_for():
    pipeline = Pipeline(replace(QUICK, base=BaseConfig(epochs=1)))
    initial, data, test = pipeline.base.initial().model, pipeline.checked.data, pipeline.base.splits.test
    scores = [
        set(
            measurement.measure(initial, {"initial": initial}, data, test, metrics=chosen(words))
            .outputs["unlearned model"]
            .attacks
        )
        for words in (["default"], ["mia_auc"], ["mia"], ["mia_prob"])
    ]

    assert {"mia_confidence", "mia_prob"} <= scores[0]
    assert scores[1:] == [set(), {"mia_confidence"}, {"mia_prob"}]
