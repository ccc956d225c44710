"""per_image.parquet: every number about predictions, computed anew from the file alone by other libraries."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from scipy.spatial.distance import jensenshannon
from scipy.special import logsumexp, softmax, xlogy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from lethe.data import ForgetRequest
from lethe.evaluation import ModelOutputs, Outputs, is_undecided
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.pipeline import Pipeline, PipelineConfig, Result
from lethe.report.per_image import per_image
from tests.own_store import store_in, there  # noqa: F401 (there: a fixture of every test here)

SETS = ("forget", "retain", "test", "validation")
OF_THE_MODEL_ITSELF = {"weight_distance", "weights_changed"}
SECONDS = {"unlearn_seconds", "ideal_seconds", "speedup"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("per_image")
    return place


@pytest.fixture(
    scope="module", params=[ForgetRequest((0,)), ForgetRequest((-1,), 120)], ids=["a class", "some images"]
)
def run(request, folder) -> tuple[Result, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store_in(folder))
        config = PipelineConfig("SFT", {}, BaseConfig(epochs=8, request=request.param))
        result = Pipeline(config).run()
        return result, Path(MlflowClient().download_artifacts(result.run_id, "per_image.parquet"))


class Recomputed:
    """The metrics of one model, from the rows of the file."""

    def __init__(self, rows: pd.DataFrame, model: str, forget_classes: list[int]) -> None:
        self.sets = {name: rows[(rows.model == model) & (rows.set == name)] for name in SETS}
        test = self.sets["test"]
        gone = test.label.isin(forget_classes)
        self.whole_class = bool(forget_classes)
        self.sets |= {"test_forget": test[gone], "test_retain": test[~gone]}

    def p(self, name):
        return softmax(np.stack(self.sets[name].logits.to_numpy()).astype(np.float64), axis=1)

    def entropy(self, name):
        return -xlogy(self.p(name), self.p(name)).sum(axis=1)

    def score(self, name):
        return 100 * (self.sets[name].predicted == self.sets[name].label).mean()

    def called_non_member(self, column):
        return 100 * (self.sets["forget"][column] < 0).mean()

    def means(self):
        found = {"test_loss": self.sets["test"].loss.mean(), "test_score": self.score("test")}
        for name in (
            ("forget", "retain", "test_forget", "test_retain") if self.whole_class else ("forget", "retain")
        ):
            found |= {f"{name}_loss": self.sets[name].loss.mean(), f"{name}_score": self.score(name)}
            if name.endswith("forget"):
                found[f"{name}_probability"] = self.sets[name].p_y.mean()
        return found

    def attacks(self):
        forget, test = self.sets["forget"], self.sets["test"]
        members = self.entropy("retain")[self.sets["retain"].attack == "member"]
        others = self.entropy("test")[self.sets["test"].attack == "non-member"]
        lr = LogisticRegression(class_weight="balanced").fit(
            np.concatenate([members, others])[:, None], [1] * len(members) + [0] * len(others)
        )
        others = {
            f"mia_{name}": self.called_non_member(f"member_score_{name}")
            for name in ("correctness", "entropy", "m_entropy", "prob")
        }
        return others | {
            "mia": self.called_non_member("member_score"),
            "mia_confidence": self.called_non_member("member_score"),
            "mia_auc": roc_auc_score(
                [1] * len(forget) + [0] * len(test), -np.concatenate([forget.loss, test.loss])
            ),
            "mia_tpr_at_1_fpr": (forget.loss < np.sort(test.loss)[len(test) // 100]).mean(),
            "mia_lr": 100 * lr.predict(self.entropy("forget")[:, None]).mean(),
        }

    def of_one_model(self):
        return self.means() | self.attacks()

    def ua_ra_ta(self):
        return np.array(
            [
                100 - self.score("forget"),
                self.score("retain"),
                self.score("test_retain" if self.whole_class else "test"),
            ]
        )

    def against(self, ideal: "Recomputed"):
        gaps = np.abs(self.ua_ra_ta() - ideal.ua_ra_ta())
        mia_gap = abs(self.called_non_member("member_score") - ideal.called_non_member("member_score"))
        return {
            "rUA": self.score("forget") - ideal.score("forget"),
            "avg_gap": (gaps.sum() + mia_gap) / 4,
            "avg_gap_without_mia": gaps.mean(),
            "tow": np.prod(1 - gaps / 100),
            "fidelity": 100
            * (self.sets["forget"].predicted.to_numpy() == ideal.sets["forget"].predicted.to_numpy()).mean(),
            "js_divergence": (jensenshannon(self.p("forget"), ideal.p("forget"), axis=1) ** 2).mean(),
            "activation_distance": np.linalg.norm(self.p("forget") - ideal.p("forget"), axis=1).mean(),
        }

    def without_an_ideal(self, initial: "Recomputed", incompetent: "Recomputed"):
        def mean_of(model, name, label):
            return model.p(name)[(model.sets[name].label == label).to_numpy()].mean(axis=0)

        labels = sorted(self.sets["forget"].label.unique())
        pairs = [(mean_of(self, "forget", label), mean_of(initial, "test", label)) for label in labels]
        return {
            "rf_js_divergence": np.mean([jensenshannon(*pair) ** 2 for pair in pairs]),
            "zrf": 1 - (jensenshannon(self.p("forget"), incompetent.p("forget"), axis=1) ** 2).mean(),
        }


def read(path):
    about = json.loads(pq.read_schema(path).metadata[b"lethe"])
    rows = pq.read_table(path).to_pandas()
    return (
        {
            model: Recomputed(rows, model, about["forget_classes"])
            for model in ("unlearned", "initial", "ideal", "incompetent")
        },
        rows,
        about,
    )


def test_every_number_can_be_computed_from_the_file(run):
    result, path = run
    models, _, _ = read(path)
    found = models["unlearned"].of_one_model() | models["unlearned"].against(models["ideal"])
    found |= models["unlearned"].without_an_ideal(models["initial"], models["incompetent"])

    undecided = {name for name in found if is_undecided(name, result.undefined)}
    assert set(result.metrics) | undecided == set(found) | OF_THE_MODEL_ITSELF | SECONDS  # none is left out
    for name in found.keys() - undecided:
        assert result.metrics[name] == pytest.approx(found[name], rel=1e-9, abs=1e-7), name


@pytest.mark.parametrize("model", ["initial", "ideal"])
def test_so_can_those_of_the_base_models(run, model):
    result, path = run
    models, _, _ = read(path)
    found = models[model].of_one_model() | models[model].without_an_ideal(
        models["initial"], models["incompetent"]
    )

    values = getattr(result, model)
    undecided = {name for name in found if is_undecided(f"{model}_{name}", result.undefined)}
    assert set(values) | undecided == set(found) | OF_THE_MODEL_ITSELF
    for name in found.keys() - undecided:
        assert values[name] == pytest.approx(found[name], rel=1e-9, abs=1e-7), name


def test_the_attack_can_be_done_again(run):
    """By scikit-learn, on the images that were its members and non-members."""
    _, path = run
    _, rows, _ = read(path)
    own = rows[rows.model == "unlearned"]
    members, others, target = (own[own.attack == role] for role in ("member", "non-member", "target"))
    known = np.concatenate([members.p_y, others.p_y])[:, None]
    attack = SVC(C=3, gamma="auto", tol=1e-6).fit(known, [1] * len(members) + [0] * len(others))

    assert members.label.value_counts().to_dict() == others.label.value_counts().to_dict()
    assert set(members.set) == {"retain"} and set(others.set) == {"test"} and set(target.set) == {"forget"}
    np.testing.assert_allclose(
        attack.decision_function(target.p_y.to_numpy()[:, None]), target.member_score, atol=0.02
    )


def test_the_regressions_scores_are_in_the_file_too(run):
    result, path = run
    models, _, _ = read(path)
    found = 100 - models["unlearned"].called_non_member("member_score_lr")

    assert "mia_lr" in result.undefined or found == pytest.approx(result.metrics["mia_lr"])


def test_the_columns_are_what_they_say(run):
    _, path = run
    _, rows, about = read(path)
    logits = np.stack(rows.logits.to_numpy()).astype(np.float64)
    own = logits[np.arange(len(rows)), rows.label]

    np.testing.assert_allclose(rows.loss, logsumexp(logits, axis=1) - own, atol=1e-9)
    np.testing.assert_allclose(rows.p_y, np.exp(-rows.loss), rtol=1e-9)
    np.testing.assert_allclose(rows.margin, np.log(rows.p_y / (1 - rows.p_y)), rtol=1e-3, atol=1e-3)
    assert (rows.predicted == logits.argmax(axis=1)).all()
    assert about.keys() == {"run_id", "dataset", "method", "request", "seed", "forget_classes", "version"}


def test_an_index_is_the_image_in_the_original_training_set(run):
    _, path = run
    _, rows, _ = read(path)
    data = Pipeline(PipelineConfig("SFT", {}, BaseConfig(epochs=8, request=ForgetRequest((0,))))).base.splits
    known = dict(zip(data.train.indexes.tolist(), data.train.labels.tolist(), strict=True))
    training = rows[(rows.model == "initial") & rows.set.isin(["forget", "retain"])]

    assert sorted(training["index"]) == sorted(known)
    assert all(known[index] == label for index, label in zip(training["index"], training.label, strict=True))
    assert set(rows[rows.model == "initial"].set) == set(SETS)


def test_an_attack_that_was_not_run_has_no_scores():
    outputs = Outputs(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1]))
    own = ModelOutputs(outputs, outputs, outputs, None, (), seed=1)
    table = per_image({"unlearned": own}, dict.fromkeys(("forget", "retain", "test"), torch.tensor([7, 5])))

    assert table["index"].to_pylist() == [7, 5] * 3
    assert table["member_score"].null_count == table["attack"].null_count == 6
    assert table["logits"].to_pylist()[:2] == [[0.0, 1.0], [2.0, 0.0]]


def test_a_probability_of_zero_is_an_infinite_loss():
    outputs = Outputs(torch.tensor([[-float("inf"), 1.0]]), torch.tensor([0]))
    own = ModelOutputs(outputs, outputs, outputs, None, (), seed=1)
    table = per_image({"unlearned": own}, dict.fromkeys(("forget", "retain", "test"), torch.tensor([0])))

    assert (table["p_y"][0].as_py(), table["loss"][0].as_py(), table["margin"][0].as_py()) == (
        0.0,
        float("inf"),
        -float("inf"),
    )
