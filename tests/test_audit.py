"""audit.py klom and ulira on digits, as a person runs them: what they find, what they leave behind, and what
they refuse.
"""

import csv
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from own_store import artifact, store_in, there  # noqa: F401 (every test runs in the module's folder)

import audit
from lethe.audits import many_models
from lethe.audits.klom import means_of
from lethe.audits.ulira import UliraAudit, UliraConfig, interval_message
from lethe.data import ForgetRequest, load_splits
from lethe.evaluation import noise_floor
from lethe.evaluation.klom import klom, p95
from lethe.experiment import model_sets
from lethe.experiment.base_config import BaseConfig

pytestmark = pytest.mark.slow

SMALL = ["--epochs", "2", "--class_to_replace", "-1", "--num_indexes_to_replace", "60"]
KLOM = ["klom", "--models", "10", *SMALL]
ULIRA = ["ulira", "--shadows", "16", *SMALL]

PLANTED = '''
import torch
from lethe.data import DATASETS, RawDataset

def planted(folder):
    """Digits; the label of every 12th image is one class further."""
    raw = DATASETS["digits"](folder)
    images, labels = raw.train
    wrong = torch.arange(len(labels)) % 12 == 0
    labels = torch.where(wrong, (labels + 1) % 10, labels)
    return RawDataset((images, labels), None, raw.class_names, raw.white)
'''

METHODS_OF_A_USER = '''
import copy
import torch

def diverging(model, data):
    """Weights that are not numbers."""
    student = copy.deepcopy(model)
    with torch.no_grad():
        next(student.parameters()).fill_(float("nan"))
    return student
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("audits")
    (place / "planted.py").write_text(PLANTED)
    (place / "mine.py").write_text(METHODS_OF_A_USER)
    return place


def run_of(printed):
    return mlflow.MlflowClient().get_run(re.search(r"run in \S+: ([0-9a-f]{32})", printed)[1])


def audited(capsys, *argv):
    code = audit.main(argv)
    printed = capsys.readouterr()
    besides_bars = [line for line in re.split(r"[\r\n]+", printed.err) if line.strip() and "%|" not in line]
    assert (code, besides_bars) == (0, [])
    return run_of(printed.out), printed.out


@pytest.fixture(scope="module")
def klom_of_default(folder):
    """The run of a KLoM audit, and what it printed; no test changes it."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store_in(folder))
        assert audit.main([*KLOM, "--unlearn", "default"]) == 0
        return run_of(printed.getvalue()), printed.getvalue()


def test_klom_is_what_its_files_of_margins_say(klom_of_default):
    run, _ = klom_of_default

    unlearned, oracles = (
        torch.from_numpy(np.load(artifact(run, f"{side}_margins.npy"))) for side in ("unlearned", "oracle")
    )
    rows = list(csv.DictReader(artifact(run, "columns.csv").open()))
    for name in ("forget", "retain", "validation"):
        columns = [int(row["column"]) for row in rows if row["set"] == name]
        assert run.data.metrics[f"klom_{name}_p95"] == p95(klom(unlearned[:, columns], oracles[:, columns]))
    assert unlearned.shape == oracles.shape == (10, len(rows))
    assert sum(row["set"] == "forget" for row in rows) == 60


def test_the_other_direction_is_klom_with_the_sides_exchanged(capsys):
    run, _ = audited(capsys, *KLOM, "--unlearn", "default", "--klom_direction", "oracle_unlearned")
    unlearned, oracles = (
        torch.from_numpy(np.load(artifact(run, f"{side}_margins.npy"))) for side in ("unlearned", "oracle")
    )

    assert run.data.params["klom_direction"] == "oracle_unlearned"
    assert run.data.metrics["klom_forget_p95"] == p95(klom(oracles[:, :60], unlearned[:, :60]))
    assert run.data.metrics["klom_forget_p95"] != p95(klom(unlearned[:, :60], oracles[:, :60]))


def test_n_and_the_floor_stand_beside_every_klom(klom_of_default):
    run, out = klom_of_default

    assert run.data.metrics["klom_models"] == 10
    assert (run.data.metrics["klom_floor_mean"], run.data.metrics["klom_floor_p95"]) == noise_floor(10)
    assert len(re.findall(r"^klom_\w+ .* floor \d+\.\d+ \(N = 10\)", out, flags=re.MULTILINE)) == 3


def test_an_audit_is_a_run_like_all_others(capsys):
    run, _ = audited(capsys, *KLOM, "--unlearn", "random_mask", "--kappa", "3")

    params = run.data.params
    assert (params["unlearn"], params["kappa"], params["models"], params["num_indexes_to_replace"]) == (
        "random_mask",
        "3",
        "10",
        "60",
    )
    assert run.data.tags["audit"] == "klom"
    assert run.info.status == "FINISHED"
    assert {one.tags[0].value for one in run.inputs.dataset_inputs} >= {
        "forget",
        "retain",
        "validation",
        "test",
    }
    assert len(list(csv.DictReader(artifact(run, "models.csv").open()))) == 20


@pytest.mark.parametrize("command", [KLOM, ULIRA])
def test_an_audit_that_was_killed_says_so_once_another_run_begins(command, capsys):
    """A process that is killed leaves a run that says RUNNING."""
    first, _ = audited(capsys, *command, "--unlearn", "default")
    mlflow.MlflowClient().update_run(first.info.run_id, status="RUNNING")

    again, _ = audited(capsys, *command, "--unlearn", "default")

    found = [mlflow.MlflowClient().get_run(run.info.run_id) for run in (first, again)]
    assert [run.info.status for run in found] == ["KILLED", "FINISHED"]
    assert (
        found[0]
        .data.tags["error"]
        .startswith("its process ended before it did, or lost the tracking store (")
    )


def test_metrics_of_one_model_are_measured_of_each(capsys):
    run, out = audited(capsys, *KLOM, "--unlearn", "default", "--metrics", "forget_score, mia, mia_auc")

    rows = list(csv.DictReader(artifact(run, "models.csv").open()))
    for side in ("unlearned", "oracle"):
        own = [float(row["mia_auc"]) for row in rows if row["side"] == side]
        assert run.data.metrics[f"{side}_mean_mia_auc"] == pytest.approx(sum(own) / 10)
        undecided = [row for row in rows if row["side"] == side and not row["mia"]]
        assert run.data.metrics.get(f"{side}_undecided_mia", 0) == len(undecided)
    assert "oracle_mean_forget_score" in out


def test_models_of_which_a_metric_is_undecided_are_counted_also_as_read_from_the_table():
    rows = [{"side": "unlearned", "mia": value} for value in ("50.0", "", "70.0")]
    assert means_of(rows, ["mia"]) == {"unlearned_mean_mia": 60.0, "unlearned_undecided_mia": 1.0}


def test_the_ideal_model_is_compared_with_oracles_of_other_seeds(capsys):
    """Beside themselves the oracles would be at 0; beside others they are about at the floor."""
    run, _ = audited(capsys, *KLOM, "--unlearn", "retrain")

    floor = run.data.metrics["klom_floor_mean"]
    assert floor / 2 < run.data.metrics["klom_forget_p95"]


def test_the_models_of_an_audit_are_trained_once(klom_of_default, capsys, monkeypatch):
    monkeypatch.setattr(model_sets, "fit_many", lambda *_, **__: pytest.fail("something was trained again"))

    audited(capsys, *KLOM, "--unlearn", "default")


def test_what_all_models_will_take_is_said_before_more_than_a_pair_is_trained(capsys, monkeypatch):
    def trained():
        return len(list(Path("results").rglob("*.safetensors")))

    said, before = [], trained()
    monkeypatch.setattr(many_models, "warm_up", lambda: said.append(trained() - before))
    _, out = audited(capsys, *ULIRA, "--unlearn", "default", "--seed", "77")

    assert said == [2]  # a shadow model and the one of the other half
    assert re.search(
        r"^default: \d+\.\d\d s for a first model, so about \d+ s for the 16 of this audit$",
        out,
        re.MULTILINE,
    )


def test_margins_from_elsewhere_take_the_oracles_place(klom_of_default, capsys):
    first, _ = klom_of_default
    file = artifact(first, "oracle_margins.npy")

    again, out = audited(capsys, *KLOM, "--unlearn", "default", "--oracle-margins", str(file))

    names = [name for name in first.data.metrics if name.startswith("klom") or name == "forgetting_quality"]
    assert {name: again.data.metrics[name] for name in names} == {
        name: first.data.metrics[name] for name in names
    }
    assert "warning" not in again.data.tags  # columns.csv lies beside it
    assert "forgetting_score" not in again.data.metrics
    assert (
        "not measured: forgetting_score: the scores of the oracles are not known, only their margins" in out
    )


@pytest.mark.parametrize("other", [["--split_seed", "1"], ["--forget_indexes", "others.txt"]])
def test_margins_of_another_split_or_forget_set_are_refused(
    other, klom_of_default, capsys, folder, monkeypatch
):
    """Of as many images, which columns.csv beside the file names."""
    first, _ = klom_of_default
    (folder / "others.txt").write_text(
        "\n".join(map(str, load_splits("digits", ".").train.indexes[:60].tolist()))
    )
    request = SMALL if other[0] == "--split_seed" else SMALL[:2]
    monkeypatch.setattr(model_sets, "fit_many", lambda *_, **__: pytest.fail("something was trained"))

    argv = ["klom", "--models", "10", *request, *other, "--unlearn", "default", "--oracle_margins"]
    assert audit.main([*argv, str(artifact(first, "oracle_margins.npy"))]) == 2

    printed = capsys.readouterr().err
    assert (
        "expected margins of the images of this forget request and split, got others: columns.csv has "
        "0,forget," in printed
    )
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "got 0 lines. Restore it"), ("column,set,index,label\n", "got 1 lines"), ("\udcff", "UTF-8")],
)
def test_a_table_of_columns_that_is_none_is_refused(content, message, capsys, folder):
    place = folder / "broken"
    place.mkdir(exist_ok=True)
    np.save(place / "oracle_margins.npy", np.zeros((10, 60), np.float32))
    (place / "columns.csv").write_bytes(content.encode(errors="surrogateescape"))

    assert audit.main([*KLOM, "--unlearn", "default", "--oracle_margins", "broken/oracle_margins.npy"]) == 2

    assert message in capsys.readouterr().err


def test_margins_of_the_forget_set_alone_are_enough_for_its_klom(klom_of_default, capsys, folder):
    first, _ = klom_of_default
    np.save(folder / "forget.npy", np.load(artifact(first, "oracle_margins.npy"))[:, :60])

    again, out = audited(capsys, *KLOM, "--unlearn", "default", "--oracle_margins", "forget.npy")

    assert again.data.metrics["klom_forget_p95"] == first.data.metrics["klom_forget_p95"]
    unchecked = (
        "there is no columns.csv beside forget.npy, so it can't be checked that its margins are of this "
        "forget request"
    )
    assert f"\nwarning: {unchecked}" in out and out.count(unchecked) == 2
    assert again.data.tags["warning"].startswith(unchecked)
    assert "not measured: klom_retain_p95: no retain margins of the oracles" in out


def test_default_is_caught_on_images_with_planted_wrong_labels(capsys, folder):
    """Sixty epochs, so that the shadow models learn wrong labels by heart; retrained models have no such
    image to remember.
    """
    train = load_splits("planted.py:planted", ".").train.indexes.tolist()
    (folder / "planted.txt").write_text("\n".join(str(index) for index in train if index % 12 == 0))
    common = "ulira --dataset planted.py:planted --arch mlp --forget_indexes planted.txt --shadows 32".split()

    caught, out = audited(capsys, *common, "--epochs", "60", "--unlearn", "default")

    assert caught.data.metrics["ulira_auc"] > 0.9
    assert caught.data.metrics["ulira_shadows"] == 16
    assert re.search(r"^ulira_auc .* above chance: caught$", out, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "ends", "words"),
    [
        ("ulira_auc", (0.0, 1.0), "inconclusive: too few shadow models"),
        ("ulira_auc", (0.5, 0.76), "inconclusive: too few shadow models"),
        ("ulira_auc", (0.45, 0.75), "at chance"),
        ("ulira_auc", (0.51, 1.0), "above chance: caught"),
        ("ulira_auc", (0.2, 0.49), "below chance"),
        ("ulira_tpr_at_1_fpr", (0.0, 0.6), "inconclusive: too few shadow models"),
        ("ulira_tpr_at_1_fpr", (0.0, 0.04), "at chance"),
        ("ulira_tpr_at_1_fpr", (0.02, 0.04), "above chance: caught"),
    ],
)
def test_an_interval_in_words(name, ends, words):
    assert interval_message(name, ends) == words


@pytest.mark.parametrize("out", ["unlearned", "retrained"])
def test_retrained_models_are_at_chance(out, capsys):
    """In weights and in batch order they are as other oracles are, so that 0.5 is within the interval (19
    times in 20).
    """
    run, printed = audited(capsys, *ULIRA, "--epochs", "5", "--unlearn", "retrain", "--ulira_out", out)

    assert run.data.metrics["ulira_auc_low"] <= 0.5 <= run.data.metrics["ulira_auc_high"]
    assert re.search(r"^ulira_auc .* at chance$", printed, flags=re.MULTILINE)


def test_ulira_is_what_its_files_say(capsys):
    run, _ = audited(capsys, *ULIRA, "--unlearn", "default")

    member = np.load(artifact(run, "member.npy"))
    rows = list(csv.DictReader(artifact(run, "models.csv").open()))
    assert member.shape == np.load(artifact(run, "shadow_margins.npy")).shape == (16, 60)
    assert (member[::2] != member[1::2]).mean() > 0.95  # halves; one image of an odd number is in neither
    assert [row["attacked"] for row in rows] == (["False"] * 2 + ["True"] * 2) * 4


def unlucky() -> tuple[int, int]:
    """A seed of which 16 shadow models leave a forget image without 4 of a kind, as each pair leaves one out;
    and what will do.
    """
    for seed in range(1, 100):
        base = BaseConfig(epochs=2, request=ForgetRequest((-1,), 60), seed=seed)
        try:
            UliraAudit(UliraConfig("default", base=base, shadows=16))
        except ValueError as error:
            return seed, int(re.search(r"Ask for --shadows (\d+), or", str(error))[1])
    pytest.fail("every seed will do")


def test_too_few_shadow_models_of_an_odd_training_set_are_refused_with_a_number_that_will_do(
    capsys, monkeypatch
):
    seed, enough = unlucky()
    trains = model_sets.fit_many
    monkeypatch.setattr(model_sets, "fit_many", lambda *_, **__: pytest.fail("something was trained"))

    assert audit.main([*ULIRA, "--seed", str(seed), "--unlearn", "default"]) == 2
    assert (
        "--shadows: expected for each image at least 4 models trained on it that" in capsys.readouterr().err
    )

    monkeypatch.setattr(model_sets, "fit_many", trains)
    run, _ = audited(
        capsys, "ulira", "--shadows", str(enough), *SMALL, "--seed", str(seed), "--unlearn", "default"
    )
    assert run.data.metrics["ulira_shadows"] < enough / 2  # an image that is left out of a pair


def test_help_shows_the_methods_own_flags(capsys):
    with pytest.raises(SystemExit):
        audit.main(["ulira", "--unlearn", "SSD", "--help"])

    printed = capsys.readouterr().out
    assert "--ulira_out" in printed
    assert "method SSD:" in printed
    assert audit.main(["--help"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("clom", "unknown audit 'clom'. Did you mean 'klom'?"),
        ("klom --unlearn defautl", "unknown method 'defautl'. Did you mean 'default'?"),
        ("klom", "--unlearn is missing. Name a method: "),
        ("klom --unlearn default --modles 9", "unknown flag '--modles'. Did you mean '--models'?"),
        ("klom --unlearn default --models 9", "--models: expected at least 10 a side, got 9"),
        ("klom --unlearn default --mask a.safetensors", "--mask is one model, and an audit needs many"),
        (
            "klom --unlearn default --metrics avg_gap",
            "--metrics: expected metrics of one model alone, got avg_gap",
        ),
        (
            "klom --unlearn default --num_indexes_to_replace 9 --metrics mia,test_forget_score",
            "--metrics: test_forget_score needs a class that is forgotten whole, got the request class0-9. "
            "Leave it out, or forget a whole",
        ),
        (
            "klom --unlearn default --num_indexes_to_replace 1 --metrics probe_score",
            "--metrics: probe_score can't be measured here: expected at least 2 forget images, got 1. Probe "
            "a larger",
        ),
        (
            "ulira --unlearn oracle_matching",
            "oracle_matching needs oracles, and each shadow model would need its own",
        ),
        ("klom --unlearn load_an_oracle", "Make them: python -u main_ideal.py --oracles 200"),
        (
            "ulira --unlearn default --class_to_replace -1 --num_indexes_to_replace 2",
            "expected forget images among those",
        ),
        (
            "ulira --unlearn default --shadows 12",
            "--shadows: expected a multiple of 4 of at least 16, got 12",
        ),
        (
            "ulira --unlearn default --shadows 18",
            "--shadows: expected a multiple of 4 of at least 16, got 18",
        ),
        ("ulira --unlearn default --ulira_out oracles", "--ulira_out: invalid choice: 'oracles'"),
        (
            "klom --unlearn default --oracle_margins none.npy",
            "expected a .npy file, and there is no file none.npy",
        ),
        ("klom --unlearn default --oracle_margins mine.py", "mine.py: expected a .npy file of numbers"),
        (
            "klom --unlearn UNSIR --num_indexes_to_replace 9",
            "UNSIR: expected a forget request for whole classes",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(words, message, capsys, monkeypatch):
    monkeypatch.setattr(model_sets, "fit_many", lambda *_, **__: pytest.fail("something was trained"))

    assert audit.main(words.split()) == 2

    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((12, 60), np.float32),
            "expected 10 oracles, as many as unlearned models, got 12. Ask for --models 12",
        ),
        (
            np.zeros((10, 61), np.float32),
            "with 60 (forget), 1295 (forget + retain) or 1438 (forget + retain + validation) images, got "
            "float32 (10, 61)",
        ),
        (np.zeros((9, 60), np.float32), "expected at least 10 models, got 9"),
        (np.zeros((10, 60), np.int64), "expected floats (models, images)"),
        (np.full((10, 60), np.nan), "expected numbers, got NaN in 600 of 600 (10 of 10 models)"),
        (np.array([None] * 10), "expected a .npy file of numbers"),
    ],
)
def test_margins_that_do_not_fit_are_refused(array, message, capsys, folder):
    np.save(folder / "wrong.npy", array)

    assert audit.main([*KLOM, "--unlearn", "default", "--oracle_margins", "wrong.npy"]) == 2

    assert message in capsys.readouterr().err


def test_oracles_of_another_forget_set_are_refused(capsys, folder):
    """As where a file was renamed."""
    audited(capsys, *KLOM, "--unlearn", "default", "--save_dir", "renamed")
    (folder / "renamed/3mlp_ep2_ideal_any-60.safetensors").rename(
        folder / "renamed/3mlp_ep2_ideal_any-61.safetensors"
    )

    assert audit.main([*KLOM[:-1], "61", "--unlearn", "default", "--save_dir", "renamed"]) == 2

    assert "expected a model trained on all but any-61, got one marked 'any-60'" in capsys.readouterr().err


def test_a_method_that_diverges_is_named_with_its_model(capsys):
    assert audit.main([*ULIRA, "--unlearn", "mine.py:diverging"]) == 1

    assert (
        "diverging on shadow model 1: diverging diverged: weights that are not finite"
        in capsys.readouterr().err
    )
