"""Readers of stores: chosen by the URI's scheme, by name, or from a file outside the repository."""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest

import mlruns_parser
from lethe.tracking.readers import READERS
from lethe.tracking.readers.impl import reader_of
from tests.filled_stores import empty_place, parse  # noqa: F401 (empty_place: a fixture of every test here)

JSON_LINES = """
import json
from contextlib import contextmanager
from pathlib import Path

from lethe.tracking.stored_run import Point, StoredRun


class JsonLines:
    def __init__(self, path, selection):
        self.selection = selection
        self.logged = [json.loads(line) for line in Path(path).read_text().splitlines()]

    def runs(self):
        found = [self.run_of(logged) for logged in self.logged]
        return len(found), (run for run in found if self.selection.takes(run))

    def run_of(self, logged):
        losses = logged["loss"]
        params, metrics = {"seed": logged["seed"]}, {"loss": losses[-1]}
        return StoredRun(logged["id"], "", "lines", "FINISHED", 0, 1000, "", "", params, metrics)

    def points(self, runs):
        losses = {logged["id"]: logged["loss"] for logged in self.logged}
        for run in runs:
            for step, loss in enumerate(losses[run.run_id]):
                yield Point(run.run_id, "loss", step, 0, loss)


@contextmanager
def json_lines(uri, selection):
    yield JsonLines(uri, selection)


def a_list(uri, selection):
    return []


@contextmanager
def an_empty_list(uri, selection):
    yield []


def one_argument(uri):
    return uri
"""


@pytest.fixture
def arguments(tmp_path):
    """The flags for a store of two runs in its own format; its reader is a file outside the repository."""
    (tmp_path / "lines.py").write_text(JSON_LINES)
    logged = [{"id": "a", "seed": "1", "loss": [2.0, 0.5]}, {"id": "b", "seed": "2", "loss": [3.0]}]
    (tmp_path / "runs.jsonl").write_text("".join(f"{json.dumps(run)}\n" for run in logged))
    return ["--tracking_uri", "runs.jsonl", "--output", "out.csv", "--reader"]


def rows() -> list[dict[str, str]]:
    with Path("out.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_reader_from_a_file_gives_rows(arguments):
    assert mlruns_parser.main([*arguments, "lines.py:json_lines"]) == 0
    assert [(row["run_id"], row["seed"], row["loss"], row["duration_s"]) for row in rows()] == [
        ("a", "1", "0.5", "1.0"),
        ("b", "2", "3.0", "1.0"),
    ]


def test_a_reader_from_a_file_gets_the_selection(arguments):
    assert mlruns_parser.main([*arguments, "lines.py:json_lines", "--filter", "metrics.loss > 1"]) == 0
    assert [row["run_id"] for row in rows()] == ["b"]


def test_a_reader_from_a_file_gives_histories(arguments):
    assert mlruns_parser.main([*arguments, "lines.py:json_lines", "--history"]) == 0
    assert [(row["run_id"], row["step"], row["value"]) for row in rows()] == [
        ("a", "0", "2.0"),
        ("a", "1", "0.5"),
        ("b", "0", "3.0"),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lines.py", "reader 'lines.py': expected path/to/file.py:function, got the file alone"),
        ("lines.py:a_list", "--reader a_list: expected a context manager, got list. Decorate a_list with"),
        ("lines.py:an_empty_list", "expected a store with the methods runs and points, got list"),
        ("lines.py:one_argument", "expected a reader, a function of (uri, selection, *, flags)"),
        ("gone.py:any", "there is no file gone.py"),
        (
            "sqllite",
            "unknown reader 'sqllite'. Did you mean 'sqlite'? Readers: folder, mlflow, postgresql, sqlite",
        ),
    ],
)
def test_a_wrong_reader_is_refused(arguments, name, message, capsys):
    assert mlruns_parser.main([*arguments, name]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.csv").exists()


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("sqlite:///mlflow.db", "sqlite"),
        ("postgresql+psycopg2://host/runs", "postgresql"),
        ("./mlruns", "folder"),
        ("file:///mlruns", "folder"),
        ("http://host:5000", "mlflow"),
        ("mysql+pymysql://host/runs", "mlflow"),
        ("databricks", "mlflow"),
    ],
)
def test_the_scheme_of_a_uri_chooses_the_reader(uri, name):
    assert reader_of(uri).name == name


def test_the_reader_may_be_named(sqlite_store):
    table = ["--tracking_uri", sqlite_store.uri]
    pd.testing.assert_frame_equal(parse(*table, "--reader", "mlflow"), parse(*table))


@pytest.mark.parametrize(
    ("name", "uri", "scheme"),
    [
        ("postgresql", "sqlite:///mlflow.db", "postgresql"),
        ("sqlite", "postgresql://me:secret@host/runs", "sqlite"),
        ("sqlite", "mlflow.db", "sqlite"),
        ("folder", "sqlite:///mlflow.db", "file"),
    ],
)
def test_a_reader_refuses_a_uri_of_another_scheme(name, uri, scheme, capsys):
    assert mlruns_parser.main(["--tracking_uri", uri, "--reader", name]) == 2
    shown = uri.replace("me:secret", "***")
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    expected = f"--reader {name}: expected a URI with the scheme {scheme}, got {shown}. Leave out"
    assert line.startswith(f"mlruns_parser.py: {expected}")


def test_every_reader_has_a_docstring():
    assert all(entry.summary for entry in READERS)


def test_the_reader_in_the_docs_is_one():
    page = (Path(__file__).parent.parent / "docs" / "stores.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Path("losses.py").write_text(code)
    Path("losses.csv").write_text("id,seed,loss\na,1,0.5\n")
    table = parse("--tracking_uri", "losses.csv", "--reader", "losses.py:losses")
    assert table.loc["a", ["experiment", "seed", "loss"]].tolist() == ["losses", "1", "0.5"]
    history = mlruns_parser.main(
        ["--tracking_uri", "losses.csv", "--reader", "losses.py:losses", "--history", "--output", "out.csv"]
    )
    assert history == 0 and [row["value"] for row in rows()] == ["0.5"]
