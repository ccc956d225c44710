"""The parser against stores that MLflow's own client wrote, with what that client reads back as the
independent truth.
"""

import math
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run

from lethe.cli import parse as mlruns_parser
from lethe.report.table_files import iso_utc
from lethe.tracking.readers import open_store
from lethe.tracking.readers.folder import FolderStore
from lethe.tracking.run_folder import latest_value
from lethe.tracking.run_table import column_names
from lethe.tracking.selection import EVERY_RUN
from lethe.tracking.stored_run import BrokenRun, StoredRun, infinity_restored
from tests.filled_stores import METRICS, PARAMS, client_runs, empty_place, parse, sqlite_runs  # noqa: F401 (empty_place: a fixture)

ROOT = Path(__file__).resolve().parent.parent
FIXED = ["run_id", "run_name", "experiment", "status", "start_time", "end_time", "duration_s"]


def execute(database: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)
        connection.commit()


def run_folder(folder: Path, run_id: str) -> Path:
    (found,) = folder.glob(f"*/{run_id}")
    return found


def time_of(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return f"{datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def expected_cells(run: Run, experiment: str) -> dict[str, str]:
    """The row of a run, from what MLflow's client says about it."""
    clash = {"lr", "status", "parent_run_id"}
    info, ended = run.info, run.info.end_time is not None
    row = {"run_id": info.run_id, "run_name": info.run_name, "experiment": experiment, "status": info.status}
    row |= {"start_time": time_of(info.start_time), "end_time": time_of(info.end_time)}
    row["duration_s"] = str((info.end_time - info.start_time) / 1000) if ended else ""
    row["parent_run_id"] = run.data.tags.get("mlflow.parentRunId", "")
    row |= {f"param.{name}" if name in clash else name: value for name, value in run.data.params.items()}
    row |= {
        f"metric.{name}" if name in clash else name: str(infinity_restored(v))
        for name, v in run.data.metrics.items()
    }
    return row


def test_every_cell_is_what_mlflow_says(store):
    table = parse("--tracking_uri", store.uri, "--system_metrics")
    assert (
        set(table.run_id)
        == set(store.runs)
        == {store.ids[kind] for kind in ("full", "child", "running", "killed")}
    )
    for run_id, run in store.runs.items():
        row = expected_cells(run, store.names[run.info.experiment_id])
        assert table.loc[run_id].to_dict() == dict.fromkeys(table.columns, "") | row


def test_every_logged_value_is_in_its_cell(store):
    row = parse("--tracking_uri", store.uri).loc[store.ids["full"]]
    for name, value in PARAMS.items():
        assert row[f"param.{name}" if name in {"lr", "status", "parent_run_id"} else name] == value
    for name, number in METRICS.items():
        if name not in {"lr", "system/cpu"}:
            assert row[name] == str(number)
    assert row["metric.lr"] == "0.30000000000000004"
    assert row[["by_step", "by_time", "by_value", "negative_steps"]].tolist() == ["1.5", "1.5", "2.5", "1.5"]
    assert (row.start_time, row.end_time, row.duration_s) == (
        "2023-11-14T22:13:20.123Z",
        "2023-11-14T22:13:21.456Z",
        "1.333",
    )
    assert (row.run_name, row.experiment, row.status) == ('all, "of"\nit', "digits-mlp", "FINISHED")


def test_columns_are_the_fixed_seven_then_sorted(store):
    columns = list(parse("--tracking_uri", store.uri).columns)
    assert columns[:7] == FIXED
    assert columns[7:] == sorted(columns[7:])
    assert "parent_run_id" in columns[7:] and "lr" not in columns


def test_rows_are_sorted_by_start_and_know_their_parent(store):
    table = parse("--tracking_uri", store.uri)
    assert list(table.run_id[:3]) == [store.ids[kind] for kind in ("full", "child", "running")]
    assert list(table.parent_run_id[:3]) == ["", store.ids["full"], ""]
    assert list(table.status) == ["FINISHED", "FAILED", "RUNNING", "KILLED"]


def test_system_metrics_are_left_out_and_that_is_said(store, capsys):
    assert not [name for name in parse("--tracking_uri", store.uri).columns if name.startswith("system/")]
    assert "left out: metrics named system/* (1); --system_metrics keeps them" in capsys.readouterr().out


def comparable(runs: Iterable[StoredRun | BrokenRun]) -> list[str]:
    """Runs in an order and with names in an order; as texts, for which nan is nan."""
    whole = [run for run in runs if isinstance(run, StoredRun)]
    return sorted(
        repr(
            replace(
                run,
                **{part: dict(sorted(getattr(run, part).items())) for part in ("params", "metrics", "tags")},
            )
        )
        for run in whole
    )


def test_the_client_reads_the_same_page_by_page(sqlite_store):
    assert comparable(client_runs(sqlite_store.uri, page=1)) == comparable(sqlite_runs(sqlite_store.uri))


def test_more_runs_than_a_page(database):
    ids = [f"{number:032x}" for number in range(1100)]
    columns = "run_uuid, name, user_id, status, start_time, lifecycle_stage, experiment_id"
    with closing(sqlite3.connect(database)) as connection:
        connection.executemany(
            f"INSERT INTO runs ({columns}) VALUES (?, 'r', 'me', 'FINISHED', 1, 'active', 1)",
            [(run_id,) for run_id in ids],
        )
        connection.executemany(
            "INSERT INTO params VALUES ('seed', ?, ?)", [(str(int(run_id, 16)), run_id) for run_id in ids]
        )
        connection.commit()
    table = parse("--tracking_uri", f"sqlite:///{database}")
    assert len(table) == 1104 and list(table.seed[:1100]) == [str(number) for number in range(1100)]
    assert comparable(client_runs(f"sqlite:///{database}")) == comparable(
        sqlite_runs(f"sqlite:///{database}")
    )


def test_a_run_without_a_name_has_the_one_of_its_tag(database, sqlite_store):
    execute(database, "UPDATE runs SET name = NULL WHERE run_uuid = ?", sqlite_store.ids["full"])
    assert (
        parse("--tracking_uri", f"sqlite:///{database}").run_name[sqlite_store.ids["full"]] == 'all, "of"\nit'
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite_store", "file_store"])
def test_neither_mlflow_nor_torch_is_imported(kind, request):
    store = request.getfixturevalue(kind)
    with open_store(store.uri, EVERY_RUN, notice=pytest.skip):  # of a newer MLflow: add it to KNOWN_SCHEMAS
        pass
    code = (
        "import sys, mlruns_parser; assert mlruns_parser.main(sys.argv[1:]) == 0; "
        "print({'mlflow', 'torch', 'pandas', 'numpy', 'sqlalchemy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "--tracking_uri", store.uri]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines()[-1] == "set()"


# Which store, and saying so


def test_the_flag_beats_the_environment(sqlite_store, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    parse("--tracking-uri", sqlite_store.uri)
    assert f"store: {sqlite_store.uri} (--tracking_uri)" in capsys.readouterr().out


def test_the_environment_beats_the_folder(sqlite_store, database, monkeypatch, capsys):
    database.rename("mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store.uri)
    parse()
    assert f"store: {sqlite_store.uri} (the environment's MLFLOW_TRACKING_URI)" in capsys.readouterr().out


def test_mlflow_db_beats_an_old_mlruns_which_is_named(database, folder, capsys):
    database.rename("mlflow.db")
    folder.rename("mlruns")
    assert len(parse()) == 4
    said = capsys.readouterr().out
    assert (
        "store: sqlite:///mlflow.db (no MLFLOW_TRACKING_URI is set and ./mlflow.db exists; the old file store"
        in said
    )
    assert "4 runs -> out.csv\n" in said


def test_an_old_mlruns_is_read_where_there_is_no_database(folder, capsys):
    folder.rename("mlruns")
    assert len(parse()) == 4
    assert (
        "store: ./mlruns (an old file store; no MLFLOW_TRACKING_URI is set and there is no ./mlflow.db)"
        in capsys.readouterr().out
    )


def test_the_default_output(database):
    assert mlruns_parser.main(["--tracking_uri", f"sqlite:///{database.name}"]) == 0
    assert (
        Path("mlruns_parsed.csv")
        .read_bytes()
        .startswith(b"run_id,run_name,experiment,status,warning,start_time,duration_s,parent_run_id,")
    )


def test_an_empty_store_is_a_header(database):
    execute(database, "UPDATE runs SET lifecycle_stage = 'deleted'")
    assert list(parse("--tracking_uri", f"sqlite:///{database}").columns) == [
        *FIXED,
        "parent_run_id",
        "warning",
    ]


# Mistakes: one line, exit 2, nothing written


def refused(capsys, *arguments: str) -> str:
    before = sorted(Path().iterdir())
    assert mlruns_parser.main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sorted(Path().iterdir()) == before
    return line


def test_no_store(capsys):
    Path("mlruns/1/ab/artifacts").mkdir(parents=True)  # as MLflow 3 makes it, for artifacts only
    line = refused(capsys)
    assert "no --tracking_uri, no MLFLOW_TRACKING_URI, no ./mlflow.db and no ./mlruns with meta.yaml" in line
    assert "name the store, e.g. --tracking_uri" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outptu", "x.csv"], "unrecognized arguments: --outptu"),
        (["--out", "x.csv"], "unrecognized arguments: --out"),
        (["--tracking_uri"], "expected one argument"),
        (["--tracking_uri", ""], "expected a store as --tracking_uri, got nothing"),
        (["--tracking_uri", "sqlite:///missing.db"], "missing.db, got no such file"),
        (["--tracking_uri", "sqlite://"], "expected a sqlite store with a file, got 'sqlite://'"),
        (["--tracking_uri", "missing"], "expected the folder of a file store at missing, got no such folder"),
        (["--tracking_uri", "text.txt"], "a sqlite store is written sqlite:///PATH"),
        (["--tracking_uri", "artifacts"], "expected <experiment id>/meta.yaml in artifacts, got none"),
        (["--tracking_uri", "sqlite:///text.txt"], "file is not a database"),
        (
            ["--tracking_uri", "sqlite:///other.db"],
            "got a database without alembic_version, experiments, latest_metrics",
        ),
        (["--tracking_uri", "nosuchscheme://x"], "expected a store that MLflow can read at nosuchscheme://x"),
        (
            ["--tracking_uri", "sqlite:///copy.db", "--output", "no/such/out.csv"],
            "expected an existing folder for --output",
        ),
        (
            ["--tracking_uri", "sqlite:///copy.db", "--output", "artifacts"],
            "expected a file as --output, got artifacts",
        ),
        (
            ["--tracking_uri", "sqlite:///copy.db", "--output", "copy.db"],
            "expected a table's file as --output, got the database copy.db",
        ),
    ],
)
def test_a_mistake(arguments, message, database, capsys):
    Path("text.txt").write_text("no database at all, but a text of some length")
    Path("artifacts/1/ab").mkdir(parents=True)
    sqlite3.connect("other.db").close()
    Path("other.db").touch()
    assert message.lower() in refused(capsys, *arguments).lower()


def test_a_silent_server_is_named_without_its_password(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    line = refused(capsys, "--tracking_uri", "http://me:secret@127.0.0.1:9")
    assert "expected an MLflow server at http://***@127.0.0.1:9" in line
    assert "secret" not in line


def test_an_unknown_schema_goes_to_mlflow_and_that_is_said(database, capsys):
    execute(database, "UPDATE alembic_version SET version_num = 'from the future'")
    assert (
        mlruns_parser.main(["--tracking_uri", f"sqlite:///{database}"]) == 2
    )  # this MLflow knows no such schema either
    first, second = capsys.readouterr().err.splitlines()
    assert "unknown schema version from the future: reading through MLflow's own client" in first
    assert "expected a store that MLflow can read" in second


def test_an_unknown_schema_that_mlflow_knows_is_read(sqlite_store, monkeypatch, capsys):
    monkeypatch.setattr("lethe.tracking.sql_store.KNOWN_SCHEMAS", frozenset())
    assert len(parse("--tracking_uri", sqlite_store.uri)) == 4
    assert "unknown schema version" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(sqlite_store, monkeypatch, capsys):
    def full_disk(*_):
        raise OSError("No space left on device")

    Path("mlruns_parsed.csv").write_text("old")
    monkeypatch.setattr(mlruns_parser, "rows_of", full_disk)
    assert "No space left" in refused(capsys, "--tracking_uri", sqlite_store.uri)
    assert Path("mlruns_parsed.csv").read_text() == "old"


# Broken runs: skipped, named, counted; the others are all there


def others_survive(capsys, uri: str, lost: str, where: str, reason: str, skipped: int = 1) -> None:
    table = parse("--tracking_uri", uri)
    printed = capsys.readouterr()
    assert lost not in table.index
    assert f"{len(table)} runs -> out.csv ({skipped} skipped)" in printed.out
    assert len(table) == 4 - skipped
    lines = printed.err.splitlines()
    assert len(lines) == skipped
    assert where in lines[0] and reason in lines[0]


def garble(path: str, content: bytes):
    return lambda run: (run / path).write_bytes(content)


def dangling(path: str):
    def replace(run: Path) -> None:
        (run / path).unlink()
        (run / path).symlink_to("nowhere")

    return replace


def meta(old: str, new: str):
    def edit(run: Path) -> None:
        text = (run / "meta.yaml").read_text()
        assert old in text
        (run / "meta.yaml").write_text(text.replace(old, new))

    return edit


def unreadable(run: Path) -> None:
    """A folder in a file's place fails to be read even for root, whom no permission stops."""
    (run / "params/unlearn").unlink()
    (run / "params/unlearn").symlink_to(run)


def pipe(run: Path) -> None:
    (run / "metrics/tiny").unlink()
    os.mkfifo(run / "metrics/tiny")


def link(path: str, target: str):
    def replace(run: Path) -> None:
        shutil.rmtree(run / path) if (run / path).is_dir() else (run / path).unlink()
        (run / path).symlink_to(target)

    return replace


def deep(path: str):
    return lambda run: (run / path / "/".join(["a"] * 200)).mkdir(parents=True)


def huge(path: str):
    def grow(run: Path) -> None:
        with (run / path).open("r+b") as file:
            file.truncate(10**12)

    return grow


def linked_run(run: Path) -> None:
    shutil.rmtree(run)
    run.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "where", "reason"),
    [
        (lambda run: (run / "meta.yaml").unlink(), "", "No such file"),
        (garble("meta.yaml", b""), "meta.yaml", "expected keys and values"),
        (garble("meta.yaml", b"just words"), "meta.yaml", "expected keys and values"),
        (garble("meta.yaml", b"run_id: [1, 2"), "meta.yaml", "expected YAML"),
        (garble("meta.yaml", bytes(range(256))), "meta.yaml", "expected YAML"),
        (garble("meta.yaml", b"[" * 5000), "meta.yaml", "expected YAML"),
        (garble("meta.yaml", b"status: 3\n"), "", "meta.yaml has no 'run_uuid'"),
        (meta("status: 3", "status: 17"), "", "expected a status of RUNNING, SCHEDULED"),
        (meta("status: 3", "status: []"), "", "expected a status of RUNNING, SCHEDULED"),
        (meta("status: 3", "status: {}"), "", "expected a status of RUNNING, SCHEDULED"),
        (
            meta("lifecycle_stage: active", "lifecycle_stage: actve"),
            "",
            "expected the lifecycle_stage active or deleted, got 'actve'",
        ),
        (
            meta("1700000000123", "yesterday"),
            "",
            "expected a time as whole milliseconds since 1970, got 'yesterday'",
        ),
        (meta("1700000000123", "9" * 30), "", "expected a time between the years 1 and 9999"),
        (meta("run_id: ", "run_id: of-another-"), "", "meta.yaml is of run of-another-"),
        (garble("metrics/tiny", b"1700000000500 5e-324 0\n17000000"), "metrics/tiny", "half-written"),
        (garble("metrics/tiny", b"1700000000500 5e"), "metrics/tiny", "half-written"),
        (garble("metrics/tiny", b""), "metrics/tiny", "an empty file"),
        (garble("metrics/tiny", b"1 1.0 0\n\n"), "metrics/tiny", "expected `timestamp value step`"),
        (
            garble("metrics/tiny", b"1 1.0 2 1.0 0\n1 2 1.0 0\n"),
            "metrics/tiny",
            "expected `timestamp value step`",
        ),
        (garble("metrics/tiny", b"1 big 0\n"), "metrics/tiny", "could not convert"),
        (garble("metrics/tiny", b"\x00\xff\xfe\n"), "metrics/tiny", "expected UTF-8"),
        (garble("params/unlearn", b"\xff\xfe"), "params/unlearn", "expected UTF-8"),
        (dangling("params/unlearn"), "params/unlearn", "No such file"),
        (dangling("metrics/tiny"), "metrics/tiny", "No such file"),
        (dangling("meta.yaml"), "meta.yaml", "No such file"),
        (unreadable, "params/unlearn", "Is a directory"),
        (linked_run, "meta.yaml", "No such file"),
        (pipe, "metrics/tiny", "expected a regular file, got a named pipe"),
        (link("params/unlearn", "/dev/zero"), "params/unlearn", "expected a path inside"),
        (link("params/unlearn", "/etc/passwd"), "params/unlearn", "got one that leads to /etc/passwd"),
        (link("params/unlearn", "../../../../../outside"), "params/unlearn", "expected a path inside"),
        (link("metrics", "/etc"), "metrics", "got one that leads to /etc"),
        (link("meta.yaml", "/etc/passwd"), "meta.yaml", "got one that leads to /etc/passwd"),
        (huge("params/unlearn"), "params/unlearn", "expected at most 16 MB, got 1 TB"),
        (huge("metrics/tiny"), "metrics/tiny", "expected at most 1 GB, got 1 TB"),
        (huge("meta.yaml"), "meta.yaml", "expected at most 16 MB, got 1 TB"),
        (deep("params"), "params/a/a", "expected at most 100 nested folders"),
        (garble("meta.yaml", b"a: &a [*a]\n"), "meta.yaml", "expected YAML"),
        (garble("meta.yaml", b"a: " + b"9" * 5000), "meta.yaml", "expected YAML"),
    ],
)
def test_a_broken_run_of_a_file_store(damage, where, reason, folder, file_store, capsys):
    lost = file_store.ids["full"]
    run = run_folder(folder, lost)
    damage(run)
    others_survive(capsys, str(folder), lost, str(run / where) if where else str(run), reason)


def test_a_name_that_is_no_unicode_breaks_its_run_only(folder, file_store, capsys):
    run = run_folder(folder, file_store.ids["full"])
    try:
        Path(os.fsdecode(os.fsencode(run / "params") + b"/\xff")).write_text("1")
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    others_survive(capsys, str(folder), run.name, str(run), "surrogates not allowed")


def test_the_runs_of_a_broken_experiment_are_each_counted(folder, file_store, capsys):
    run = run_folder(folder, file_store.ids["full"])
    (run.parent / "meta.yaml").unlink()
    others_survive(capsys, str(folder), run.name, str(run.parent), "its experiment is broken", skipped=2)


def test_a_dangling_experiment_is_reported(folder, capsys):
    (folder / "77").symlink_to("nowhere")
    assert len(parse("--tracking_uri", str(folder))) == 4
    assert f"skipped {folder / '77'}: " in capsys.readouterr().err


@pytest.mark.parametrize("depth", [0, 1], ids=["an experiment", "a run"])
def test_a_link_out_of_the_store_is_no_part_of_it_unless_it_is_trusted(
    folder, file_store, capsys, monkeypatch, tmp_path, depth
):
    run = run_folder(folder, file_store.ids["full"])
    place = (run.parent, run)[depth]
    shutil.move(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")

    assert run.name not in parse("--tracking_uri", str(folder)).index
    assert (
        f"skipped {place}" in (said := capsys.readouterr().err)
        and f"got one that leads to {tmp_path}/elsewhere" in said
    )

    monkeypatch.setenv("LETHE_FOLLOW_LINKS", "1")
    assert len(parse("--tracking_uri", str(folder))) == 4


def test_folders_that_git_did_not_keep_are_no_damage(folder, file_store):
    run = run_folder(folder, file_store.ids["running"])
    (run / "params").rmdir()
    (run / "metrics").rmdir()
    assert len(parse("--tracking_uri", str(folder))) == 4


def test_an_old_meta_yaml(folder, file_store):
    """Before MLflow 1.0: run_uuid, a numeric experiment id, no lifecycle stage, the name only in the tag."""
    run = run_folder(folder, file_store.ids["full"])
    (run / "meta.yaml").write_text(
        f"run_uuid: {run.name}\nexperiment_id: {run.parent.name}\nname: ''\nstatus: 3\nstart_time: "
        "0\nend_time: 50\n"
    )
    row = parse("--tracking_uri", str(folder)).loc[run.name]
    assert (row.run_name, row.start_time, row.duration_s) == (
        'all, "of"\nit',
        "1970-01-01T00:00:00.000Z",
        "0.05",
    )


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "UPDATE params SET value = CAST(X'ff00' AS TEXT) WHERE key = 'unlearn' AND run_uuid = ?",
            "can't decode byte 0xff",
        ),
        (
            "UPDATE params SET key = CAST(X'ff00' AS TEXT) WHERE key = 'unlearn' AND run_uuid = ?",
            "can't decode byte 0xff",
        ),
        (
            "UPDATE latest_metrics SET value = 'much' WHERE key = 'tiny' AND run_uuid = ?",
            "expected a number as metric tiny, got b'much'",
        ),
        (
            "UPDATE runs SET start_time = 'noon' WHERE run_uuid = ?",
            "expected a time as whole milliseconds since 1970, got b'noon'",
        ),
        ("UPDATE runs SET status = 'LOST' WHERE run_uuid = ?", "expected a status of RUNNING"),
        ("UPDATE runs SET status = NULL WHERE run_uuid = ?", "NoneType"),
        ("UPDATE runs SET experiment_id = 99 WHERE run_uuid = ?", "its experiment 99 is not in the store"),
    ],
)
def test_a_broken_run_of_a_sqlite_store(statement, reason, database, sqlite_store, capsys):
    lost = sqlite_store.ids["full"]
    execute(database, statement, lost)
    others_survive(capsys, f"sqlite:///{database}", lost, f"{database}, run {lost}", reason)


def test_a_sqlite_store_is_not_written(database):
    database.chmod(0o444)
    before = database.read_bytes()
    parse("--tracking_uri", f"sqlite:///{database}")
    assert database.read_bytes() == before
    assert not list(Path().glob("copy.db-*"))


# Small parts


def test_latest_value_in_the_three_forms_of_a_line():
    assert latest_value(b"1 0.5\n2 0.25\n", "m") == 0.25
    assert latest_value(b"9 0.5 1\n2 0.25 7\n", "m") == 0.25
    assert latest_value(b"9 0.5 1 cifar abc\r\n2 0.25 0\r\n", "m") == 0.5


def test_times():
    assert iso_utc(-1) == "1969-12-31T23:59:59.999Z"
    assert iso_utc(1_700_000_000_000) == "2023-11-14T22:13:20.000Z"


def test_infinity_restored():
    largest = sys.float_info.max
    assert [infinity_restored(value) for value in (largest, -largest, 1e308, 0.0)] == [
        math.inf,
        -math.inf,
        1e308,
        0.0,
    ]
    assert math.isnan(infinity_restored(math.nan))


def test_a_store_of_no_experiments_is_an_error_of_the_path(tmp_path):
    with pytest.raises(ValueError, match="got none"):
        FolderStore(str(tmp_path))


def test_the_client_finds_nothing_where_every_experiment_is_deleted(database):
    execute(database, "UPDATE experiments SET lifecycle_stage = 'deleted'")
    assert list(client_runs(f"sqlite:///{database}")) == list(sqlite_runs(f"sqlite:///{database}")) == []


def test_a_broken_run_is_reported_by_the_client_too(sqlite_store, database):
    execute(database, "UPDATE runs SET end_time = ? WHERE run_uuid = ?", 10**18, sqlite_store.ids["full"])
    broken = [run for run in client_runs(f"sqlite:///{database}") if isinstance(run, BrokenRun)]
    assert [run.where for run in broken] == [f"run {sqlite_store.ids['full']}"]


NAMES = st.sets(
    st.sampled_from(
        [
            "a",
            "b",
            "status",
            "param.a",
            "metric.a",
            "param.param.a",
            "param.status",
            "parent_run_id",
            "warning",
        ]
    )
)


@given(NAMES, NAMES)
def test_no_two_names_share_a_column(params, metrics):
    of_params, of_metrics = column_names(params, metrics)
    columns = [*FIXED, "parent_run_id", "warning", *of_params.values(), *of_metrics.values()]
    assert len(columns) == len(set(columns)) == 9 + len(params) + len(metrics)
    assert all(name == column or column.endswith(f"param.{name}") for name, column in of_params.items())
