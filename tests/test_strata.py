"""Metrics of the least, the middle and the most memorised third: by hand, and in runs and audits."""

import csv
import re
from pathlib import Path

import pytest
import torch
from own_store import artifact, runs, there  # noqa: F401 (every test runs in the module's folder)
from seeded import generator

import audit
import main_ideal
import mlflow_forget
from lethe.evaluation import Missing, ModelOutputs, Outputs, Shadows, evaluate
from lethe.evaluation.membership import member_scores
from lethe.evaluation.strata import rows_of, shadows_of
from lethe.experiment.memorised import memorisation_csv, read_memorisation
from tests.test_memorisation_audit import images_of, scores_of

SMALL = ["--epochs", "1", "--hidden", "6", "--class_to_replace", "-1", "--num_indexes_to_replace", "60"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("strata")


def outputs(right, seed=0):
    """Two classes; the sure answers of a model that is right where `right` says so."""
    labels = torch.arange(len(right)) % 2
    answer = torch.where(right, labels, 1 - labels)
    return Outputs(4 * torch.eye(2)[answer] + torch.rand(len(right), 2, generator=generator(seed)), labels)


def test_thirds_are_by_rank_and_the_high_one_has_the_highest_scores():
    memorised = scores_of(0.9, 0.0, 0.5, 0.1, 0.6, 0.2, 0.3)

    assert rows_of("low", memorised, 7).tolist() == [1, 3, 5]
    assert rows_of("middle", memorised, 7).tolist() == [6, 2]
    assert rows_of("high", memorised, 7).tolist() == [4, 0]


def test_of_equal_scores_the_margin_form_decides():
    memorised = scores_of(0, 0, 0, margins=[2, 1, 3])

    assert [rows_of(third, memorised, 3).item() for third in ("low", "middle", "high")] == [1, 0, 2]


def test_the_forget_score_of_each_third_by_hand():
    forget = outputs(torch.tensor([True, True, False, True, False, False]))
    memorised = scores_of(0.1, 0.2, 0.5, 0.6, 0.8, 0.9)
    model = ModelOutputs(forget, forget, forget, None, (), 0)
    names = [f"forget_score_memorised_{third}" for third in ("low", "middle", "high")]

    values, reasons = evaluate(names=names, model=model, memorisation=memorised)

    assert (list(values.values()), reasons) == ([100, 50, 0], {})


def test_the_attack_on_a_third_is_that_on_all_images():
    everything = torch.ones(60, dtype=torch.bool)
    forget = outputs(torch.arange(12) % 3 > 0, seed=1)
    model = ModelOutputs(forget, outputs(everything, 2), outputs(torch.arange(60) % 2 > 0, 3), None, (), 0)
    memorised = scores_of(*(place / 12 for place in range(12)))
    names = [f"mia_memorised_{third}" for third in ("low", "middle", "high")]

    values, reasons = evaluate(names=["mia_confidence", *names], model=model, memorisation=memorised)

    assert reasons == {}
    features = (own.true_probabilities for own in (model.members, model.non_members, model.forget))
    called = (member_scores(*features) < 0).view(3, 4).double().mean(1)
    assert [values[name] for name in names] == pytest.approx((100 * called).tolist())


def test_the_auc_of_a_third_is_that_of_its_images_alone():
    member = torch.arange(32).unsqueeze(1).expand(-1, 6) % 2 == 0
    margins = torch.randn(32, 6, generator=generator())
    margins[:, 4:] += 20.0 * member[:, 4:]
    shadows = Shadows(margins, member, torch.arange(32) // 2 % 2 == 1)
    memorised = scores_of(0, 0.1, 0.2, 0.3, 0.8, 0.9)

    values, reasons = evaluate(
        names=["ulira_auc_memorised_low", "ulira_auc_memorised_high"], shadows=shadows, memorisation=memorised
    )

    alone = Shadows(margins[:, 4:], member[:, 4:], shadows.attacked)
    assert values["ulira_auc_memorised_high"] == alone.rates.auc == 1
    assert values["ulira_auc_memorised_low"] < 0.9
    assert reasons == {}
    assert shadows_of("high", shadows, memorised).intervals == alone.intervals


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.1, 0.2], "expected at least 3 forget images to divide in thirds, got 2"),
        ([0.1, 0.2, 0.3], "expected the memorisation of the 2 forget images, got that of 3 images"),
    ],
)
def test_what_has_no_thirds_has_a_reason(scores, message):
    two = outputs(torch.tensor([True, False]))
    model = ModelOutputs(two, two, two, None, (), 0)

    _, reasons = evaluate(names=["forget_score_memorised_low"], model=model, memorisation=scores_of(*scores))

    assert reasons["forget_score_memorised_low"].reason.startswith(message)


def test_without_scores_the_command_that_makes_them_is_named():
    two = outputs(torch.tensor([True, False]))
    commands = {"memorisation": "python -u main_ideal.py --shadows 128"}

    _, reasons = evaluate(
        names=["mia_memorised_low"], model=ModelOutputs(two, two, two, None, (), 0), commands=commands
    )

    why = Missing("needs the memorisation of the forget images", commands["memorisation"])
    assert reasons == {"mia_memorised_low": why}


def test_a_table_is_read_as_it_was_written():
    found, images = scores_of(0.5, 1.0), images_of([1, 0])

    again = read_memorisation(memorisation_csv(found, images, ["cat", "dog"]), images)

    for name in ("scores", "standard_errors", "margin_scores", "margin_errors", "n_in", "n_out"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert (again.shadows, again.share) == (8, 0.5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10,1", "11,1", "a table of other images"),
        ("margin_form,", "margin,", "without margin_form"),
        ("0.05", "nan", "a cell that is no finite number, 'nan'"),
        ("0.05", "much", "a cell that is no finite number, 'much'"),
    ],
)
def test_another_table_is_refused(old, new, message):
    images = images_of([1, 0])
    text = memorisation_csv(scores_of(0.5, 1.0), images, ["cat", "dog"]).replace(old, new, 1)

    with pytest.raises(ValueError, match=message):
        read_memorisation(text, images)


@pytest.mark.slow
def test_a_run_measures_thirds_once_the_shadow_models_are_there(capsys):
    thirds = [f"forget_score_memorised_{third}" for third in ("low", "middle", "high")]
    names = ",".join(["forget_score", *thirds])
    run = [*SMALL, "--unlearn", "default", "--metrics", names, "--report", "skip"]
    assert mlflow_forget.main(run) == 0
    reason = runs()[0].data.tags["undefined.forget_score_memorised_high"]
    made_by = re.search(r"needs the memorisation of the forget images\. Make it: .*_ideal\.py (.*)", reason)
    assert main_ideal.main(made_by[1].split()) == 0

    assert mlflow_forget.main(run) == 0
    done = runs()[0]
    scores = [done.data.metrics[name] for name in thirds]
    assert sum(scores) / 3 == pytest.approx(done.data.metrics["forget_score"])
    assert "ideal_forget_score_memorised_high" in done.data.metrics
    assert len(list(csv.DictReader(artifact(done, "memorisation.csv").open()))) == 60

    capsys.readouterr()
    assert audit.main(["verify", done.info.run_id]) == 0
    assert "memorisation of the forget images (memorisation.csv)" in capsys.readouterr().out


@pytest.mark.slow
def test_ulira_has_an_auc_of_each_third_that_is_verified(capsys):
    assert audit.main(["ulira", "--shadows", "16", "--unlearn", "default", *SMALL]) == 0
    run, out = runs()[0], capsys.readouterr().out

    for third in ("low", "middle", "high"):
        name = f"ulira_auc_memorised_{third}"
        assert {name, f"{name}_low", f"{name}_high"} <= run.data.metrics.keys()
        assert name in out
    assert audit.main(["verify", run.info.run_id]) == 0

    file = artifact(run, "memorisation.csv")
    file.write_text(file.read_text().replace("index", "place", 1))
    assert audit.main(["verify", run.info.run_id]) == 1
    assert "DIFFERS: images of memorisation.csv" in capsys.readouterr().out
