"""Histories that are too long for memory give the same rows, and memory holds a bounded number of values."""

import gc
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlruns_parser
from benchmarks.parser_stores import Size, file_store, sqlite_store
from lethe.tracking import sorted_points
from lethe.tracking.readers import sqlite
from lethe.tracking.readers.folder import FolderStore
from lethe.tracking.readers.mlflow_client import client_store
from lethe.tracking.readers.postgres import postgres_store
from lethe.tracking.run_folder import latest_value, metric_blocks, metric_points
from lethe.tracking.selection import EVERY_RUN
from lethe.tracking.sorted_points import SortedPoints, sorted_histories
from lethe.tracking.stored_run import Point
from tests.filled_stores import Store, empty_place  # noqa: F401 (empty_place: a fixture of every test here)

SIZE = Size(runs=6, params=1, metrics=4, points=25)  # 100 values a run
LIMIT = 40


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    return sqlite_store(folder, SIZE), file_store(folder, SIZE)


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(sorted_points, "AT_ONCE", LIMIT)


def read(store) -> tuple[list[str], int]:
    """All rows of the histories, and the most values that were in memory at once."""
    runs = sorted(store.runs()[1], key=lambda run: run.run_id)
    gc.collect()
    gc.freeze()  # what there is before is not looked at, which would take long
    rows, most = [], 0
    for number, point in enumerate(store.points(runs)):
        rows.append(repr(point))
        if number % 10 == 0:
            most = max(most, sum(type(each) is Point for each in gc.get_objects()))
    return rows, most


def read_through_mlflow(uri: str) -> tuple[list[str], int]:
    with client_store(uri) as store:
        return read(store)


READERS = {
    "sqlite": lambda stores: read(sqlite.sqlite_store(stores[0])),
    "files": lambda stores: read(FolderStore(stores[1])),
    "client": lambda stores: read_through_mlflow(stores[0]),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_values_at_once_are_bounded_and_the_rows_the_same(reader, stores, monkeypatch):
    rows, most = reader(stores)
    assert len(rows) == 600 and most >= 100  # of a run at least

    monkeypatch.setattr(sorted_points, "AT_ONCE", LIMIT)
    monkeypatch.setattr("lethe.tracking.readers.mlflow_client.MOST_POINTS", LIMIT)
    again, at_once = reader(stores)
    assert again == rows
    assert at_once <= LIMIT + 1


def answers_for_the_history(uri, monkeypatch):
    """How many rows each answer of the database has while the histories of all runs are read."""
    store = sqlite.sqlite_store(uri)
    runs = list(store.runs()[1])
    answers = []
    select = sqlite.select
    monkeypatch.setattr(sqlite, "select", lambda *given: answers.append(select(*given)) or answers[-1])
    assert len(list(store.points(runs))) == 600
    return list(map(len, answers))


@pytest.mark.usefixtures("small_memory")
def test_a_database_is_asked_for_no_more_at_once(stores, monkeypatch):
    assert max(answers_for_the_history(stores[0], monkeypatch)) == LIMIT


def test_short_histories_are_read_together(stores, monkeypatch):
    monkeypatch.setattr(sorted_points, "AT_ONCE", 250)
    assert answers_for_the_history(stores[0], monkeypatch) == [
        6,
        200,
        200,
        200,
    ]  # how long they are, then two runs at a time


@pytest.mark.usefixtures("small_memory")
def test_a_page_is_found_by_an_index_and_needs_no_sorting(stores):
    statement = sqlite.PAGE.format(runs="(?)", after=5, at_once=10)
    with closing(sqlite3.connect(stores[0].removeprefix("sqlite:///"))) as connection:
        (step,) = [
            row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", [next(SIZE.ids())])
        ]
    assert "USING INDEX index_metrics_run_uuid (run_uuid=? AND rowid>?)" in step


def test_a_long_history_of_postgres_is_the_same(postgres_server, monkeypatch):
    from benchmarks.postgres_cluster import new_database
    from tests.test_servers import disconnect

    filled = Store(new_database(postgres_server, "long"))
    with postgres_store(filled.uri, EVERY_RUN) as store:
        rows, _ = read(store)
        monkeypatch.setattr(sorted_points, "AT_ONCE", 3)
        again, most = read(store)
    disconnect(filled.uri)
    assert again == rows and len(rows) > 10
    assert most <= 4


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("value", ["step = 'x'", "value = 'x'", "timestamp = 1e300"])
def test_a_long_history_that_is_broken_is_left_out_whole(value, stores, tmp_path, capsys):
    path = tmp_path / "broken.db"
    path.write_bytes(Path(stores[0].removeprefix("sqlite:///")).read_bytes())
    broken = sorted(SIZE.ids())[2]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            f"UPDATE metrics SET {value} WHERE run_uuid = ? AND key = 'metric_03' AND step = 24", [broken]
        )
        connection.commit()
    assert (
        mlruns_parser.main(["--tracking_uri", f"sqlite:///{path}", "--history", "--output", "out.csv"]) == 0
    )
    assert f"history of run {broken}" in capsys.readouterr().err
    written = Path("out.csv").read_text()
    assert broken not in written and written.count("\n") == 501


VALUES = st.one_of(st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan]), st.floats())
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
POINTS = st.lists(
    st.builds(Point, st.sampled_from("ab"), NAMES, st.integers(-3, 3), st.integers(0, 2), VALUES), max_size=30
)


@given(POINTS, st.integers(1, 12))
def test_sorted_on_disk_is_sorted_in_memory(points, at_once):
    points = [
        point
        for number, point in enumerate(points)
        if point[:4] not in {other[:4] for other in points[:number]}
    ]  # NaN has no order
    before, sorted_points.AT_ONCE = sorted_points.AT_ONCE, at_once
    try:
        with SortedPoints(["b", "a"]) as found:
            found.add(points)
            assert repr(list(found)) == repr(
                sorted(points, key=lambda point: (point.run_id == "a", point[1:4]))
            )
    finally:
        sorted_points.AT_ONCE = before


@pytest.mark.usefixtures("small_memory")
def test_equal_steps_and_times_are_in_the_order_of_their_values():
    points = [Point("a", "m", 0, 0, float(value)) for value in reversed(range(100))]
    with SortedPoints(["a"]) as found:
        found.add(points)
        assert list(found) == points[::-1]


@pytest.mark.usefixtures("small_memory")
def test_a_step_of_more_than_64_bits_costs_its_own_run_alone():
    def history(run, step=0):
        return run, [Point(run, "m", step, 0, float(value)) for value in range(LIMIT - 1)]

    parts = [history("a"), history("b", 2**70), history("c"), history("d", -(2**70))]
    *points, first, last = sorted_histories("abcd", parts, "store, ")
    assert points == [*history("a")[1], *history("c")[1]]
    assert [first.where, last.where] == ["store, history of run b", "store, history of run d"]
    assert "expected steps of 64 bits" in first.reason


def test_a_history_that_broke_since_its_run_was_read_is_named_with_its_folder(stores):
    store = FolderStore(stores[1])
    run = min((run for run in store.runs()[1]), key=lambda run: run.run_id)
    metric = Path(store._folders[run.run_id]) / "metrics" / "metric_00"
    whole = metric.read_bytes()
    metric.write_bytes(b"1 big 0\n")
    (broken,) = store.points([run])
    metric.write_bytes(whole)
    assert broken.where == f"{metric.parent.parent}, history of run {run.run_id}"


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100])
def test_pieces_of_a_metrics_file_are_whole_lines(size, monkeypatch):
    monkeypatch.setattr("lethe.tracking.run_folder.BLOCK", size)
    content = b"".join(f"{time} {time / 7} {time % 5}\n".encode() for time in range(20))
    blocks = list(metric_blocks(content))
    assert b"".join(blocks) == content and all(block.endswith(b"\n") for block in blocks)
    assert [point for block in blocks for point in metric_points(block, "m")] == metric_points(content, "m")
    assert latest_value(content, "m") == max(metric_points(content, "m"))[2]
    for broken in (b"", content + b"1 0.5"):
        with pytest.raises(ValueError, match="expected whole lines in m"):
            latest_value(broken, "m")
