"""What killed processes leave of files they were writing is removed; what others are writing is not."""

import os
import socket
import subprocess
import sys

import pytest

from lethe.report.table_files import write_csv
from lethe.system.temporary_files import ABANDONED_SECONDS, is_left_over, remove_left_over, temporary_name
from lethe.training import check_writable, write_bytes

HERE = socket.gethostname()


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(60)
    return process.pid


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_dead_process_writes_no_more(tmp_path, gone):
    for name in (f"a.safetensors.{gone}@{HERE}.partial", f"a.{gone}.partial"):
        assert is_left_over(tmp_path / name)


def test_what_is_written_now_or_elsewhere_is_left_alone(tmp_path, gone):
    names = [
        temporary_name(tmp_path / "a").name,
        f"a.{os.getppid()}.partial",
        f"a.{gone}@elsewhere.partial",
        "a.partial",
        f"a.{gone}",
    ]
    for name in names:
        (tmp_path / name).touch()
    remove_left_over(tmp_path)
    assert names_in(tmp_path) == sorted(names)


def test_what_another_machine_left_a_day_ago_goes(tmp_path):
    file = tmp_path / "a.1@elsewhere.partial"
    file.touch()
    os.utime(file, (file.stat().st_mtime - ABANDONED_SECONDS - 1,) * 2)
    remove_left_over(tmp_path)
    assert names_in(tmp_path) == []


def test_the_next_one_that_writes_or_looks_cleans(tmp_path, gone):
    left = f"other.safetensors.{gone}.partial"
    (tmp_path / left).touch()
    write_bytes(tmp_path / "own", b"1")
    assert names_in(tmp_path) == ["own"]

    (tmp_path / left).touch()
    check_writable(tmp_path)
    assert names_in(tmp_path) == ["own"]


def test_a_table_cleans_its_own_name_alone(tmp_path, gone):
    """It may be written into any folder."""
    for name in ("t.csv", "other.csv"):
        (tmp_path / f"{name}.{gone}@{HERE}.partial").touch()
    (tmp_path / f".t.csv.{gone}.tmp").touch()  # of an older version
    write_csv(tmp_path / "t.csv", {"a": "text"}, [["1"]])
    assert names_in(tmp_path) == [f"other.csv.{gone}@{HERE}.partial", "t.csv"]
