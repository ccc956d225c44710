"""lethe tune: the ranges, a search that is killed and shared, what it may look at, and what it leaves."""

import csv
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from own_store import runs, store_in, there  # noqa: F401 (every test runs in the module's folder)

import mlflow_forget
import tune
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.measure import INCOMPETENT, measure
from lethe.experiment.run_config import PipelineConfig
from lethe.report.tuning_page import Point, SearchFacts, tuning_pictures
from lethe.signature import Search as Drawn
from lethe.tracking.alive import OWNER
from lethe.tuning.objective import Failed, Objective, TrialResult, objectives_named
from lethe.tuning.space import Range, space_of
from lethe.tuning.study import NUMBER, Limit, Search
from lethe.tuning.tune import TuneConfig, _warnings
from lethe.unlearn import METHODS, unlearn

optuna = pytest.importorskip("optuna")
SSD = METHODS["SSD"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


# Ranges


def ranges(tmp_path, text, fixed=()):
    file = tmp_path / "ranges.yml"
    file.write_text(text)
    return {one.name: one for one in space_of(SSD, fixed, file)}


def test_the_ranges_are_those_of_the_annotations_without_the_fixed_flags():
    found = {one.name: one.search for one in space_of(SSD, ["batch_size"])}

    assert found == {name: SSD.hyperparameters[name].search for name in ("selection_alpha", "dampening")}


def test_a_file_narrows_a_range_and_keeps_what_it_does_not_say(tmp_path):
    found = ranges(tmp_path, "dampening: {low: 0.5, high: 2}\nselection-alpha: [1, 10]\n")

    assert found["dampening"].search == Drawn("log", 0.5, 2)
    assert found["selection_alpha"].values == (1.0, 10.0)
    assert found["batch_size"].search == SSD.hyperparameters["batch_size"].search


MISTAKES = {
    "a flag that is none": ("dampenin: {low: 1, high: 2}", r"line 1: .*--dampenin\b.*--dampening"),
    "a range outside the bounds": ("batch_size: {low: 0, high: 2}", "line 1: .*batch_size.*>= 1.*got 0"),
    "ends that are swapped": ("dampening: {low: 2, high: 1}", "line 1: expected low < high, got 2 and 1"),
    "ends that are equal": ("dampening: {low: 2, high: 2}", "expected low < high, got 2 and 2"),
    "a scale that is none": ("dampening: {low: 1, high: 2, scale: cubic}", "linear or log, got 'cubic'"),
    "a word as an end": ("dampening: {low: small, high: 2}", "expected numbers as low and high, got 'small'"),
    "an infinite end": ("dampening: {low: 1, high: .inf}", "expected numbers as low and high, got inf"),
    "an unknown key": ("dampening: {lowest: 1}", "expected low, high, scale, got lowest"),
    "a value of another type": ("batch_size: [1, two]", "line 1: .*batch_size.*'two'"),
    "an empty list": ("dampening: []", r"expected a range or a list, got \[\]"),
    "one number": ("\ndampening: 2", "line 2: expected a range or a list, got 2"),
    "a list of flags": ("[dampening]", "expected flags and their ranges"),
    "nothing": ("", "expected flags and their ranges"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_the_ranges_is_one_line_with_its_place(what, tmp_path):
    text, message = MISTAKES[what]

    with pytest.raises(ValueError, match=message) as error:
        ranges(tmp_path, text)
    assert "ranges.yml" in str(error.value) and "\n" not in str(error.value)


def test_a_flag_whose_default_the_method_resolves_is_drawn_as_an_integer():
    found = {one.name: one.whole for one in space_of(METHODS["SCRUB"], [])}

    assert (found["unlearn_epochs"], found["unlearn_lr"]) == (True, False)


def test_a_range_has_the_default_that_its_annotation_does_not_know():
    found = {one.name: one.search for one in space_of(METHODS["fisher"], [])}
    assert found["fisher_alpha"] == Drawn("log", 1e-10, 1000)

    # A default of 0 has no place on a log scale.
    found = {one.name: one.search for one in space_of(METHODS["NegMerge"], [])}
    assert found["weight_decay"] == METHODS["NegMerge"].hyperparameters["weight_decay"].search


def test_where_a_value_lies_in_its_range():
    log = Range(SSD.hyperparameters["dampening"], Drawn("log", 0.01, 100))

    assert [log.end_of(value) for value in (0.0101, 1.0, 99.0, None)] == ["low", "", "high", ""]


# The search, of a function that is known


def space():
    return [
        Range(SSD.hyperparameters["dampening"], Drawn("log", 0.01, 100)),
        Range(SSD.hyperparameters["batch_size"], Drawn("log", 1, 1000)),
    ]


def search_in(folder, name="own", objectives=("gap",), seed=0):
    defaults = {"dampening": 1.0, "batch_size": None}
    return Search(folder / f"{name}.journal", "tune", space(), defaults, objectives, seed)


def bowl(number, settings):
    """Its least value is at dampening 10, which trial 0, the default of 1, is not."""
    distance = abs(math.log10(settings.get("dampening", 1.0)) - 1)
    if settings.get("batch_size", 64) > 700:
        raise Failed("it diverged")
    return TrialResult({"gap": distance, "seconds": 1 / (1 + distance)}, {"seed101_mia": 50.0}, 0.5)


def ran(search, trials, value_of=bowl):
    search.run(value_of, Limit(trials), lambda one: None)
    return search.tried()


def test_the_defaults_are_trial_0(tmp_path):
    first, second = ran(search_in(tmp_path), 2)

    assert (first.number, first.settings, first.losses) == (0, {}, {"gap": 1.0})
    assert set(second.settings) == {"dampening", "batch_size"}
    assert 0.01 <= second.settings["dampening"] <= 100 and isinstance(second.settings["batch_size"], int)


def test_a_search_that_stopped_goes_on_as_if_it_had_not(tmp_path):
    whole = ran(search_in(tmp_path, "whole"), 14)
    for trials in (1, 5, 9, 14):
        parts = ran(search_in(tmp_path, "parts"), trials)

    assert parts == whole
    assert any(one.reason == "it diverged" for one in whole)


def test_another_search_seed_draws_others(tmp_path):
    assert ran(search_in(tmp_path), 3)[1:] != ran(search_in(tmp_path, "other", seed=1), 3)[1:]


def test_a_killed_process_s_trial_is_drawn_again(tmp_path):
    """What kill -9 leaves: a trial that is running, whose process has died."""
    whole = ran(search_in(tmp_path, "whole"), 8)
    search = search_in(tmp_path)
    ran(search, 4)

    class Killed(BaseException):
        pass

    def killed(number, settings):
        raise Killed

    with pytest.raises(Killed):
        ran(search, 8, killed)
    (left,) = [trial for trial in search.study.trials if trial.state.name == "RUNNING"]
    assert (left.user_attrs[NUMBER], search.running()) == (4, 1)
    optuna.trial.Trial(search.study, left._trial_id).set_user_attr(OWNER, owner_that_died(left))

    assert ran(search_in(tmp_path), 8) == whole


def owner_that_died(trial):
    host, _, token = trial.user_attrs[OWNER].split()
    return f"{host} {dead_process()} {token}"


def dead_process():
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    return process


def test_a_trial_that_another_process_runs_counts(tmp_path):
    search = search_in(tmp_path)

    def inside(number, settings):
        if number == 1:
            other = search_in(tmp_path)
            assert (other.running(), [one.number for one in ran(other, 3)]) == (1, [0, 2])
        return bowl(number, settings)

    assert [one.number for one in ran(search, 3, inside)] == [0, 1, 2]


def test_a_failed_trial_is_worse_than_all_others(tmp_path):
    def fails(number, settings):
        if number:
            raise Failed("it diverged")
        return bowl(number, settings)

    search = search_in(tmp_path)
    tried = ran(search, 3, fails)

    assert [one.reason for one in tried] == ["", "it diverged", "it diverged"]
    assert [one.number for one in search.best()] == [0]


def test_a_search_without_any_value_has_no_best(tmp_path):
    def fails(number, settings):
        raise Failed("it diverged")

    search = search_in(tmp_path)
    ran(search, 2, fails)

    assert search.best() == []
    assert _warnings([], space()) == ["no trial has a value. The lines of the trials say why"]


def test_several_objectives_give_the_pareto_front(tmp_path):
    losses = [(1.0, 4.0), (2.0, 2.0), (3.0, 3.0), (4.0, 1.0)]  # the third is worse than the second in both

    def value_of(number, settings):
        return TrialResult(dict(zip(("gap", "seconds"), losses[number], strict=True)), {}, 0.0)

    search = search_in(tmp_path, objectives=("gap", "seconds"))
    ran(search, 4, value_of)

    assert [one.number for one in search.best()] == [0, 1, 3]


def test_a_budget_of_seconds_ends_the_search(tmp_path):
    search = search_in(tmp_path)
    search.run(lambda number, settings: TrialResult({"gap": 1.0}, {}, 2.5), Limit(20, 6.0), lambda one: None)

    assert len(search.tried()) == 3  # 2.5 and 5 seconds are below 6


def test_the_flag_that_matters_is_the_important_one(tmp_path):
    search = search_in(tmp_path)
    ran(search, 20)
    shares = search.importances()

    assert shares == search_in(tmp_path).importances()
    assert shares["dampening"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_a_damaged_file_is_one_line(tmp_path):
    ran(search_in(tmp_path), 1)
    file = tmp_path / "own.journal"
    file.write_text("{}\n" + file.read_text())

    with pytest.raises(ValueError, match=r"own\.journal: expected Optuna's journal .*Move it away"):
        search_in(tmp_path)


def test_a_slice_leaves_out_a_value_that_its_log_scale_has_not():
    points = [Point(n, 1.0, {"weight_decay": value}) for n, value in enumerate((0.0, None, 0.1, 0.01))]
    facts = SearchFacts("NegMerge", "gap", points, [0], {"weight_decay": "log"}, {}, [], [], [], [], "")

    _, picture = tuning_pictures(facts)
    assert (picture.name, picture.alt) == ("slice_weight_decay", "gap over weight_decay, 2 trials.")


@pytest.mark.parametrize("lost", [1, 20])
def test_a_line_that_a_full_disk_has_cut_costs_its_trial_alone(lost, tmp_path):
    whole = ran(search_in(tmp_path, "whole"), 8)
    ran(search_in(tmp_path), 4)
    file = tmp_path / "own.journal"
    os.truncate(file, file.stat().st_size - lost)

    # The cut line is the end of the fourth trial: nobody runs it now.
    search = search_in(tmp_path)
    (left,) = [trial for trial in search.study.trials if trial.state.name == "RUNNING"]
    assert left.user_attrs[NUMBER] == 3
    optuna.trial.Trial(search.study, left._trial_id).set_user_attr(OWNER, owner_that_died(left))

    assert ran(search_in(tmp_path), 8) == whole


def test_a_folder_in_the_place_of_the_file_is_one_line(tmp_path):
    (tmp_path / "own.journal").mkdir()

    with pytest.raises(ValueError, match=r"own\.journal: expected a file of the search that can be written"):
        search_in(tmp_path)


def test_the_best_at_the_end_of_a_range_is_a_warning(tmp_path):
    best = replace(ran(search_in(tmp_path), 1)[0], number=3, settings={"dampening": 99.5, "batch_size": 30})

    (warning,) = _warnings([best], space())
    assert "the best dampening lies at the high end of its range (0.01 to 100, log)" in warning
    assert _warnings([replace(best, number=0, settings={})], space()) == [
        "no trial is better than the default settings"
    ]


# What a search looks at


def config(**settings):
    return PipelineConfig("random_mask", {"kappa": 30, **settings}, BaseConfig(epochs=2))


def test_a_trial_is_measured_on_validation_images_in_the_place_of_test_images(folder):
    objective = Objective(config(), (101,), ("avg_gap_without_mia",))
    found = objective.value_of({"kappa": 60})

    base = objective._base(101)
    data = objective._data(101)
    made = unlearn("random_mask", base.initial().model, data, kappa=60)
    models = {
        "initial": base.initial().model,
        "ideal": base.ideal().model,
        INCOMPETENT: base.incompetent(),
    }
    names = ["avg_gap_without_mia", "test_score"]
    right = measure(made.model, models, data, base.splits.validation, metrics=names).model
    assert found.losses["avg_gap_without_mia"] == right["avg_gap_without_mia"]
    assert found.metrics["seed101_validation_score"] == right["test_score"]
    assert (
        right["test_score"]
        != measure(made.model, models, data, base.splits.test, metrics=names).model["test_score"]
    )


def test_an_objective_is_brought_near_its_good_value(folder):
    objective = Objective(config(), (101,), ("retain_score", "mia_auc"))
    losses = objective.value_of({}).losses
    assert losses["retain_score"] <= 0  # higher is better: its negative


def test_what_is_minimised_is_said(folder):
    objective = Objective(config(), (101,), ("retain_score", "mia_auc", "avg_gap"))

    assert [objective.in_words(name) for name in objective.names] == [
        "the negative of retain_score",
        "the distance of mia_auc from the ideal's",
        "avg_gap",
    ]


def test_a_factorisation_that_fails_fails_the_trial_alone(folder, monkeypatch):
    def fails(*arguments, **settings):
        raise torch.linalg.LinAlgError("did not converge")

    objective = Objective(config(), (101,), ("avg_gap_without_mia",))
    monkeypatch.setattr("lethe.tuning.objective.unlearn", fails)

    with pytest.raises(Failed, match="did not converge"):
        objective.value_of({})


def test_the_objectives_are_named_each_once():
    assert objectives_named(["mia", "AVG_GAP", "mia"]) == {"mia": "mia", "avg_gap": "avg_gap"}

    with pytest.raises(ValueError, match=r"^--objective: expected names of metrics, got all, which is \d+"):
        objectives_named(["all"])


def test_a_metric_without_a_good_direction_is_no_objective(folder):
    file = folder / "own_metric.py"
    file.write_text("def blue(model):\n    return 1.0\n")

    with pytest.raises(ValueError, match="--objective: expected a metric with a good direction, got blue"):
        Objective(config(), (101,), (f"{file}:blue",))


def test_settings_that_do_not_go_together_fail_the_trial_alone(folder):
    objective = Objective(config(), (101,), ("avg_gap_without_mia",))

    with pytest.raises(Failed, match="kappa"):
        objective.value_of({"kappa": 10**6})


# The command

WORDS = "--unlearn random_mask --epochs 2 --tuning_seeds 101 --objective avg_gap_without_mia".split()


@pytest.mark.slow
def test_the_command_leaves_settings_that_a_run_takes(folder, capsys):
    assert tune.main([*WORDS, "--trials", "4", "--seed", "1"]) == 0
    out = capsys.readouterr().out

    assert [f"trial {n}: avg_gap_without_mia" in out for n in range(4)] == [True] * 4
    assert "seeds 1, test images" in out
    parent = next(run for run in runs() if run.info.run_name == "tune random_mask class0")
    trials = [run for run in runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [run.info.run_name for run in reversed(trials)] == [f"trial {n}" for n in range(4)]
    assert all(not {name for name in run.data.metrics if "test" in name} for run in trials)
    assert not any("unlearn" in run.data.params for run in (parent, *trials))  # left out of tables of seeds
    folder_of = Path(parent.info.artifact_uri.removeprefix("file://"))
    rows = list(csv.DictReader((folder_of / "trials.csv").open()))
    losses = [float(row["objective_avg_gap_without_mia"]) for row in rows]
    assert parent.data.metrics["best_avg_gap_without_mia"] == min(losses)
    assert "<svg" in (folder_of / "report.html").read_text()

    best = yaml.safe_load(Path("best_random_mask_class0.yml").read_text())
    assert best["unlearn"] == "random_mask" and "seed" not in best
    assert mlflow_forget.main(["--config", "best_random_mask_class0.yml"]) == 0
    assert runs()[0].data.params["epochs"] == "2"

    assert tune.main([*WORDS, "--trials", "4", "--seed", "1"]) == 0  # nothing is left to try
    assert "trial 0:" not in capsys.readouterr().out


COMMANDS = {
    "--unlearn METHOD is missing": ["--trials", "2"],
    "got 101, which --seed has too": [*WORDS, "--seed", "1", "101"],
    "trials: expected an integer >= 1, got 0": [*WORDS, "--trials", "0"],
    "budget: expected a number > 0, got 0x": [*WORDS, "--budget", "0x"],
    "expected a number with an x, got 'ten'": [*WORDS, "--budget", "ten"],
    "there is no file none.yml": [*WORDS, "--ranges", "none.yml"],
    "mask: expected none, as a search has models of several seeds": [*WORDS, "--mask", "own.safetensors"],
    "avg_gab": ["--unlearn", "SSD", "--objective", "avg_gab"],
}


@pytest.mark.parametrize("message", COMMANDS)
def test_a_mistake_is_one_line_before_anything_is_trained(message, folder, capsys):
    assert tune.main(COMMANDS[message]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("seeds", [(), (101, 101)])
def test_tuning_seeds_are_given_once(seeds):
    with pytest.raises(ValueError, match="tuning_seeds: expected one or more seeds, each once"):
        TuneConfig(config(), tuning_seeds=seeds)
