"""audit.py verify and evaluate: a run is what its artifacts give, and what somebody changed is found."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from own_store import artifact, runs, store_in, there  # noqa: F401 (every test runs in the module's folder)
from pictures import noise, write
from safetensors.torch import load_file, save_file

import audit
import mlflow_forget
from lethe.data import load_splits
from lethe.training import checkpoint_digest

pytestmark = pytest.mark.slow

JOB = "--unlearn random_mask --kappa 30 --epochs 2 --class_to_replace -1 --num_indexes_to_replace 60".split()
RUN = [*JOB, "--metrics", "forget_score,test_score,avg_gap_without_mia"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("verified")


def made(main, *argv):
    assert main(list(argv)) == 0
    return runs()[0]


def verified(capsys, run):
    capsys.readouterr()
    code = audit.main(["verify", run.info.run_id])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture(scope="module")
def whole(folder):
    """A run, a KLoM audit and the store that has both, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store_in(folder))
        job = made(mlflow_forget.main, *RUN)
        klom = made(audit.main, "klom", "--models", "10", *JOB)
    saved = sqlite3.connect(":memory:")
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        store.backup(saved)
    yield job, klom, saved
    saved.close()


@pytest.fixture
def restored(whole, folder, tmp_path):
    """A test may change the run and the audit: the next one finds them as they were made."""
    job, klom, saved = whole
    for run in (job, klom):
        shutil.copytree(artifact(run), tmp_path / run.info.run_id)
    yield job, klom
    for run in (job, klom):
        shutil.rmtree(artifact(run))
        shutil.copytree(tmp_path / run.info.run_id, artifact(run))
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        saved.backup(store)


@pytest.fixture
def job(restored):
    return restored[0]


@pytest.fixture
def klom(restored):
    return restored[1]


def test_a_run_of_a_method_is_what_its_artifacts_give(folder, capsys):
    job = made(mlflow_forget.main, *JOB)
    code, out = verified(capsys, job)

    same, all_of = map(int, re.search(r"^verified: (\d+) of (\d+) numbers", out, flags=re.MULTILINE).groups())
    assert (code, same) == (0, all_of)
    logged = {
        name
        for name in job.data.metrics
        if not re.search(r"seconds|^unlearn_|_train_|^speedup$|^epoch_|_count$", name)
    }
    assert all_of == len(logged)
    for what in (
        "split",
        "forget images",
        "retain images",
        "test images",
        "unlearned model",
        "number of forget images",
    ):
        assert f"same: {what}\n" in out


KLOM_AUDITS = (["--metrics", "forget_score"], ["--klom_direction", "oracle_unlearned"])


@pytest.mark.parametrize(
    "command", [*(["klom", "--models", "10", *flags] for flags in KLOM_AUDITS), ["ulira", "--shadows", "16"]]
)
def test_an_audit_is_what_its_artifacts_give(command, folder, capsys):
    code, out = verified(capsys, made(audit.main, *command, *JOB))

    assert code == 0
    assert "same: images of the columns" in out
    assert re.search(r"^same: (20|16) checkpoints$", out, flags=re.MULTILINE)


def test_a_changed_number_is_found(job, folder, capsys):
    with sqlite3.connect(folder / "mlflow.db") as store:
        store.execute(
            "UPDATE latest_metrics SET value = 12.5 WHERE run_uuid = ? AND key = 'forget_score'",
            (job.info.run_id,),
        )

    code, out = verified(capsys, job)

    assert code == 1
    assert re.search(r"^forget_score +12.5 +\d+\.\d+$", out, flags=re.MULTILINE)
    assert "NOT verified: " in out


def test_another_model_in_the_place_of_the_unlearned_one_is_found(job, capsys):
    """By its digest, though it is a checkpoint that is whole."""
    artifact(job, "unlearned.safetensors").write_bytes(
        Path("results/digits/1mlp_ep2.safetensors").read_bytes()
    )

    code, out = verified(capsys, job)

    assert code == 1
    assert "DIFFERS: unlearned model" in out


def test_another_forget_list_is_found(job, capsys):
    file = artifact(job, "forget_indexes.txt")
    file.write_text("\n".join(file.read_text().split()[1:]))

    code, out = verified(capsys, job)

    assert code == 1
    assert "DIFFERS: number of forget images\n    expected 60, got 59" in out
    assert "DIFFERS: forget images" in out


def test_the_images_of_an_attribute_are_chosen_again(folder, capsys):
    for number in range(40):
        write(
            folder / "photos" / "cat" / ("lynx" if number % 4 else "sea lion") / f"{number}.png",
            noise(number),
        )
        write(folder / "photos" / "dog" / f"{number}.png", noise(100 + number))
    request = [*"--dataset folder:photos --arch mlp --forget_subclass lynx".split(), "sea lion"]
    few = ["--num_indexes_to_replace", "5", "--metrics", "forget_score"]
    job = made(mlflow_forget.main, "--unlearn", "random_mask", "--epochs", "2", *request, *few)

    assert job.data.params["forget_subclass"] == "lynx 'sea lion'"
    assert job.data.params["forget_request"] == "5 images of the subclasses lynx or sea lion"
    code, out = verified(capsys, job)
    assert code == 0 and "same: forget list, by attribute\n" in out

    listed = artifact(job) / "forget_indexes.txt"
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:4]))
    code, out = verified(capsys, job)
    assert code != 0 and "forget list, by attribute" in out


def test_an_ideal_model_that_is_gone_or_another_is_named(folder, capsys):
    run = made(mlflow_forget.main, *RUN, "--save_dir", "moved")
    ideal = folder / "moved/1mlp_ep2_ideal_any-60.safetensors"
    ideal.write_bytes((folder / "moved/1mlp_ep2.safetensors").read_bytes())

    code, out = verified(capsys, run)

    assert code == 1
    assert f"DIFFERS: ideal model, {ideal.relative_to(folder)}" in out
    ideal.unlink()
    code, out = verified(capsys, run)
    assert code == 1
    assert "GONE: ideal model" in out


def test_numbers_that_need_an_ideal_model_that_is_gone_are_counted_and_named(folder, capsys):
    run = made(mlflow_forget.main, *JOB, "--save_dir", "unloved")
    _, whole = verified(capsys, run)
    (folder / "unloved/1mlp_ep2_ideal_any-60.safetensors").unlink()

    code, out = verified(capsys, run)

    lost = re.search(r"^could not be recomputed \(the ideal model is gone\): (.*)$", out, flags=re.MULTILINE)[
        1
    ].split(", ")
    assert {"avg_gap_without_mia", "fidelity", "ideal_forget_score"} <= set(lost)
    assert "initial_forget_score" not in lost
    same, of = map(int, re.search(r"^NOT verified: (\d+) of (\d+) numbers", out, flags=re.MULTILINE).groups())
    assert (code, same) == (1, of - len(lost))
    assert re.search(rf"^verified: {of} of {of} numbers", whole, flags=re.MULTILINE)
    kinds = re.search(r"^can't be recomputed from artifacts .*$", out, flags=re.MULTILINE)[0]
    assert kinds in whole


def test_changed_margins_are_found(klom, capsys):
    file = artifact(klom, "unlearned_margins.npy")
    margins = np.load(file)
    margins[:, :60] += 3
    np.save(file, margins)

    code, out = verified(capsys, klom)

    assert code == 1
    assert "DIFFERS: unlearned_margins.npy" in out
    assert re.search(r"^klom_forget_p95 ", out, flags=re.MULTILINE)


def test_a_changed_param_and_an_invented_metric_of_an_audit_are_found(klom, folder, capsys):
    with sqlite3.connect(folder / "mlflow.db") as store:
        store.execute(
            "UPDATE params SET value = 'SSD' WHERE run_uuid = ? AND key = 'unlearn'", (klom.info.run_id,)
        )
        row = "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) "
        store.execute(row + "VALUES (?, 'forgotten', 1, 0, 0, 0)", (klom.info.run_id,))

    code, out = verified(capsys, klom)

    assert code == 1
    assert "DIFFERS: config_hash, of all params" in out
    assert "DIFFERS: metrics that no audit has\n    expected none, got forgotten" in out


def test_an_audit_is_verified_in_part_if_models_are_gone(folder, capsys):
    run = made(audit.main, "klom", "--models", "10", *JOB, "--save_dir", "few")
    (folder / "few/3mlp_ep2.safetensors").unlink()

    code, out = verified(capsys, run)

    assert code == 1
    assert "verified IN PART: " in out
    assert "missing now: 1 of 20 checkpoints that the audit started from" in out


def test_a_model_that_is_gone_is_found_by_the_manifest(job, capsys):
    artifact(job, "unlearned.safetensors").unlink()

    code, out = verified(capsys, job)

    assert code == 1
    assert "GONE: artifact unlearned.safetensors, since the run ended" in out
    assert "not checked: its numbers (" in out


def test_without_model_and_manifest_nothing_is_compared(job, capsys):
    for name in ("unlearned.safetensors", "manifest.json"):
        artifact(job, name).unlink()

    code, out = verified(capsys, job)

    assert code == 2
    assert "expected its artifact unlearned.safetensors, and there is none" in out


def test_a_parent_names_its_children(folder, capsys):
    mlflow_forget.main([*RUN, "--seed", "1", "2"])
    children = runs()[0], None
    parent = mlflow.MlflowClient().get_run(children[0].data.tags["mlflow.parentRunId"])

    code, out = verified(capsys, parent)

    assert code == 2
    assert "is the parent of 2 runs and has no numbers. Verify those: " in out
    assert children[0].info.run_id in out


@pytest.mark.parametrize(
    ("run_id", "message"),
    [
        ("newest", "expected a run's id, 32 digits and letters from a to f, got 'newest'"),
        ("0" * 32, "no run 00000000000000000000000000000000 can be read from"),
    ],
)
def test_an_id_of_no_run_is_a_line(run_id, message, job, capsys):
    capsys.readouterr()

    assert audit.main(["verify", run_id]) == 2

    assert message in capsys.readouterr().err


def test_without_a_store_none_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_in(tmp_path))

    assert audit.main(["verify", "0" * 32]) == 2

    assert "expected a tracking store" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# Models made elsewhere


@pytest.fixture
def elsewhere(job, folder):
    """Weights without a word, as another program leaves them, and a list that has images of Lethe's
    validation part.
    """
    weights = load_file("results/digits/1mlp_ep2.safetensors")
    save_file(weights, "initial_elsewhere.safetensors")
    torch.save({name: value + 0.05 for name, value in weights.items()}, "unlearned_elsewhere.pth")
    splits = load_splits("digits", ".")
    indexes = [*splits.train.indexes[:30].tolist(), *splits.validation.indexes[:3].tolist()]
    (folder / "forget_elsewhere.txt").write_text("\n".join(map(str, indexes)))
    return "evaluate --initial initial_elsewhere.safetensors --unlearned unlearned_elsewhere.pth".split()


def test_models_from_elsewhere_are_evaluated_and_verified(elsewhere, capsys):
    run = made(audit.main, *elsewhere, "--forget_indexes", "forget_elsewhere.txt", "--trained_on", "all")
    out = capsys.readouterr().out

    assert {
        "forget_score",
        "mia_auc",
        "zrf",
        "probe_score",
        "relearn_steps",
        "initial_forget_score",
    } <= run.data.metrics.keys()
    assert run.data.params["forget_count"] == "33"
    assert run.data.params["initial_digest"] == checkpoint_digest(Path("results/digits/1mlp_ep2.safetensors"))
    assert "not measured (needs an ideal model): " in out
    assert "warning: that initial_elsewhere.safetensors was trained on these images can't be checked" in out
    assert verified(capsys, run)[0] == 0


def test_an_ideal_model_allows_the_other_metrics(elsewhere, capsys):
    ideal = "results/digits/1mlp_ep2_ideal_any-60.safetensors"
    run = made(
        audit.main, *elsewhere, "--class_to_replace", "-1", "--num_indexes_to_replace", "60", "--ideal", ideal
    )

    assert {"avg_gap_without_mia", "fidelity", "ideal_forget_score"} <= run.data.metrics.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--forget_indexes", "forget_elsewhere.txt"],
            "If the models saw the whole published training part, say --trained_on all",
        ),
        (
            ["--ideal", "results/digits/1mlp_ep2_ideal_any-60.safetensors"],
            "expected a model trained on all but class0, got one marked 'any-60'. Name another file with "
            "--ideal",
        ),
        (
            ["--initial", "results/digits/1mlp_ep2.safetensors", "--trained_on", "all"],
            "is Lethe's, and was trained on its train split",
        ),
        (["--arch", "cnn"], "expected the weights of this architecture, got others"),
        (["--initial", "none.pth"], "expected a file none.pth, and there is none"),
        (["--metrics", "mai"], "unknown metric 'mai'. Did you mean 'mia'?"),
    ],
)
def test_models_that_do_not_fit_are_a_line(flags, message, elsewhere, capsys):
    capsys.readouterr()

    assert audit.main([*elsewhere, *flags]) == 2

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_both_models_are_needed(capsys, folder):
    assert audit.main(["evaluate", "--initial", "a.pth"]) == 2
    assert "--unlearned missing. Name the model's file" in capsys.readouterr().err


def test_blanks_between_metrics_are_no_part_of_their_names(elsewhere, capsys):
    run = made(audit.main, *elsewhere, "--metrics", "forget_score, mia_auc")

    assert {"forget_score", "mia_auc"} <= run.data.metrics.keys()
    assert verified(capsys, run)[0] == 0


def test_a_model_that_forgot_something_else_is_refused(job, elsewhere, folder, capsys):
    """By what its file says of itself: 60 images of any class here."""
    (folder / "forgot60.safetensors").write_bytes(artifact(job, "unlearned.safetensors").read_bytes())
    lethes = [*elsewhere[:3], "--unlearned", "forgot60.safetensors"]
    capsys.readouterr()

    for other in (["--class_to_replace", "3"], ["--class_to_replace", "-1", "--num_indexes_to_replace", "6"]):
        assert audit.main([*lethes, *other]) == 2
        error = capsys.readouterr().err
        assert (
            "forgot60.safetensors: expected a model that unlearned "
            f"{'class3' if len(other) == 2 else 'any-6'}" in error
        )
        assert "got one marked 'unlearned any-60 by random_mask'" in error
    words = "--class_to_replace -1 --num_indexes_to_replace 60 --split_seed 1"
    assert audit.main([*lethes, *words.split()]) == 2
    assert (
        "expected a checkpoint with split_seed 1, got 0. Ask for split_seed 0, or name another file with "
        "--unlearned" in capsys.readouterr().err
    )
    assert audit.main([*lethes[:-1], "results/digits/1mlp_ep2.safetensors"]) == 2
    assert "expected a model that unlearned class0, got one trained on everything" in capsys.readouterr().err

    run = made(
        audit.main, *lethes, *"--class_to_replace -1 --num_indexes_to_replace 60 --metrics default".split()
    )
    assert run.data.metrics["forget_score"] == job.data.metrics["forget_score"]
    assert "unlearned" not in run.data.tags.get("warning", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "junk.safetensors",
            "junk.safetensors: expected a complete safetensors file, and this one is damaged or cut off (",
        ),
        ("a_folder", "expected a file, got the folder a_folder. Name the file in it"),
        ("none.safetensors", "expected a file none.safetensors, and there is none. Check the path"),
    ],
)
def test_nobodys_file_is_to_be_deleted(name, message, elsewhere, folder, capsys):
    (folder / "a_folder").mkdir(exist_ok=True)
    (folder / "junk.safetensors").write_bytes(b"\xff" * 40)
    capsys.readouterr()

    assert audit.main([*elsewhere[:3], "--unlearned", name]) == 2

    error = capsys.readouterr().err
    assert message in error
    assert "Delete" not in error


def test_a_module_around_the_model_is_said_to_be_one(folder, capsys):
    run = made(
        mlflow_forget.main, *"--unlearn dm_direct --attribution_images 50 --sketch_size 64".split(), *JOB[4:]
    )

    code, out = verified(capsys, run)

    assert code == 2
    reason = "dm_direct returns a module, which its file alone does not give back"
    assert out == f"error: {reason}; this run can't be recomputed\n"
