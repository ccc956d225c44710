"""The verdict: what may be said, by the rules of docs/reports.md, and what may not."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lethe.evaluation.over_images import auc_interval, exact_interval
from lethe.report.run_warning import RunWarning
from lethe.report.verdict import Measurements, verdict

GONE = {
    "forget_score": 0.0,
    "test_forget_score": 0.0,
    "retain_score": 99.0,
    "test_retain_score": 98.0,
    "mia": 100.0,
    "mia_auc": 0.05,
}
KNOWN = GONE | {"forget_score": 100.0, "test_forget_score": 100.0, "mia": 0.0, "mia_auc": 0.6}
IMAGES = {"forget": 100, "test_forget": 40, "retain": 1000, "test_retain": 400, "test": 440}
CLASS = Measurements(
    "class 0",
    True,
    10,
    {"initial": KNOWN, "unlearned": GONE, "ideal": GONE},
    IMAGES,
    commands={"all": "MEASURE", "ideal": "MAKE", "seeds": "SEEDS"},
)

LIKE = {"forget_score": 95.0, "retain_score": 99.0, "test_score": 95.0, "mia": 10.0, "mia_auc": 0.5}
TRAINED = LIKE | {"forget_score": 100.0, "mia": 0.0, "mia_auc": 0.7}
PART = Measurements("100 images", False, 10, {"initial": TRAINED, "unlearned": LIKE, "ideal": LIKE}, IMAGES)


def changed(run, model="unlearned", **values):
    """Other values of a model's metrics; None for one that was not measured."""
    numbers = {name: value for name, value in (dict(run.models[model]) | values).items() if value is not None}
    return replace(run, models=dict(run.models) | {model: numbers})


def without_ideal(run):
    return replace(run, models={name: own for name, own in run.models.items() if name != "ideal"})


def claims(run):
    return {finding.claim: finding.mark for finding in verdict(run).findings}


def forgetting(run):
    found = verdict(run).findings[len(run.warnings)]
    return found.mark, found.claim


# A class


def test_a_class_is_forgotten_completely_where_predictions_and_attacks_are_those_of_the_ideal_model():
    told = verdict(CLASS)

    assert forgetting(CLASS) == ("good", "forgets class 0 completely, as far as predictions show")
    assert told.headline == (
        "Forgets class 0 completely, as far as predictions show; retain accuracy is what it was; "
        "a per-example attack finds none of the forget images."
    )
    assert told.mark == "good"


@pytest.mark.parametrize(
    "values",
    [
        {"forget_score": 1.0},
        {"test_forget_score": 2.5},
        {"mia": 96.0},  # above 3.6 %, where the ideal's interval ends
        {"mia_auc": 0.2},
        {"mia_auc": 0.0},  # larger losses than the ideal's give the images away as well
        {"mia": None, "mia_auc": None},
    ],
)
def test_completely_is_never_said_of_less(values):
    assert "completely" not in verdict(changed(CLASS, **values)).headline.replace("nearly completely", "")


def test_a_few_images_that_chance_allows_are_nearly():
    assert forgetting(changed(CLASS, forget_score=3.0)) == ("good", "forgets class 0 nearly completely")
    assert forgetting(changed(CLASS, forget_score=4.0)) == (
        "bad",
        "forgets class 0 only to the level of chance",
    )


@pytest.mark.parametrize(
    ("score", "claim"),
    [
        (10.0, "only to the level of chance"),
        (11.0, "only in part"),
        (96.0, "only in part"),
        (97.0, "does not forget"),
        (100.0, "does not forget"),
    ],
)
def test_how_far_a_class_is_forgotten(score, claim):
    mark, said = forgetting(changed(CLASS, forget_score=score))

    assert mark == "bad"
    assert claim in said


def test_chance_is_asked_of_the_worse_set():
    assert forgetting(changed(CLASS, forget_score=9.0, test_forget_score=60.0)) == (
        "bad",
        "forgets class 0 only in part",
    )


def test_an_attack_that_finds_more_is_named_with_what_it_finds_in_the_ideal_model():
    told = verdict(changed(CLASS, mia=96.0))

    assert (
        "a per-example attack still finds 4 % of the forget images (0 % with the ideal model)"
        in told.headline
    )
    assert forgetting(changed(CLASS, mia=96.0)) == (
        "open",
        "predicts class 0 no more often than the ideal model",
    )
    assert told.mark == "bad"


def test_an_undecided_attack_is_no_evidence():
    """The other attack decides, whichever model the first is undecided about; a bad finding stays bad."""
    why = "undecided: this attack calls 2 to 91 % of the forget images non-members"
    for model in ("unlearned", "ideal"):
        run = replace(changed(CLASS, model, mia=None), undecided={model: why})
        told = {finding.claim: finding for finding in verdict(run).findings}
        assert told["a per-example attack is undecided"].mark == "open"
        assert (
            told["a per-example attack is undecided"].evidence
            == f"The attack on the confidence of the {model} model: {why}."
        )
        assert forgetting(run) == ("good", "forgets class 0 completely, as far as predictions show")
        alone = replace(changed(run, "unlearned", mia_auc=None), undecided={model: why})
        assert forgetting(alone) == ("open", "predicts class 0 no more often than the ideal model")
    initial = replace(changed(CLASS, "initial", mia=None), undecided={"initial": why})
    assert claims(initial)["a per-example attack is undecided"] == "open"
    assert forgetting(initial) == ("good", "forgets class 0 completely, as far as predictions show")
    found = changed(initial, mia=50.0)
    assert (
        claims(found)["a per-example attack still finds 50 % of the forget images (0 % with the ideal model)"]
        == "bad"
    )


def test_without_an_ideal_model_nothing_is_complete():
    run = without_ideal(CLASS)

    assert forgetting(run) == ("open", "no longer predicts class 0; whether that is complete is not known")
    assert verdict(run).findings[0].command == "MAKE"
    assert verdict(run).mark == "open"
    assert forgetting(changed(run, forget_score=50.0))[0] == "bad"


def test_a_few_images_that_are_still_predicted_right_are_hardly_any_more_without_an_ideal_model():
    run = without_ideal(CLASS)
    upper = exact_interval(0.0, run.images["forget"])[1]
    hardly = "hardly predicts class 0 any more; whether that is complete is not known"

    assert forgetting(changed(run, forget_score=0.9 * upper)) == ("open", hardly)
    assert forgetting(changed(run, forget_score=1.1 * upper))[0] == "bad"


def test_what_the_initial_model_never_knew_is_not_called_forgotten():
    nothing = changed(CLASS, "initial", **GONE)

    assert forgetting(nothing) == (
        "open",
        "predicts class 0 as the ideal model does, and so does the initial model",
    )
    assert verdict(nothing).mark == "open" and "completely" not in verdict(nothing).headline
    assert forgetting(changed(changed(nothing, forget_score=3.0), "initial", forget_score=3.0))[0] == "open"
    told_by_an_attack = changed(nothing, "initial", mia=50.0)
    assert forgetting(told_by_an_attack) == ("good", "forgets class 0 completely, as far as predictions show")
    assert forgetting(without_ideal(nothing)) == (
        "open",
        "never predicts class 0, nor does the initial model",
    )
    assert forgetting(changed(nothing, forget_score=50.0))[0] == "bad"


def test_what_was_not_measured_is_said_with_the_command():
    nothing = replace(CLASS, models={"initial": {}, "unlearned": {}})
    open_ones = {finding.claim: finding.command for finding in verdict(nothing).findings}

    assert open_ones == {
        "whether class 0 is forgotten was not measured": "MEASURE",
        "what it cost was not measured": "MEASURE",
        "no attack was run": "MEASURE",
        "what is left inside was not measured": "MEASURE",
        "one run, one seed": "SEEDS",
    }
    assert verdict(nothing).mark == "open"


# A part of a class


def test_images_of_a_class_that_stays_are_held_against_the_ideal_model_and_not_against_0():
    assert forgetting(PART) == ("good", "can't be told from the ideal model on 100 images")
    assert (
        forgetting(changed(PART, forget_score=100.0))[1]
        == "still knows 100 images better than the ideal model"
    )
    assert forgetting(changed(PART, forget_score=0.0))[1] == "is worse on 100 images than the ideal model"
    assert forgetting(without_ideal(PART)) == ("open", "whether 100 images are forgotten is not known")


def test_a_test_that_the_initial_model_passes_says_nothing():
    weak = changed(changed(PART, "initial", forget_score=97.0, mia=10.0, mia_auc=0.5), forget_score=97.0)

    assert forgetting(weak) == (
        "open",
        "can't be told from the ideal model on 100 images, nor can the initial model",
    )


def test_without_an_attack_a_score_alone_is_not_enough():
    assert forgetting(changed(PART, mia=None, mia_auc=None)) == (
        "open",
        "predicts 100 images as the ideal model does",
    )


@given(
    st.tuples(*[st.integers(0, 3)] * 4).map(
        lambda hits: [100 * k / n for k, n in zip(hits, (100, 40, 100, 40), strict=True)]
    ),
    st.tuples(*[st.integers(0, 6)] * 2),
    st.tuples(*[st.floats(0, 0.3)] * 2),
)
def test_completely_means_no_score_above_the_ideals_and_no_attack_outside_its_interval(scores, found, areas):
    run = changed(
        CLASS, forget_score=scores[0], test_forget_score=scores[1], mia=100.0 - found[0], mia_auc=areas[0]
    )
    run = changed(
        run,
        "ideal",
        forget_score=scores[2],
        test_forget_score=scores[3],
        mia=100.0 - found[1],
        mia_auc=areas[1],
    )
    ends = binomtest(found[1], 100).proportion_ci(method="exact")
    low, high = auc_interval(areas[1], 100, 440)
    like = ends.low <= found[0] / 100 <= ends.high and low <= areas[0] <= high

    assert ("completely, as" in verdict(run).headline) == (
        scores[0] <= scores[2] and scores[1] <= scores[3] and like
    )


# Attacks that tell nothing

SATURATED = changed(changed(changed(CLASS, mia=0.0), "initial", mia=0.0), "ideal", mia=0.0)
SATURATED_CLAIM = (
    "a per-example attack says nothing here: it takes 100 % of the forget images for training images "
    "with the initial, the unlearned and the ideal model alike"
)
ALIKE = changed(PART, "initial", mia_auc=0.5)
ALIKE_CLAIM = (
    "a loss attack says nothing here: it has an AUC of 0.50 with the initial, the unlearned and the "
    "ideal model alike"
)


def test_an_attack_that_says_the_same_of_all_three_models_is_no_evidence():
    told = {finding.claim: finding for finding in verdict(SATURATED).findings}

    assert told[SATURATED_CLAIM].mark == "open"
    assert (
        "Not even the initial model, before anything was forgotten, is told from the ideal one"
        in told[SATURATED_CLAIM].evidence
    )
    assert not any("no more than with the ideal model" in claim for claim in told)
    assert claims(ALIKE)[ALIKE_CLAIM] == "open"


def test_what_says_nothing_is_as_if_it_had_not_been_run():
    told = verdict(SATURATED)

    assert told.headline == (
        "Forgets class 0 completely, as far as predictions show; retain accuracy is what it was; "
        "a loss attack does as it does with the ideal model (AUC 0.05)."
    )
    assert told.findings[0].evidence.endswith("Every attack that is evidence agrees, below.")
    assert told.mark == "good"
    assert forgetting(changed(SATURATED, mia_auc=None)) == (
        "open",
        "predicts class 0 no more often than the ideal model",
    )
    neither = changed(SATURATED, "initial", mia_auc=0.05)
    assert forgetting(neither) == ("open", "predicts class 0 no more often than the ideal model")
    assert verdict(neither).headline.endswith(f"{SATURATED_CLAIM}.")
    assert verdict(neither).mark == "open"
    assert forgetting(ALIKE) == ("good", "can't be told from the ideal model on 100 images")
    assert forgetting(changed(ALIKE, "initial", mia=10.0)) == (
        "open",
        "predicts 100 images as the ideal model does",
    )


@given(st.tuples(*[st.integers(0, 100)] * 3))
def test_a_per_example_attack_is_evidence_for_a_model_only_where_it_is_against_the_initial_one(found):
    run = PART
    for model, count in zip(("initial", "unlearned", "ideal"), found, strict=True):
        run = changed(run, model, mia=100.0 - count, mia_auc=None)
    ends = binomtest(found[2], 100).proportion_ci(method="exact")
    before, after = (ends.low <= count / 100 <= ends.high for count in found[:2])
    mark = next(finding.mark for finding in verdict(run).findings if "per-example" in finding.claim)

    assert mark == ("bad" if not after else "open" if before else "good")


@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_a_loss_attack_is_evidence_for_a_model_only_where_it_is_against_the_initial_one(areas):
    run = PART
    for model, area in zip(("initial", "unlearned", "ideal"), areas, strict=True):
        run = changed(run, model, mia=None, mia_auc=area)
    low, high = auc_interval(areas[2], 100, 440)
    before, after = (low <= area <= high for area in areas[:2])
    mark = next(finding.mark for finding in verdict(run).findings if "AUC" in finding.evidence)

    assert mark == ("bad" if not after else "open" if before else "good")


# Utility


def test_what_it_cost_is_held_against_the_ideal_model():
    assert claims(changed(CLASS, retain_score=98.7))["retain accuracy fell 0.3 points"] == "good"
    assert claims(changed(CLASS, retain_score=90.0))["retain accuracy fell 9.0 points"] == "bad"
    on_test = "accuracy on test images of the other classes fell 8.0 points"
    assert claims(changed(CLASS, test_retain_score=90.0))[on_test] == "bad"
    assert (
        claims(changed(CLASS, retain_score=90.0, test_retain_score=90.0))[
            f"retain accuracy fell 9.0 points and {on_test}"
        ]
        == "bad"
    )
    assert claims(changed(CLASS, retain_score=99.01))["retain accuracy rose less than 0.1 points"] == "good"


def test_a_gain_that_is_too_small_says_why_it_is_bad():
    weak = changed(
        changed(changed(CLASS, retain_score=95.0), "initial", retain_score=90.0), "ideal", retain_score=99.9
    )

    assert claims(weak)["retain accuracy rose 5.0 points but is 4.9 points below the ideal model's"] == "bad"
    assert "rose 5.0 points but is 4.9 points below the ideal model's" in verdict(weak).headline
    assert (
        claims(changed(weak, retain_score=90.0))[
            "retain accuracy is what it was but is 9.9 points below the ideal model's"
        ]
        == "bad"
    )
    assert (
        claims(changed(weak, retain_score=85.0))[
            "retain accuracy fell 5.0 points and is 14.9 points below the ideal model's"
        ]
        == "bad"
    )


# Inside


def test_what_is_left_inside_is_held_against_the_ideal_model():
    inside = {"probe_score": 99.0, "relearn_steps": 5.0, "relearn_censored": 0.0}
    run = changed(changed(CLASS, **inside), "ideal", probe_score=80.0, relearn_steps=30.0)

    assert claims(run)["inside it still knows: a probe finds 99 % (80 % in the ideal model)"] == "bad"
    assert claims(run)["relearns in 5 steps what takes the ideal model 30"] == "bad"
    assert "inside it still knows" in verdict(run).headline
    alike = changed(run, probe_score=80.0, relearn_steps=30.0)
    assert claims(alike)["a probe finds no more inside than in the ideal model (80 %)"] == "good"
    assert "what is left inside was not measured" not in claims(alike)


@pytest.mark.parametrize(
    ("own", "claim", "mark"),
    [
        ((10.0, 0.0), "relearns in 10 steps what takes the ideal model more than 30", "bad"),
        ((20.0, 0.0), "relearns in 20 steps, the ideal model in more than 30", "open"),
        (
            (30.0, 1.0),
            "relearns no sooner than half of the ideal model's steps (more than 30 of more than 30)",
            "good",
        ),
    ],
)
def test_an_ideal_model_that_was_stopped_needs_more_than_it_was_given(own, claim, mark):
    run = changed(
        changed(CLASS, relearn_steps=own[0], relearn_censored=own[1]),
        "ideal",
        relearn_steps=30.0,
        relearn_censored=1.0,
    )

    assert claims(run)[claim] == mark


def test_relearning_in_no_step_says_nothing():
    run = changed(changed(PART, relearn_steps=0.0), "ideal", relearn_steps=0.0)

    assert claims(run)["relearning says nothing here"] == "open"


def test_what_finds_as_much_in_the_initial_model_as_in_the_ideal_one_says_nothing_of_what_is_left_inside():
    run = changed(changed(CLASS, probe_score=80.0), "ideal", probe_score=80.0)
    probe = (
        "a probe says nothing here: it finds 80 % with the initial, the unlearned and the ideal model alike"
    )

    known = claims(changed(run, "initial", probe_score=100.0))
    assert known["a probe finds no more inside than in the ideal model (80 %)"] == "good"
    alike = changed(run, "initial", probe_score=80.0)
    assert claims(alike)[probe] == "open"
    assert (
        claims(changed(alike, probe_score=100.0))[
            "inside it still knows: a probe finds 100 % (80 % in the ideal model)"
        ]
        == "bad"
    )


# Warnings


@pytest.mark.parametrize("kind", ["diverged", "destroyed", "changed nothing"])
def test_a_warning_comes_first_and_nothing_is_claimed_beside_it(kind):
    warning = "weights have diverged"
    told = verdict(replace(CLASS, warnings=(RunWarning(kind, warning),)))

    assert told.mark == "bad"
    assert told.headline.casefold() == f"{warning}.".casefold()
    assert "completely" not in told.headline


def test_a_warning_that_takes_nothing_back_leaves_the_headline():
    told = verdict(replace(CLASS, warnings=(RunWarning("fewer masked", "diverged"),)))

    assert told.headline == verdict(CLASS).headline
    assert (told.findings[0].mark, told.mark) == ("open", "good")


def test_the_documented_rules_have_the_words_that_are_used():
    page = (Path(__file__).parent.parent / "docs/reports.md").read_text()
    words = (
        "completely",
        "nearly completely",
        "only in part",
        "only to the level of chance",
        "does not forget",
        "still knows",
        "can't be told",
    )

    assert [word for word in words if not re.search(rf"\b{re.escape(word)}", page)] == []
