"""audit.py verify finds what somebody changed in a run's store or artifacts, runs no code that they name, and
ends with what it left.
"""

import json
import re
import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from edited_headers import edit_header
from own_store import artifact, runs, store_in, there  # noqa: F401 (every test runs in the module's folder)

import audit
import mlflow_forget
from lethe.models import Mask
from lethe.training import load_mask, save_mask

pytestmark = pytest.mark.slow

EVERYTHING = (
    "--unlearn random_mask --kappa 30 --epochs 2 --class_to_replace -1 --num_indexes_to_replace 60".split()
)
JOB = [*EVERYTHING, "--metrics", "forget_score,test_score,avg_gap_without_mia"]

FOLDERS, TABLES = ("mlruns", "results"), ("params", "tags", "latest_metrics", "datasets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("changed")


class Run:
    """A run whose store and artifacts can be changed."""

    def __init__(self, run):
        self.id = run.info.run_id
        self.artifacts = artifact(run)

    def store(self, statement, *values):
        with sqlite3.connect("mlflow.db") as store:
            store.execute(statement, (*values, self.id))

    def param(self, name, value):
        self.store("UPDATE params SET value = ? WHERE key = ? AND run_uuid = ?", value, name)

    def tag(self, name, value):
        self.store("DELETE FROM tags WHERE key = ? AND run_uuid = ?", name)
        self.store("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", name, value)

    def metric(self, name, value):
        self.store("UPDATE latest_metrics SET value = ? WHERE key = ? AND run_uuid = ?", value, name)

    def invent(self, name):
        columns = "key, value, timestamp, step, is_nan, run_uuid"
        self.store(f"INSERT INTO latest_metrics ({columns}) VALUES (?, 1, 0, 0, 0, ?)", name)

    @property
    def raw(self):
        (file,) = self.artifacts.glob("random_mask*.json")
        return file

    def change_raw(self, part, **values):
        content = json.loads(self.raw.read_text())
        content[part] |= values
        self.raw.write_text(json.dumps(content))

    def change_cell(self):
        file = self.artifacts / "per_image.parquet"
        table = pq.read_table(file)
        values = table["p_y"].to_pylist()
        values[5] += 0.01
        pq.write_table(table.set_column(table.column_names.index("p_y"), "p_y", [values]), file)

    def change_mask(self):
        file = self.artifacts / "mask.safetensors"
        mask = load_mask(file)
        keep = mask.keep.clone().flatten()
        off, on = (~keep).nonzero()[0], keep.nonzero()[0]
        keep[off], keep[on] = True, False  # as many as before
        about = {"method": "random_mask", "request": "any-60", "run_id": self.id, "dataset": "digits"}
        save_mask(file, Mask(mask.layer, keep.view_as(mask.keep)), about)

    def verified(self, capsys, *flags):
        capsys.readouterr()
        code = audit.main(["verify", self.id, *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err


def made(*argv):
    assert mlflow_forget.main(list(argv)) == 0
    return Run(runs()[0])


@pytest.fixture(scope="module", name="kept")
def fixture_kept():
    return {}


@pytest.fixture
def run(kept, tmp_path):
    """One run for all tests, as it was made."""
    if "run" not in kept:
        kept["run"] = made(*JOB)
    with sqlite3.connect("mlflow.db") as store:
        rows = {table: store.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    for name in FOLDERS:
        shutil.copytree(name, tmp_path / "as_it_was" / name)
    yield kept["run"]
    for name in FOLDERS:
        shutil.rmtree(name)
        shutil.copytree(tmp_path / "as_it_was" / name, name)
    with sqlite3.connect(
        "mlflow.db"
    ) as store:  # not by a copy of the file: MLflow's own connection would not see that it is another
        for table, own in rows.items():
            store.execute(f"DELETE FROM {table}")
            store.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(own[0]))})", own)


def narrow(run):
    run.param("metrics", "test_score")
    run.metric("avg_gap_without_mia", 0)


CHANGES = {
    "a table that is none": (
        lambda run: (run.artifacts / "per_image.parquet").write_text("x"),
        "DIFFERS: per_image.parquet",
    ),
    "a cell": (Run.change_cell, r"DIFFERS: per_image.parquet\n.*others in p_y"),
    "no table": (lambda run: (run.artifacts / "per_image.parquet").unlink(), "GONE: per_image.parquet"),
    "a mask that is none": (
        lambda run: (run.artifacts / "mask.safetensors").write_text("x"),
        "DIFFERS: mask.safetensors",
    ),
    "another mask": (
        Run.change_mask,
        "DIFFERS: mask.safetensors: weights under it that are not zero\n.*expected 0, got 1",
    ),
    "no mask": (lambda run: (run.artifacts / "mask.safetensors").unlink(), "GONE: mask.safetensors"),
    "the verdict": (
        lambda run: run.tag("verdict", "Everything is forgotten"),
        "DIFFERS: verdict\n.*expected Everything is forgotten, got ",
    ),
    "the method": (
        lambda run: run.param("unlearn", "SSD"),
        "DIFFERS: params in the raw metrics JSON\n.*random_mask.*SSD",
    ),
    "a setting": (
        lambda run: run.param("kappa", "0.5"),
        "DIFFERS: settings of the method in config_hash\n.*expected kappa 30, got kappa 0.5",
    ),
    "a setting that is none": (
        lambda run: (run.param("mask_layer", "-1"), run.change_raw("params", mask_layer="-1")),
        "DIFFERS: settings of the method, as .*\n.*expected mask_layer None, got mask_layer -1",
    ),
    "an empty digest": (lambda run: run.param("unlearned_digest", ""), "DIFFERS: unlearned model"),
    "the class": (
        lambda run: run.param("class_to_replace", "3"),
        "DIFFERS: forget list, by class and number",
    ),
    "the seed of the record": (lambda run: run.change_raw("decisive", seed=2), "DIFFERS: config_hash"),
    "config_hash": (lambda run: run.tag("config_hash", "0" * 64), "DIFFERS: config_hash"),
    "fewer metrics": (narrow, r"\navg_gap_without_mia +0\.0 +\d"),
    "an invented metric": (
        lambda run: run.invent("forgotten"),
        "DIFFERS: metrics that the raw metrics JSON has not\n.*got forgotten",
    ),
    "a number of the record": (
        lambda run: run.change_raw("metrics", forget_score=1.5),
        "DIFFERS: metrics in the raw metrics JSON\n.*1.5",
    ),
    "a number too large for a float": (
        lambda run: run.change_raw("metrics", forget_score=10**400),
        "DIFFERS: raw metrics JSON",
    ),
    "no record": (lambda run: run.raw.unlink(), "GONE: raw metrics JSON"),
    "a record that is none": (lambda run: run.raw.write_text("[" * 100_000), "DIFFERS: raw metrics JSON"),
    "a warning": (lambda run: run.tag("warning", "none of it holds"), "DIFFERS: (warning|tags in the raw)"),
    "the initial model's seed": (
        lambda run: run.param("initial_seed", "7"),
        "DIFFERS: header of the initial model's checkpoint\n.*initial_seed 7",
    ),
    "the digest of the images": (
        lambda run: run.store(
            "UPDATE datasets SET digest = '' WHERE dataset_uuid IN (SELECT source_id FROM inputs WHERE "
            "destination_id = ?)"
        ),
        "DIFFERS: forget images",
    ),
}


def test_a_run_as_it_was_made_is_verified_and_what_was_not_checked_is_named(folder, capsys):
    code, out = made(*EVERYTHING).verified(capsys)

    assert (code, "DIFFERS" in out, "GONE" in out) == (0, False, False)
    last = out.splitlines()[-1]
    start = r"verified: (\d+) of \1 numbers follow from the artifacts; as the run logged it, not recomputed: "
    assert re.match(f"{start}artifacts ", last)
    artifacts = last.partition("not recomputed: artifacts ")[2].partition(";")[0].split(", ")
    assert "report.html" in artifacts
    assert not {"per_image.parquet", "mask.safetensors", "unlearned.safetensors", "forget_indexes.txt"} & set(
        artifacts
    )
    assert "; what no run can show: who made it (its manifest is not signed, " in last


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_was_changed_is_found(change, message, run, capsys):
    change(run)

    code, out = run.verified(capsys)

    assert code == 1
    assert re.search(message, out)
    assert re.search("^NOT verified: ", out, flags=re.MULTILINE)
    assert not re.search("^verified: ", out, flags=re.MULTILINE)


def test_the_table_of_a_run_from_before_an_attack_is_verified_without_its_column(run, capsys):
    file = run.artifacts / "per_image.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["member_score_lr"]), file)
    (run.artifacts / "manifest.json").unlink()

    code, out = run.verified(capsys)

    assert code == 1
    assert "per_image.parquet: member_score_lr (earlier versions have no such column)" in out
    assert re.search("^verified IN PART: .* not checked: .*an older run, without a manifest", out, flags=re.M)


def test_every_other_column_has_to_be_there(run, capsys):
    file = run.artifacts / "per_image.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["member_score_entropy"]), file)

    code, out = run.verified(capsys)

    assert code == 1
    assert re.search(r"DIFFERS: per_image.parquet\n.*others in the columns member_score_entropy", out)


def test_a_run_with_an_add_on_of_its_own_name_is_verified(folder, capsys):
    own = made(
        *"--unlearn NGradMask --unlearn_epochs 1 --epochs 2 --report skip --metrics forget_score".split()
    )

    code, out = own.verified(capsys)

    assert (code, "DIFFERS" in out) == (0, False)


def test_an_added_artifact_param_or_tag_is_found(run, capsys):
    (run.artifacts / "certificate.txt").write_text("forgotten")
    run.store("INSERT INTO params (key, value, run_uuid) VALUES ('certified', 'yes', ?)")
    run.tag("auditor", "somebody")

    code, out = run.verified(capsys)

    assert code == 1
    for added in ("artifact certificate.txt", "param certified", "tag auditor"):
        assert f"DIFFERS: {added}, since the run ended\n    expected none when the run ended, got " in out


def test_what_a_run_says_makes_no_line_of_its_own(run, capsys):
    run.tag("verdict", "x\nverified: 99 of 99 numbers follow from the artifacts")

    code, out = run.verified(capsys)

    assert code == 1
    assert not re.search("^verified: ", out, flags=re.MULTILINE)


def test_a_header_that_was_edited_since_is_found(run, capsys):
    path = Path("results/digits/1mlp_ep2_ideal_any-60.safetensors")
    edit_header(path, path, "made anew", train_score=12.5)

    code, out = run.verified(capsys)

    assert code == 1
    assert "DIFFERS: header of the ideal model's checkpoint" in out


def test_an_ideal_model_that_is_the_initial_one_is_found(run, capsys):
    initial, ideal = (
        Path("results/digits/1mlp_ep2.safetensors"),
        Path("results/digits/1mlp_ep2_ideal_any-60.safetensors"),
    )
    edit_header(initial, ideal, "made anew", trained_on="any-60")

    code, out = run.verified(capsys)

    assert code == 1
    assert "DIFFERS: ideal model\n    expected another than the initial model, got the same weights" in out


def test_a_link_out_of_the_run_is_not_followed_whatever_is_trusted(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LETHE_FOLLOW_LINKS", "1")
    shutil.move(run.artifacts / "forget_indexes.txt", tmp_path / "elsewhere.txt")
    (run.artifacts / "forget_indexes.txt").symlink_to(tmp_path / "elsewhere.txt")

    code, out = run.verified(capsys)

    assert code == 1
    assert "expected an artifact inside the run's folder, got a link to " in out


def test_a_copied_folder_does_not_verify_the_original(run, tmp_path, monkeypatch, capsys):
    original, copy = Path.cwd(), tmp_path / "copy"
    shutil.copytree(original, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_in(copy))
    (copy / run.artifacts.relative_to(original) / "per_image.parquet").write_text("x")

    code, out = run.verified(capsys)
    assert code == 2
    assert "was the folder copied? Choose: --artifact_root" in out
    code, out = run.verified(capsys, "--artifact_root", "mlruns")
    assert (code, "DIFFERS: per_image.parquet" in out) == (1, True)
    assert run.verified(capsys, "--artifact_root", str(original / "mlruns"))[0] == 0
    monkeypatch.chdir(original)


def test_artifacts_that_were_moved_are_asked_for(run, tmp_path, capsys):
    shutil.move("mlruns", tmp_path / "moved")

    code, out = run.verified(capsys)
    assert code == 2
    assert (
        "and there is no such folder. If they were moved, name the folder of the experiments with "
        "--artifact_root" in out
    )
    assert run.verified(capsys, "--artifact_root", str(tmp_path / "moved"))[0] == 0
    shutil.copytree(tmp_path / "moved", "mlruns")


# Code

EVIL = (
    "open('ran.txt', 'a').write('x')\nfrom lethe.models import ARCHITECTURES\n"
    "mlp = ARCHITECTURES['mlp'].function\ndef read(folder): pass\n"
)
NET = (
    "open('ran.txt', 'a').write('x')\nfrom lethe.models import build\n"
    "def net(image_shape, classes): return build('mlp', image_shape, classes, seed=0)\n"
)


def ran():
    return len(Path("ran.txt").read_text()) if Path("ran.txt").exists() else 0


@pytest.mark.parametrize("flags", [[], ["--trust_code"]], ids=["by default", "trusted"])
@pytest.mark.parametrize(
    ("param", "value", "code", "message"),
    [
        ("arch_file", "evil.py", 1, "DIFFERS: file of the architecture\n    expected None, got "),
        ("arch", "evil.py:mlp", 1, "DIFFERS: architecture\n    expected mlp, got evil.py:mlp"),
        ("dataset_file", "evil.py", 1, "is a user's own code without a recorded digest"),
        ("dataset_file", "x:evil.py:read", 1, "is a user's own code without a recorded digest"),
        ("dataset", "evil.py:read", 1, "is a user's own code without a recorded digest"),
        (
            "metrics",
            "default,evil.py:read",
            1,
            r"not checked: .*metric read \(a user's own code, without a recorded digest\)",
        ),
    ],
)
def test_code_that_the_store_names_is_never_run(flags, param, value, code, message, run, capsys):
    Path("evil.py").write_text(EVIL)
    run.param(param, value)
    before = ran()

    got, out = run.verified(capsys, *flags)

    assert (got, ran()) == (code, before)
    assert re.search(message, out)


def test_an_architecture_of_ones_own_is_run_only_where_it_is_trusted_and_only_the_recorded_copy(
    folder, capsys
):
    Path("net.py").write_text(NET)
    run = made(*JOB, "--arch", "net.py:net")
    Path("net.py").write_text(NET + "raise SystemExit('another file by now')\n")
    before = ran()

    code, out = run.verified(capsys)
    assert (code, ran()) == (2, before)
    assert "its architecture 'net' is a user's own code" in out
    assert "verify with --trust_code" in out

    code, out = run.verified(capsys, "--trust_code")
    assert (code, ran()) == (0, before + 1)

    copy = run.artifacts / "code/net.py"
    copy.write_text(NET + "# changed\n")
    code, out = run.verified(capsys, "--trust_code")
    assert (code, ran()) == (1, before + 1)
    assert "no file among its artifacts in code/ has this digest. Restore the file" in out
