"""The same queue on a Ray cluster, here one of its own on this machine."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import array_param_file

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "grid.yml").write_text("epochs: 1\nideal: skip\nmethods:\n  random_mask: {kappa: [0.1, 0.2]}\n  SSD:\n")
    return tmp_path


@pytest.mark.slow
def test_a_local_cluster_runs_every_job_once(folder):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    program = [sys.executable, str(ROOT / "array_param_file.py"), "run", "--grid", "grid.yml", "--address", "local", "--workers", "2"]
    for said in ("3 finished, 0 were before, 0 failed", "0 finished, 3 were before, 0 failed"):
        done = subprocess.run(program, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert store.execute("SELECT status, COUNT(*) FROM runs GROUP BY status").fetchall() == [("FINISHED", 3)]
    assert {path.name for path in (folder / "sweep_logs").iterdir()} <= {"ray1.log", "ray2.log"}


def test_without_ray_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert array_param_file.main(["run", "--grid", "grid.yml", "--address", "auto"]) == 2
    assert "pip install -r requirements-ray.txt" in capsys.readouterr().err


def test_no_cluster_is_one_line(capsys):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    assert array_param_file.main(["run", "--grid", "grid.yml", "--address", "127.0.0.1:1"]) == 2
    message = capsys.readouterr().err
    assert "--address: no Ray cluster at '127.0.0.1:1'" in message
