"""What a number is about is known by whole digests: two forget lists, or two files, of one short name are
told apart.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lethe.data import ForgetRequest
from lethe.experiment.artifacts import _own_file
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels, Trained
from lethe.experiment.identity import check_files, config_hash_of, decisive_of, hash_of, run_params
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.report.seeds_summary import SeedRun, heading_of, settings_of, tasks_of
from lethe.training import check_checkpoint, checkpoint_metadata, save_checkpoint
from tests.edited_headers import edit_header
from tests.saved_models import SAFETENSORS, described, mlp

# Both are images of digits' training split, and the SHA-256 of both lists begins with 82710d77.
ONE, OTHER = ForgetRequest(indexes=(3, 419)), ForgetRequest(indexes=(61, 1463))
SMALL = {"epochs": 1, "arch_options": {"hidden": (6,)}}
DIGEST = "82710d77" + "0" * 56


@pytest.fixture
def base(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda request: BaseModels(BaseConfig(**SMALL, request=request), splits=digits)


def job(made):
    return Pipeline(PipelineConfig("default", base=made.config), base=made).checked


def test_two_lists_may_share_a_slug_and_never_an_identity():
    assert ONE.slug == OTHER.slug == "indexes-82710d77"
    assert ONE.identity != OTHER.identity
    assert ONE.identity == ForgetRequest(indexes=(419, 3)).identity


@pytest.mark.parametrize(
    "request_", [ForgetRequest(), ForgetRequest((3, 5)), ForgetRequest((3,), 450), ForgetRequest((-1,), 4500)]
)
def test_a_slug_without_a_digest_is_the_identity(request_):
    assert request_.identity == request_.slug
    assert request_.digest is None


def test_the_ideal_model_of_another_list_is_refused(base):
    base(ONE).ideal()
    reason = r"got one marked 'indexes-82710d77\w{56}': two forget lists share the name .*--save_dir"
    with pytest.raises(ValueError, match=reason):
        base(OTHER)


def test_the_config_hash_tells_two_lists_apart(base):
    one, other = base(ONE), base(OTHER)
    initial = one.initial()
    assert config_hash_of(job(one), initial, None) != config_hash_of(job(other), initial, None)


def scored(made, path, text):
    """The checked config of a RUM that reads its scores from this file."""
    path.write_text(text)
    settings = {"memorization": str(path)}
    return Pipeline(PipelineConfig("RUM", settings, base=made.config), base=made).checked


SCORES = "index,memorisation\n3,0.1\n419,0.2\n"


def test_a_file_that_a_setting_names_is_known_by_its_content(base, tmp_path):
    made = base(ONE)
    initial = made.initial()
    one, moved = scored(made, tmp_path / "a.csv", SCORES), scored(made, tmp_path / "b.csv", SCORES)
    other = scored(made, tmp_path / "c.csv", SCORES.replace("0.2", "0.3"))
    hashes = [config_hash_of(each, initial, None) for each in (one, moved, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert run_params(one)["memorization"] == tmp_path / "a.csv"
    assert run_params(one)["memorization_digest"] == hashlib.sha256(SCORES.encode()).hexdigest()


def test_a_file_that_is_changed_before_the_method_reads_it_ends_the_run(base, tmp_path):
    checked = scored(base(ONE), tmp_path / "a.csv", SCORES)
    check_files(checked)
    (tmp_path / "a.csv").write_text(SCORES + "5,0.5\n")
    with pytest.raises(ValueError, match="--memorization: expected .*a.csv as it was when the run began"):
        check_files(checked)


def test_a_runs_params_have_the_lists_whole_digest(base):
    params = run_params(job(base(ONE)))
    assert (params["request"], f"indexes-{params['request_digest']}") == (ONE.slug, ONE.identity)
    assert "request_digest" not in run_params(job(base(ForgetRequest())))


def test_a_run_says_its_classes_by_name_and_is_of_the_task_of_those_from_before_it_did(digits):
    named = replace(digits, class_names=("zero", "one", "two", *digits.class_names[3:]))
    params = run_params(job(BaseModels(BaseConfig(**SMALL, request=ForgetRequest(("two", 1))), splits=named)))
    assert (params["class_to_replace"], params["forget_request"]) == ("1 2", "classes 1 (one) and 2 (two)")
    before = {"unlearn": "FT", "dataset": "digits", "request": "class1+2"}
    assert settings_of(before) == settings_of(before | {"forget_request": params["forget_request"]})


def test_the_ideal_model_of_a_list_that_is_named_by_eight_letters_is_believed_aloud(base):
    path = base(ONE).ideal().path
    edit_header(path, path, "made anew", trained_on=ONE.slug)
    eight = r"the first eight characters of a digest \(older Lethe\): they may collide"
    with pytest.warns(UserWarning, match=f"names its forget list by {eight}"):
        base(ONE)


def test_an_architecture_that_is_named_by_eight_letters_is_believed_aloud(tmp_path):
    save_checkpoint(tmp_path / SAFETENSORS, mlp(), described(arch="net-82710d77"))
    with pytest.warns(UserWarning, match="names the file of its architecture by the first eight characters"):
        check_checkpoint(tmp_path / SAFETENSORS, described(arch=f"net-{DIGEST}"))


def test_an_architecture_of_another_file_is_refused_though_eight_letters_agree(tmp_path):
    other = f"net-82710d77{'1' * 56}"
    save_checkpoint(tmp_path / SAFETENSORS, mlp(), described(arch=other))
    reason = f"expected a checkpoint with arch net-{DIGEST}, got {other}.*with the file unchanged"
    with pytest.raises(ValueError, match=reason):
        check_checkpoint(tmp_path / SAFETENSORS, described(arch=f"net-{DIGEST}"))


def test_a_users_file_is_known_by_its_whole_digest(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from lethe.models import build\n"
        "def net(image_shape, classes): return build('mlp', image_shape, classes, seed=0)\n"
    )
    made = BaseModels(BaseConfig(epochs=1, arch="net.py:net"), splits=digits)
    digest = made.architecture.code_digest
    assert len(digest) == 64
    assert made.initial_path.name == f"1net-{digest[:8]}_ep1.safetensors"
    made.initial()
    assert checkpoint_metadata(made.initial_path).arch == f"net-{digest}"
    assert run_params(job(made))["arch_code"] == digest


def test_a_json_file_of_another_setting_is_not_written_over(tmp_path):
    ours, other = "82710d77" + "0" * 56, "82710d77" + "1" * 56
    file = _own_file(tmp_path, "FT_class0_seed1", ours)
    assert file.name == "FT_class0_seed1_82710d77.json"
    file.write_text(json.dumps({"config_hash": other}))
    assert _own_file(tmp_path, "FT_class0_seed1", ours).name == f"FT_class0_seed1_{ours}.json"
    assert _own_file(tmp_path, "FT_class0_seed1", other) == file


def test_runs_of_two_lists_of_one_name_are_two_tasks():
    params = {"unlearn": "FT", "dataset": "digits", "arch": "mlp", "request": ONE.slug}
    run = SeedRun("e", "FT", "1", (), "FINISHED", 0, {})
    runs = [
        replace(run, settings=settings_of(params | {"request_digest": request.digest}))
        for request in (ONE, OTHER)
    ]
    tasks = tasks_of(runs)
    said = {heading_of(task, tasks).partition("request_digest ")[2].partition(";")[0] for task in tasks}
    assert said == {ONE.digest, OTHER.digest}


@pytest.mark.parametrize(
    ("method", "given", "digest"),
    [
        ("FT", {}, "e63d59146c44ebeb521d11182d9a8082d634f2ab7cb1676447dd7d56daf820d6"),
        (
            "MIMU",
            {"kappa": 0.1, "gcn_steps": 300},
            "c58e7da7f2d2270c7c764689b8e636859c948233750df8b0bf8a5cd8cd616e8b",
        ),
        ("SCRUB", {}, "4a79c549ece1527d1b35801ceb492de3e3ba59854e1587ec85d676b04be2c16b"),
        ("SSD", {}, "b9496e231e0e15c173a4547a75e9fc01914ec056327da57b0ff24c24cb6c71c1"),
    ],
)
def test_the_hash_of_a_default_run_stays_as_it_was_in_0_1(
    method, given, digest, tmp_path, monkeypatch, digits
):
    """Of a run of the same version: each version has hashes of its own. By default kappa was 0.1 then,
    and gcn_steps 300.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lethe.experiment.identity.__version__", "0.1.0")
    made = BaseModels(BaseConfig(), splits=digits)
    initial = Trained(made.untrained(), made.initial_path, None, True, 0.0, [])
    decisive = decisive_of(Pipeline(PipelineConfig(method, settings=given), base=made).checked, initial, None)

    assert hash_of(decisive | {"initial": "weights"}) == digest
