"""What a run logs in one block is written together, and is the same."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from own_store import store_in, there  # noqa: F401 (every test runs in the module's folder)

from lethe.tracking import entries
from lethe.tracking.entries import Batch, Point, together
from lethe.tracking.run import tracked_run

POINT = st.builds(Point, st.sampled_from("abc"), st.floats(0, 1), st.integers(0, 9), st.integers(0, 9))
TEXTS = st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.text(max_size=2), max_size=5)
BATCHES = st.lists(st.builds(Batch, TEXTS, TEXTS, st.lists(POINT, max_size=4)), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gathered")


@settings(max_examples=30)
@given(BATCHES, st.integers(1, 3))
def test_batches_that_are_written_together_say_the_same(batches, most):
    with patch.object(entries, "MOST", most), patch.object(entries, "MOST_POINTS", most):
        found = list(together(batches))

    for part in ("params", "tags"):
        assert _all(found, part) == _all(batches, part)
    assert [point for batch in found for point in batch.points] == [p for b in batches for p in b.points]
    assert all(max(len(one.params), len(one.tags), len(one.points)) <= most for one in found)


def _all(batches, part):
    return {name: value for batch in batches for name, value in getattr(batch, part).items()}


@pytest.fixture
def calls(monkeypatch):
    counted = []
    write = MlflowClient.log_batch

    def counting(*given, **more):
        counted.append(more)
        return write(*given, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", counting)
    return counted


def test_a_block_is_written_once(folder, calls):
    with tracked_run("gathered", "once") as run:
        with run.gathered(), run.gathered():
            run.params({"seed": 1})
            run.points({0: {"loss": 2.0}})
            run.metrics({"loss": 1.0})
            run.tags({"verdict": "kept"})
            run.tags({"verdict": "forgotten"})
            assert calls == []
        assert len(calls) == 1

    data = MlflowClient().get_run(run.run_id).data
    assert (data.params, data.metrics) == ({"seed": "1"}, {"loss": 1.0})
    assert data.tags["verdict"] == "forgotten"


def test_an_error_in_a_block_loses_nothing(folder):
    with pytest.raises(ZeroDivisionError), tracked_run("gathered", "error") as run, run.gathered():
        run.metrics({"loss": 1.0})
        raise ZeroDivisionError

    assert MlflowClient().get_run(run.run_id).data.metrics == {"loss": 1.0}
