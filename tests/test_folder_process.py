"""Run folders that several processes read are what one process reads, in the same order; a process that dies
is an error.
"""

import subprocess
import sys

import pytest

from lethe.tracking import folder_process
from lethe.tracking.folder_process import ROOT, found_in
from lethe.tracking.run_filter import parse_filter
from lethe.tracking.run_folder import read_places
from lethe.tracking.selection import EVERY_RUN, Selection
from lethe.tracking.stored_run import BrokenRun

pytestmark = pytest.mark.slow

META = """run_id: {name}
experiment_id: '7'
run_name: run {name}
status: 3
lifecycle_stage: {stage}
start_time: 1700000000000
"""


@pytest.fixture
def places(tmp_path):
    """Two hundred run folders, of which some are deleted, some broken, and some not there."""
    found = []
    for number in range(200):
        folder = tmp_path / "7" / f"r{number:03d}"
        found.append((str(folder), "tries"))
        if number % 17 == 5:
            continue
        (folder / "metrics").mkdir(parents=True)
        (folder / "meta.yaml").write_text(
            META.format(name=folder.name, stage="deleted" if number % 13 == 0 else "active")
        )
        (folder / "metrics" / "loss").write_text(
            f"1700000000000 {number}.5 0\n" if number % 11 else "half a li"
        )
    return found


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_several_processes_read_what_one_reads(places, processes):
    alone = list(read_places(places, EVERY_RUN))
    assert list(found_in(places, EVERY_RUN, processes)) == alone
    assert sum(isinstance(run, BrokenRun) for _, run in alone) > 10


def test_what_is_selected_is_selected_by_each_process(places):
    selection = Selection(clauses=parse_filter("metrics.loss < 100 AND attributes.run_id != 'r007'"))
    runs = [run.run_id for _, run in found_in(places, selection, 2) if not isinstance(run, BrokenRun)]
    assert "r008" in runs and "r007" not in runs and max(runs) == "r098"  # r099 is broken


def test_few_folders_are_read_without_a_process(places, monkeypatch):
    monkeypatch.setattr(folder_process, "reader", None)
    assert list(found_in(places, EVERY_RUN)) == list(read_places(places, EVERY_RUN))


def test_a_process_that_dies_is_an_error_and_no_shorter_list(places, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="ended too early"):
        list(found_in(places, EVERY_RUN, 2))


def test_processes_end_with_a_reader_that_stops_early(places, monkeypatch):
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    reading = found_in(places, EVERY_RUN, 2)
    next(reading)
    reading.close()
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_a_script_that_reads_a_large_store_is_run_only_once(places, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); print('begins')\n"
        "from lethe.tracking.folder_process import found_in; from lethe.tracking.selection import EVERY_RUN\n"
        f"print(len(list(found_in({places!r}, EVERY_RUN, 2))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["begins", str(len(list(read_places(places, EVERY_RUN))))]
