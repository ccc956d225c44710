"""Stores that were damaged at random: whatever is left of them is read, what is not is reported, and nothing
ends in a traceback.
"""

import csv
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

import mlruns_parser
from lethe.tracking.readers.sqlite import left_unfinished
from lethe.tracking.run_folder import metric_points, plain_mapping
from tests.filled_stores import empty_place  # noqa: F401 (a fixture of every test here)

MANY = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
GARBAGE = st.binary(max_size=40)
DAMAGE = st.sampled_from(["remove", "truncate", "garbage", "dangling", "folder", "loop", "append"])


def rows_of(uri: str, *flags: str) -> tuple[int, dict[str, tuple[str, ...]], set[str]]:
    """Exit status, the rows by run, and the columns."""
    Path("out.csv").unlink(missing_ok=True)
    status = mlruns_parser.main(["--tracking_uri", uri, "--output", "out.csv", *flags])
    if status:
        assert not Path("out.csv").exists()
        return status, {}, set()
    with Path("out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return (
        0,
        {row["run_id"]: tuple(sorted((name, cell) for name, cell in row.items() if cell)) for row in rows},
        set(rows[0] if rows else ()),
    )


def damage(path: Path, how: str, garbage: bytes, at: int) -> None:
    content = path.read_bytes()
    cut = content[: at % (len(content) + 1)]
    if how in ("truncate", "garbage", "append"):
        path.write_bytes({"truncate": cut, "garbage": cut + garbage, "append": content + garbage}[how])
        return
    path.unlink()
    if how in ("dangling", "loop"):
        path.symlink_to("nowhere" if how == "dangling" else path.name)
    elif how == "folder":
        path.mkdir()


@MANY
@given(st.data())
@pytest.mark.parametrize("flag", [[], ["--history"]], ids=["table", "history"])
def test_a_file_store_damaged_at_random(flag, file_store, capsys, data):
    origin = Path(file_store.uri.removeprefix("file://"))
    shutil.rmtree("copy", ignore_errors=True)
    shutil.copytree(origin, "copy")
    files = sorted(path.relative_to("copy") for path in Path("copy").rglob("*") if path.is_file())
    damaged = data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True))
    for path in damaged:
        damage(Path("copy") / path, data.draw(DAMAGE), data.draw(GARBAGE), data.draw(st.integers(0, 10**6)))
    touched = {path.parts[1] for path in damaged if len(path.parts) > 2} | {
        run.name for path in damaged if len(path.parts) == 2 for run in (origin / path.parts[0]).iterdir()
    }
    capsys.readouterr()
    if flag:
        assert mlruns_parser.main(["--tracking_uri", "copy", "--output", "out.csv", *flag]) in (0, 2)
    else:
        before = rows_of(str(origin))[1]
        capsys.readouterr()
        status, after, _ = rows_of("copy")
        assert status == 0
        assert {run: row for run, row in after.items() if run not in touched} == {
            run: row for run, row in before.items() if run not in touched
        }
        assert set(after) <= set(before)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("mlruns_parser.py: ") for line in lines)


def test_a_run_is_reported_or_read_and_never_both(file_store, capsys):
    """Every run whose params were damaged, one after another: the line on stderr names it."""
    origin = Path(file_store.uri.removeprefix("file://"))
    run = next(origin.glob(f"*/{file_store.ids['full']}")).relative_to(origin)
    for part in ("params", "metrics"):
        for path in sorted((origin / run / part).rglob("*")):
            if path.is_file() and "system" not in path.parts:
                shutil.rmtree("copy", ignore_errors=True)
                shutil.copytree(origin, "copy")
                damage(Path("copy") / path.relative_to(origin), "garbage", b"\xff\xfe\x00", 0)
                capsys.readouterr()
                _, rows, _ = rows_of("copy")
                assert run.name not in rows and len(rows) == 3
                (line,) = capsys.readouterr().err.splitlines()
                assert str(path.relative_to(origin)) in line


@MANY
@given(
    st.lists(st.tuples(st.integers(100, 2**20), st.binary(min_size=1, max_size=300)), min_size=1, max_size=4)
)
def test_a_sqlite_file_damaged_at_random(sqlite_store, capsys, spots):
    path = Path("copy.db")
    shutil.copy(sqlite_store.uri.removeprefix("sqlite:///"), path)
    content = bytearray(path.read_bytes())
    for place, garbage in spots:
        start = place % len(content)
        content[start : start + len(garbage)] = garbage
    path.write_bytes(content)
    for flags in ([], ["--history"]):
        capsys.readouterr()
        status = mlruns_parser.main(["--tracking_uri", "sqlite:///copy.db", "--output", "out.csv", *flags])
        lines = capsys.readouterr().err.splitlines()
        assert status in (0, 2) and (status == 0 or lines)
        assert all(line.startswith("mlruns_parser.py: ") for line in lines)


@pytest.mark.parametrize("length", [0, 1, 50, 100, 4096, 5000, 100_000])
def test_a_sqlite_file_that_was_cut(length, database, capsys):
    database.write_bytes(database.read_bytes()[:length])
    assert mlruns_parser.main(["--tracking_uri", f"sqlite:///{database}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not Path("mlruns_parsed.csv").exists()


KILLED_OVER_A_COMMIT = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # pages go to the disk before the commit
connection.execute("BEGIN IMMEDIATE")
for number in range(2000):
    connection.execute("INSERT INTO experiment_tags VALUES (?, ?, 1)", (f"{number}", "x" * 1000))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_whose_writer_was_killed_over_a_commit_is_not_called_broken(database, capsys):
    before = rows_of(f"sqlite:///{database}")
    subprocess.run([sys.executable, "-c", KILLED_OVER_A_COMMIT, database], check=False)
    assert Path(f"{database}-journal").exists()
    capsys.readouterr()

    assert rows_of(f"sqlite:///{database}")[0] == 2
    said = capsys.readouterr().err
    assert (
        f"got {database} with an unfinished write of a process that was killed" in said
        and "backup" not in said
    )
    assert f"mlflow ui --backend-store-uri sqlite:///{database}" in said and said.count("\n") == 1

    MlflowClient(f"sqlite:///{database}").search_experiments()  # as `mlflow ui` does when it starts
    assert rows_of(f"sqlite:///{database}") == before


@pytest.mark.parametrize(
    ("name", "log", "unfinished"),
    [
        ("SQLITE_READONLY_ROLLBACK", False, True),
        ("SQLITE_READONLY_RECOVERY", True, True),
        ("SQLITE_READONLY_CANTLOCK", True, True),
        ("SQLITE_CANTOPEN", True, True),  # the log's index can't be made
        ("SQLITE_CANTOPEN", False, False),
        ("SQLITE_CORRUPT", True, False),
        ("SQLITE_BUSY", True, False),
    ],
)
def test_what_needs_a_writer_first(name, log, unfinished):
    if log:
        Path("a.db-wal").touch()
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, name)
    assert left_unfinished(Path("a.db"), error) is unfinished


def test_a_damaged_page_of_a_table_costs_the_runs_on_it(database, capsys):
    """1,000 runs of long params: a page in the middle of them is overwritten."""
    ids = [f"{number:032x}" for number in range(1000)]
    with closing(sqlite3.connect(database)) as connection:
        columns = "run_uuid, name, user_id, status, start_time, lifecycle_stage, experiment_id"
        rows = [(run_id,) for run_id in ids]
        connection.executemany(
            f"INSERT INTO runs ({columns}) VALUES (?, 'r', 'me', 'FINISHED', 1, 'active', 1)", rows
        )
        connection.executemany(
            "INSERT INTO params VALUES ('seed', ?, ?)", [("x" * 1000 + run_id, run_id) for run_id in ids]
        )
        connection.commit()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(database.read_bytes())
    page = content.index(b"x" * 1000 + ids[500].encode()) // size
    content[page * size : page * size + 8] = b"\xff" * 8
    database.write_bytes(content)
    status, found, _ = rows_of(f"sqlite:///{database}")
    lost = [line for line in capsys.readouterr().err.splitlines() if "malformed" in line]
    assert status == 0 and 0 < len(lost) < 20
    assert len(found) == 1004 - len(lost)
    assert all(("seed", "x" * 1000 + run_id) in found[run_id] for run_id in ids if run_id in found)


# The fast reading of meta.yaml

WORDS = """true No on '' [] 4e5 4e5a 12ab 1e 0 -5 0x1f 1_0 /x/y.z a-b file:///x/y 2024-01-01 12:30
null ~ .inf inf nan yes. y n"""
PHRASES = (
    "'a b'|a: b|a #b|- a|a - b|MIMU class0 seed1 kappa=0.1|run 5|/a b|a =|n o|"
    """'it''s'|"a"|a\nb: c|null x|nullx"""
)
VALUES = st.one_of(
    st.sampled_from(WORDS.split()),
    st.sampled_from(PHRASES.split("|")),
    st.text("abe019-+._:'/ #[]yno=,\t\r", max_size=6),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["a", "run_id", "end_time"]), VALUES), min_size=1, max_size=3))
def test_what_is_read_without_a_yaml_parser_is_what_one_reads(lines):
    content = "".join(f"{key}: {value}\n" for key, value in lines).encode()
    meta = plain_mapping(content)
    assert meta is None or meta == yaml.safe_load(content)


def test_mlflows_own_meta_yaml_needs_no_yaml_parser(file_store):
    metas = list(Path(file_store.uri.removeprefix("file://")).glob("*/*/meta.yaml"))
    assert (
        sum(plain_mapping(path.read_bytes()) is not None for path in metas) >= len(metas) - 2
    )  # one name has quotes and a line end, another an ö


@given(st.binary(max_size=60))
def test_any_metric_file_is_points_or_one_value_error(content):
    try:
        assert metric_points(content, "metric")
    except ValueError as error:
        assert "metric" in str(error)
