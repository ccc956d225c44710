"""benchmarks/audit.py: goes on where it stopped, and says in words what passes one attack and fails the
other.
"""

import json
import re
from pathlib import Path

import pytest
from own_store import there  # noqa: F401 (every test runs in the module's folder)

from benchmarks import audit
from lethe.audits import klom

pytestmark = pytest.mark.slow

SMALL = "--methods default UNSIR --models 10 --shadows 16 --epochs 2 --num_indexes_to_replace 60".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


def row(method, *, gap, auc):
    return {"method": method, "gap_interval": list(gap), "intervals": {"ulira_auc": list(auc)}}


def test_a_table_with_intervals_and_why_a_method_has_no_line(folder, capsys, monkeypatch):
    assert audit.main([*SMALL, "--json", "audit.json"]) == 0

    out = capsys.readouterr().out
    assert re.search(
        r"^default +\d+\.\d\d .* \d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\) .*\d+$", out, flags=re.MULTILINE
    )
    assert "UNSIR: UNSIR: expected a forget request for whole classes" in out
    found = json.loads((folder / "audit.json").read_text())["rows"][0]
    assert (found["klom_models"], found["ulira_shadows"]) == (10, 8)

    monkeypatch.setattr(klom.KlomAudit, "run", lambda self: pytest.fail("measured again"))
    assert audit.main(SMALL) == 0
    assert "2 cells were measured before" in capsys.readouterr().out


def test_what_passes_one_attack_and_fails_the_other_is_said():
    rows = [
        row("one", gap=(-1, 1), auc=(0.6, 0.7)),
        row("two", gap=(1, 2), auc=(0.6, 0.7)),
        row("three", gap=(-1, 1), auc=(0.4, 0.6)),
        row("four", gap=(1, 2), auc=(0.4, 0.6)),
    ]

    lines = audit.in_words([*rows, {"method": "five", "failed": "it can't"}])

    assert [line.rpartition(": ")[2] for line in lines] == ["one", "two", "three", "four"]
    assert lines[0].startswith("pass mia_confidence and fail U-LiRA")


def test_an_interval_that_covers_everything_is_no_pass():
    rows = [
        row("one", gap=(-1, 1), auc=(0.0, 1.0)),
        row("two", gap=(1, 2), auc=(0.49, 0.76)),
        row("three", gap=(-1, 1), auc=(0.3, 0.75)),
    ]

    lines = audit.in_words(rows)

    assert [line.rpartition(": ")[2] for line in lines] == ["three", "one", "two"]
    assert "are undecided by U-LiRA: too few shadow models" in lines[1]


@pytest.mark.parametrize(
    ("refuses", "kept"),
    [("the tracking server can't be reached", 0), ("it diverged", 1)],
)
def test_a_failure_of_the_surroundings_is_shown_and_measured_again(
    refuses, kept, folder, capsys, monkeypatch
):
    error = FloatingPointError if kept else ValueError
    cells = ["--cells", f"{error.__name__}.jsonl"]
    monkeypatch.setattr(klom.KlomAudit, "run", lambda self: (_ for _ in ()).throw(error(refuses)))
    assert audit.main(["--methods", "default", *SMALL[3:], *cells]) == 0
    assert refuses in capsys.readouterr().out

    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        klom.KlomAudit, "run", lambda self: (_ for _ in ()).throw(FloatingPointError("asked again"))
    )
    assert audit.main(["--methods", "default", *SMALL[3:], *cells]) == 0
    assert ("asked again" in capsys.readouterr().out) == (not kept)


def test_the_gap_is_taken_per_seed():
    models = [
        {"side": side, "seed": seed, "mia_confidence": value}
        for side, values in (("unlearned", (10, 30, 50)), ("oracle", (9, 28, 47)))
        for seed, value in enumerate(values, 1)
    ]

    models += [
        {"side": side, "seed": 4, "mia_confidence": value}
        for side, value in (("unlearned", None), ("oracle", 50))
    ]

    assert audit.gaps_of(models).n == 3
    assert audit.gaps_of(models[-2:]) is None
    assert audit.gaps_of(models).mean == 2
    assert audit.gaps_of(models).sd == 1
