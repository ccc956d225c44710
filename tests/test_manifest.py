"""A run's manifest has all that it logged; later changes are found, and so is a false signature."""

import hashlib
import json
import os
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_store import artifact, runs, store_in, there  # noqa: F401 (every test runs in the module's folder)

import audit
import mlflow_forget
import seal
from lethe.audits.recorded_run import RecordedRun
from lethe.audits.seal import check_signature, new_key, private_key, public_key, signature_of, writable
from lethe.audits.verified import Verification
from lethe.audits.verified_manifest import check_manifest
from lethe.tracking.entries import Artifact, Batch, InputSet, Point
from lethe.tracking.manifest import MANIFEST, SIGNATURE, Logged, Manifest, points_in_words
from lethe.tracking.record import Record

RUN_ID = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sealed")


@pytest.fixture
def record(tmp_path):
    """A run of one param, tag, metric of two steps, image set and artifact, with its manifest."""
    artifacts = tmp_path / "artifacts"
    (artifacts / "pictures").mkdir(parents=True)
    picture = artifacts / "pictures" / "curve.svg"
    picture.write_text("<svg/>")
    logged = Logged()
    logged.add(Artifact(picture, "pictures"))
    logged.add(Batch(params={"seed": "1"}, tags={"verdict": "forgotten", "mlflow.runName": "a run"}))
    logged.add(Batch(points=[Point("loss", 0.5, 10, 1), Point("loss", 0.25, 20, 2)]))
    logged.add(InputSet("forget images", "ab" * 32, "digits", "forget"))
    (artifacts / MANIFEST).write_text(logged.manifest(RUN_ID).as_json())
    points = {"loss": [(2, 0.25), (1, 0.5)]}
    metrics, params, tags, images = (
        {"loss": 0.25},
        {"seed": "1"},
        {"verdict": "forgotten", "mlflow.runName": "a run"},
        {"forget": "ab" * 16},
    )
    return Record(RUN_ID, "a run", "FINISHED", params, metrics, tags, images, artifacts, points)


def differing(record):
    done = Verification()
    assert check_manifest(RecordedRun(record), done)
    return {check.what: (check.named, check.found) for check in done.checks if not check.holds}


def test_an_unchanged_run_is_as_its_manifest(record):
    assert differing(record) == {}


CHANGES = {
    "artifact pictures/curve.svg": lambda run: (run.folder / "pictures/curve.svg").write_text("<svg></svg>"),
    "artifact new.txt": lambda run: (run.folder / "new.txt").write_text("added"),
    "param seed": lambda run: run.params.update(seed="2"),
    "param kappa": lambda run: run.params.update(kappa="0.1"),
    "tag verdict": lambda run: run.tags.update(verdict="not forgotten"),
    "tag error": lambda run: run.tags.update(error="none"),
    "metric loss": lambda run: run.points.update(loss=[(1, 0.125), (2, 0.25)]),
    "metric mia": lambda run: run.points.update(mia=[(0, 50.0)]),
    "image set forget": lambda run: run.images.update(forget="cd" * 16),
    "artifact pipe": lambda run: os.mkfifo(run.folder / "pipe"),
    "name of the run": lambda run: object.__setattr__(run, "name", "another run"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_since_the_run_ended_is_found(what, record):
    CHANGES[what](record)

    assert list(differing(record)) == [f"{what}, since the run ended"]


def test_a_latest_value_that_is_not_the_last_one_is_found(record):
    """A store has the latest values in a table of their own, which tables of runs show."""
    record.metrics["loss"] = 0.5

    assert differing(record) == {"metric loss, its latest value": ("0.25", "0.5")}


REMOVALS = {
    "artifact pictures/curve.svg": lambda run: (run.folder / "pictures/curve.svg").unlink(),
    "param seed": lambda run: run.params.clear(),
    "tag verdict": lambda run: run.tags.pop("verdict"),
    "metric loss": lambda run: run.points.clear(),
    "image set forget": lambda run: run.images.clear(),
}


@pytest.mark.parametrize("what", REMOVALS)
def test_what_was_removed_is_found(what, record):
    REMOVALS[what](record)

    ((name, (_, found)),) = differing(record).items()
    assert (name, found) == (f"{what}, since the run ended", None)


def test_a_link_out_of_the_run_is_no_artifact(record, tmp_path):
    elsewhere = tmp_path / "curve.svg"
    (record.folder / "pictures/curve.svg").rename(elsewhere)
    (record.folder / "pictures/curve.svg").symlink_to(elsewhere)

    assert "artifact pictures/curve.svg, since the run ended" in differing(record)


def test_the_manifest_of_another_run_is_found(record):
    content = json.loads((record.folder / MANIFEST).read_bytes())
    (record.folder / MANIFEST).write_text(json.dumps(content | {"run_id": "f" * 32}))

    assert differing(record) == {"run that the manifest is of": (RUN_ID, "f" * 32)}


WHOLE = json.loads(Manifest(RUN_ID).as_json())
BROKEN = ["", "[]", "[" * 100_000, "{}", *(json.dumps(WHOLE | change) for change in (
    {"format": 2}, {"params": []}, {"params": {"seed": 1}}, {"run_id": None}, {"more": {}}
))]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_damaged_manifest_is_a_difference(content, record):
    (record.folder / MANIFEST).write_text(content)

    assert list(differing(record)) == [MANIFEST]


def test_a_run_of_an_earlier_version_has_none(record):
    (record.folder / MANIFEST).unlink()

    assert not check_manifest(RecordedRun(record), Verification())


POINTS = st.lists(st.tuples(st.integers(0, 9), st.floats(allow_nan=False)), min_size=1)


@given(POINTS, st.randoms())
def test_the_order_of_points_and_second_copies_do_not_matter(points, random):
    again = [*points, *points]
    random.shuffle(again)

    assert points_in_words(points) == points_in_words(again)


@given(POINTS, POINTS)
def test_other_points_are_other_words(one, other):
    same = set(one) == set(other)

    assert (points_in_words(one) == points_in_words(other)) == same


def test_points_in_words():
    digest = hashlib.sha256(b"1 0.5\n2 0.25").hexdigest()

    assert points_in_words([(0, 0.1)]) == "0.1"
    assert points_in_words([(2, 0.25), (1, 0.5)]) == f"2 values, SHA-256 {digest}"
    assert points_in_words([(0, float("inf"))]) == "inf"


# Signatures


@pytest.fixture
def key(tmp_path):
    return new_key(tmp_path / "mine.pem").with_suffix("")


def signed(record, key):
    (record.folder / SIGNATURE).write_text(signature_of(RecordedRun(record), private_key(key)))


def signature(record, key):
    done = Verification()
    check_signature(RecordedRun(record), done, public_key(key.with_name(f"{key.name}.pub")))
    (check,) = done.checks
    return "right" if check.holds else check.found


def test_the_owners_signature_is_right(record, key):
    signed(record, key)

    assert signature(record, key) == "right"
    assert differing(record) == {}


def test_openssl_s_own_check_agrees(record, key):
    """The signature is a plain one of the manifest's bytes: here checked without Lethe."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    signed(record, key)

    (one,) = json.loads((record.folder / SIGNATURE).read_text())["signatures"]
    public = load_pem_public_key(key.with_name("mine.pem.pub").read_bytes())
    public.verify(bytes.fromhex(one["signature"]), (record.folder / MANIFEST).read_bytes())


def test_a_run_without_a_signature(record, key):
    assert signature(record, key) == "none"


def test_somebody_elses_signature_is_not_the_owners(record, key, tmp_path):
    other = new_key(tmp_path / "other.pem").with_suffix("")
    signed(record, other)

    assert signature(record, key).startswith("those of ")


def test_two_people_sign_a_run(record, key, tmp_path):
    other = new_key(tmp_path / "other.pem").with_suffix("")
    for one in (key, other, key):
        signed(record, one)

    assert (signature(record, key), signature(record, other)) == ("right", "right")
    assert len(json.loads((record.folder / SIGNATURE).read_text())["signatures"]) == 2


def test_a_manifest_that_was_made_anew_has_no_signature(record, key):
    """Somebody who can write everywhere changes a number, and the manifest with it."""
    signed(record, key)
    content = json.loads((record.folder / MANIFEST).read_bytes())
    content["params"]["seed"] = record.params["seed"] = "2"
    (record.folder / MANIFEST).write_text(json.dumps(content))

    assert differing(record) == {}
    assert signature(record, key) == "one of this key that is of another manifest"


SIGNATURES = ["", "[]", "{}", '{"signatures": 1}', '{"signatures": [1]}']


@pytest.mark.parametrize("content", SIGNATURES, ids=range(len(SIGNATURES)))
def test_a_damaged_signature_is_a_difference(content, record, key):
    (record.folder / SIGNATURE).write_text(content)

    assert signature(record, key).startswith(SIGNATURE)


def test_a_changed_run_is_not_signed(record, key):
    record.params["seed"] = "2"

    with pytest.raises(ValueError, match=r"changed are: param seed, since the run ended\. Restore them"):
        signature_of(RecordedRun(record), private_key(key))


def test_a_run_without_a_manifest_is_not_signed(record, key):
    (record.folder / MANIFEST).unlink()

    with pytest.raises(ValueError, match=r"expected the artifact manifest.json, and there is none"):
        signature_of(RecordedRun(record), private_key(key))


def test_only_the_owner_can_read_the_private_key(key):
    assert key.stat().st_mode & 0o777 == 0o600


def test_no_key_is_written_over(key):
    with pytest.raises(ValueError, match=r"mine.pem: expected a new file, and it exists"):
        new_key(key)


def test_a_folder_that_takes_no_signature_is_one_line(tmp_path):
    with (
        pytest.raises(ValueError, match="expected a folder that you may write to .*Permission denied"),
        writable(tmp_path),
    ):
        raise PermissionError(13, "Permission denied")


def test_a_key_in_no_folder_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="mine.pem: expected a file in a folder that exists"):
        new_key(tmp_path / "none" / "mine.pem")


def test_a_key_that_is_none(key, tmp_path):
    other = tmp_path / "words.pem"
    other.write_text("words")

    with pytest.raises(ValueError, match="expected a private key of Ed25519, got another file"):
        private_key(other)
    with pytest.raises(ValueError, match="expected a public key of Ed25519, got another file"):
        public_key(other)
    with pytest.raises(ValueError, match="got a private one: name its .pub file"):
        public_key(key)


# The commands


def test_a_run_is_sealed_and_verified_by_the_commands(folder, tmp_path, capsys):
    """Then the report is changed, which no number shows, and the history of a metric."""
    words = "--unlearn random_mask --kappa 30 --epochs 2 --metrics forget_score".split()
    assert mlflow_forget.main(words) == 0
    run, key = runs()[0], tmp_path / "mine.pem"
    assert seal.main(["--new_key", str(key)]) == 0
    assert seal.main([run.info.run_id, "--key", str(key)]) == 0
    command = ["verify", run.info.run_id, "--key", f"{key}.pub"]

    assert audit.main(command) == 0
    assert "same: signature of the manifest" in capsys.readouterr().out

    report = artifact(run, "report.html")
    report.write_text(report.read_text().replace("%", " percent"))
    with sqlite3.connect(folder / "mlflow.db") as store:
        store.execute("UPDATE metrics SET value = 7 WHERE run_uuid = ? AND key = 'initial_train_loss'"
                      " AND step = 1", (run.info.run_id,))  # fmt: skip

    assert audit.main(command) == 1
    out = capsys.readouterr().out
    assert "DIFFERS: artifact report.html, since the run ended" in out
    assert "DIFFERS: metric initial_train_loss, since the run ended" in out
    assert "NOT verified: " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected RUN_ID and --key FILE, or --new_key FILE"),
        ([RUN_ID], "expected RUN_ID and --key FILE, or --new_key FILE"),
        ([RUN_ID, "--new_key", "new.pem"], "--new_key makes a key and signs nothing. Give it alone"),
        ([RUN_ID, "--key", "missing.pem"], "there is no file missing.pem"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys):
    assert seal.main(words) == 2
    assert message in capsys.readouterr().err
