"""audit.py memorisation on digits: its table, its pictures, how it is verified, and what it refuses."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from own_store import artifact, runs, there  # noqa: F401 (every test runs in the module's folder)

import audit
from lethe.data import ImageSet, Normalisation, load_splits
from lethe.data.image_scores import read_scores
from lethe.evaluation.memorisation import Memorisation
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.memorised import memorisation_csv, memorisation_of
from lethe.report.memorised_images import ends_of, memorised_pictures
from lethe.report.run_facts import ForgetImages

SMALL = ["memorisation", "--shadows", "8", "--epochs", "1", "--hidden", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("memorisation")


def scores_of(*scores, margins=None):
    """Memorisation of these scores; the other numbers are of no image."""
    values = torch.tensor(scores, dtype=torch.float64)
    margins = values if margins is None else torch.tensor(margins, dtype=torch.float64)
    count = torch.full((len(scores),), 4)
    return Memorisation(values, values / 10, margins, values, count, count, 8, 0.5, values)


def images_of(labels):
    pixels = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).to(torch.uint8)
    return ImageSet(pixels, torch.tensor(labels), torch.arange(len(labels)) + 10, Normalisation((), ()))


@pytest.mark.slow
def test_the_table_has_the_scores_of_every_training_image(capsys):
    assert audit.main(SMALL) == 0
    run, out = runs()[0], capsys.readouterr().out

    base = BaseModels(BaseConfig(epochs=1, arch_options={"hidden": (6,)}))
    found, train = memorisation_of(base, 8), load_splits("digits", "./data").train
    rows = list(csv.DictReader(artifact(run, "memorisation.csv").open()))
    assert [int(row["index"]) for row in rows] == train.indexes.tolist()
    assert [float(row["memorisation"]) for row in rows] == found.scores.tolist()
    assert [float(row["margin_form"]) for row in rows] == found.margin_scores.tolist()
    assert run.data.metrics["memorisation_mean_score"] == pytest.approx(found.scores.mean().item())
    assert run.data.tags["audit"] == "memorisation"
    assert re.search(r"^memorisation_reliability +-?\d\.\d+ +at least 0\.7", out, flags=re.MULTILINE)
    assert artifact(run, "pictures/memorised_1.svg").read_text().count("<image") == 100

    path = re.search(r"^the scores, for --forget_scores: (.+)$", out, flags=re.MULTILINE)[1]
    assert Path(path).samefile(artifact(run, "memorisation.csv"))
    # RUM and others read the table by its index and score.
    assert read_scores(str(artifact(run, "memorisation.csv")), "memorization") == dict(
        zip(train.indexes.tolist(), found.scores.tolist(), strict=True)
    )


@pytest.mark.slow
def test_scores_of_few_models_have_a_warning_and_are_verified(capsys):
    assert audit.main(SMALL) == 0
    run = runs()[0]
    assert "the split-half reliability of the memorisation scores is 0." in run.data.tags["warning"]
    assert run.data.tags["warning"].endswith("with 8 shadow models. Take more: --shadows 32")

    assert audit.main(["verify", run.info.run_id]) == 0
    assert "same: scores in memorisation.csv" in capsys.readouterr().out

    file = artifact(run, "memorisation.csv")
    lines = file.read_text().splitlines()
    lines[5] = lines[5].replace(",4,4", ",5,3")
    file.write_text("\n".join([*lines, ""]))
    assert audit.main(["verify", run.info.run_id]) == 1
    assert "expected equal, got others from line 6 on" in capsys.readouterr().out

    member = artifact(run, "member.npy")
    np.save(member, ~np.load(member))
    assert audit.main(["verify", run.info.run_id]) == 1
    assert "expected equal, got others of shadow model 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shadows", "2"], "error: --shadows: expected for each image at least 2 shadow models trained on"),
        (["--shadows", "5"], "error: --shadows: expected an even number, as they are pairs of halves, got 5"),
        (["--class_to_replace", "3"], "error: unknown flag '--class_to_replace'. Flags: "),
        (["--dataset", "digit"], "error: unknown dataset 'digit'. Did you mean 'digits'?"),
    ],
)
def test_what_can_not_be_audited_is_refused_before_anything_is_trained(
    flags, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    assert audit.main(["memorisation", *flags]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_ends_of_a_class_are_its_most_and_least_memorised_images():
    labels = torch.tensor([0, 1] * 6)
    found = scores_of(*(place / 12 for place in range(12)))

    assert ends_of(found, labels, 0) == ([10, 8, 6, 4, 2], [0])
    assert ends_of(found, labels, 1) == ([11, 9, 7, 5, 3], [1])


def test_a_picture_has_at_most_twenty_classes():
    labels = list(range(25)) * 2
    images = images_of(labels)
    facts = ForgetImages(images.images, 255, images.indexes)
    names = [f"class {label}" for label in range(25)]

    first, second = memorised_pictures(scores_of(*([0.25] * 50)), facts, images.labels, names)

    assert (first.name, second.name) == ("memorised_1", "memorised_2")
    assert first.svg.count("<image") == 40
    assert second.svg.count("<image") == 10
    assert "8 models, each trained on 50 % of the images" in first.note


def test_the_table_has_a_row_for_each_image():
    text = memorisation_csv(scores_of(0.5, 1.0), images_of([1, 0]), ["cat, black", "dog"])

    assert list(csv.reader(text.splitlines())) == [
        "index label class_name memorisation se margin_form margin_form_se out_loss n_in n_out".split(),
        ["10", "1", "dog", "0.5", "0.05", "0.5", "0.5", "0.5", "4", "4"],
        ["11", "0", "cat, black", "1.0", "0.1", "1.0", "1.0", "1.0", "4", "4"],
    ]
