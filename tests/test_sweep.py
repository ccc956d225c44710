"""Several experiments at once, and what makes two of them the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from lethe.data import ForgetRequest
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels, Trained
from lethe.experiment.identity import config_hash_of
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.sweeps.sweep import run_all
from lethe.training import model_digest

QUICK = PipelineConfig(unlearn="random_mask", base=BaseConfig(epochs=1), ideal="skip")


pytestmark = pytest.mark.usefixtures("empty_place")


def test_experiments_with_other_requests_keep_them():
    configs = [replace(QUICK, base=replace(QUICK.base, request=ForgetRequest((label,)))) for label in (0, 3)]
    first, second = run_all(configs)
    assert "class0" in first.json_path.name
    assert "class3" in second.json_path.name
    assert first.metrics["forget_loss"] != second.metrics["forget_loss"]


def test_base_models_of_another_config_are_refused():
    base = BaseModels(replace(QUICK.base, request=ForgetRequest((3,))))
    with pytest.raises(ValueError, match="expected the base models of this config"):
        Pipeline(QUICK, base=base)


def test_one_checkpoint_for_several_seeds_is_refused(tmp_path):
    configs = [
        replace(QUICK, base=replace(QUICK.base, seed=seed, mask=tmp_path / "one.safetensors"))
        for seed in (1, 2)
    ]
    with pytest.raises(ValueError, match="--mask is one model, and several seeds mean several"):
        run_all(configs)


def test_a_checkpoint_that_is_not_there_is_said_and_one_of_another_seed_noted(tmp_path, capsys):
    mask = tmp_path / "one.safetensors"
    run_all([replace(QUICK, base=replace(QUICK.base, mask=mask))])
    assert (
        f"warning: --mask: there is no file {mask}. A new initial model is trained, and saved there\n"
        in capsys.readouterr().err
    )
    (result,) = run_all([replace(QUICK, base=replace(QUICK.base, mask=mask, seed=2))])
    assert "--mask" not in capsys.readouterr().err
    assert any("was trained with seed 1, not 2" in str(note) for note in result.notes)


def test_the_hash_says_which_ideal_model_judged():
    pipeline = Pipeline(QUICK)
    initial, ideal = pipeline.base.initial(), pipeline.base.ideal()
    assert config_hash_of(pipeline.checked, initial, None) != config_hash_of(pipeline.checked, initial, ideal)
    assert model_digest(initial.model) != model_digest(ideal.model)


def test_methods_of_one_name_in_two_files_have_two_hashes(tmp_path):
    hashes = set()
    for number in (1, 2):
        file = tmp_path / f"mine{number}.py"
        file.write_text(
            "from lethe.unlearn import copy_of\n\n\ndef halve(model, data):\n    student = copy_of(model)\n"
            f"    next(student.parameters()).data /= {number + 1}\n    return student\n"
        )
        (result,) = run_all([replace(QUICK, unlearn=f"{file}:halve")])
        hashes.add(result.json_path.name)
    assert len(hashes) == 2


def test_a_model_is_attacked_once(monkeypatch):
    from lethe.experiment import measure as measurement

    run_all([QUICK])
    measured = []
    evaluate = measurement.evaluate
    monkeypatch.setattr(
        measurement, "evaluate", lambda **given: measured.append("progress" in given) or evaluate(**given)
    )
    run_all([QUICK])
    assert measured
    assert not any(measured)


OWN_NETS = """
from torch import nn

def net(image_shape, classes, *, scale: float = 1.0):
    \"\"\"A linear layer whose logits are scaled.\"\"\"
    class Scaled(nn.Sequential):
        def forward(self, x):
            return scale * super().forward(x)
    return Scaled(nn.Flatten(), nn.Linear(64, classes))

def must(image_shape, classes, *, scale: float):
    return net(image_shape, classes, scale=scale)
"""


def test_the_hash_says_what_options_the_architecture_has(tmp_path):
    (tmp_path / "own.py").write_text(OWN_NETS)

    def hash_of(net, **options):
        base = BaseConfig(epochs=1, arch=f"own.py:{net}", arch_options=options)
        pipeline = Pipeline(PipelineConfig("default", base=base, ideal="skip"))
        initial = Trained(pipeline.base.untrained(), Path(), None, True, 0.0, [])
        return config_hash_of(pipeline.checked, initial, None)

    assert hash_of("net") == hash_of("net", scale=1.0) != hash_of("net", scale=2.0)
    assert hash_of("must", scale=1.0) != hash_of(
        "must", scale=2.0
    )  # one that has to be given is no mistake either


def test_the_hash_of_a_method_with_oracles_says_of_which_epochs_they_are(monkeypatch):
    monkeypatch.setattr(
        "lethe.experiment.pipeline.oracles_of", lambda base, seeds: iter([base.untrained() for _ in seeds])
    )

    def hashes_of(method):
        pipelines = [
            Pipeline(PipelineConfig(method, base=BaseConfig(epochs=epochs), ideal="skip"))
            for epochs in (1, 2)
        ]
        initial = Trained(pipelines[0].base.untrained(), Path(), None, True, 0.0, [])
        return {config_hash_of(pipeline.checked, initial, None) for pipeline in pipelines}

    assert len(hashes_of("load_an_oracle")) == 2
    assert len(hashes_of("default")) == 1
