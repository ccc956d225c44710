"""The same queue on a Ray cluster, here one of its own on this machine."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

import array_param_file
import mlflow_forget
from lethe.experiment.run_config import PipelineConfig
from lethe.sweeps import ray_pool
from lethe.sweeps import run as grid_run
from lethe.sweeps.job_queue import Finished, Job, Outcome, Queue, run_jobs
from lethe.sweeps.ray_pool import RayPool
from lethe.tracking import folder_process
from tests.warm_processes import command, ended, fixture_begin, fixture_warm  # noqa: F401


@pytest.fixture(autouse=True)
def folder(empty_place):
    (empty_place / "grid.yml").write_text(
        "report: skip\nmetrics: forget_score\nepochs: 1\nideal: skip\n"
        "methods:\n  random_mask: {kappa: [0.1, 0.2]}\n  SSD:\n"
    )
    return empty_place


@pytest.mark.slow
def test_a_local_cluster_runs_every_job_once_and_none_that_is_finished(made_store, begin):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    finished = "--report skip --metrics forget_score --unlearn SSD --epochs 1 --ideal skip"
    assert mlflow_forget.main(finished.split()) == 0
    cluster = "run --grid grid.yml --address local --workers 2".split()
    code = ended(begin(command, "array_param_file", *cluster), 600)
    out = Path("out").read_text()
    assert code == 0, out + Path("err").read_text()
    assert "2 finished, 1 were before, 0 failed" in out
    with closing(sqlite3.connect("mlflow.db")) as store:
        assert store.execute("SELECT status, COUNT(*) FROM runs GROUP BY status").fetchall() == [
            ("FINISHED", 3)
        ]
    assert {path.name for path in Path("sweep_logs").iterdir()} <= {"ray1.log", "ray2.log"}


def test_without_ray_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert array_param_file.main(["run", "--grid", "grid.yml", "--address", "auto"]) == 2
    assert "pip install -r requirements-ray.txt" in capsys.readouterr().err


def test_no_cluster_is_one_line(capsys):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    assert array_param_file.main(["run", "--grid", "grid.yml", "--address", "127.0.0.1:1"]) == 2
    message = capsys.readouterr().err
    assert "--address: no Ray cluster at '127.0.0.1:1'" in message


class Cluster:
    """As much of the module ray as the pool needs, with room for so many actors; a reference is what it will
    be, and whose it is.
    """

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, cores):
        self.cores, self.actors = cores, []

    def cluster_resources(self):
        return {"CPU": float(self.cores)}

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.start))

    def start(self, number, *about):
        self.actors.append(number)
        of = lambda result: (number, len(self.actors), result)  # noqa: E731
        return SimpleNamespace(
            number=number,
            answer=SimpleNamespace(remote=lambda: of("here")),
            do=SimpleNamespace(
                remote=lambda job: of(Finished() if job.words == ("stale",) else Outcome("finished"))
            ),
        )

    def wait(self, references, *, num_returns, timeout):
        assert references
        done = [reference for reference in references if reference[0] in self.actors[: self.cores]]
        return done[:num_returns], []

    def get(self, reference):
        return reference[2]

    def kill(self, actor):
        self.actors.remove(actor.number)


def test_an_actor_that_waits_for_a_core_has_no_job(tmp_path):
    cluster = Cluster(cores=2)
    pool = RayPool(cluster, 5, tmp_path)
    jobs = [Job(("mlflow_forget.py", str(number)), None) for number in range(9)]
    most = []
    queue = run_jobs(Queue(jobs), pool, lambda queue, _: most.append(len(queue.running)))
    assert queue.count("finished") == 9
    assert max(most) == 2


def test_an_actor_that_leaves_is_replaced(tmp_path):
    pool = RayPool(Cluster(cores=1), 1, tmp_path)
    assert pool.ready() == [0]
    pool.give(0, Job(("stale",), None))
    assert pool.wait(1.0) == [(0, Finished())]
    assert pool.ready() == [0]


@pytest.mark.parametrize(
    ("words", "size", "says"),
    [
        ("", 3, ""),
        ("--workers 2", 2, ""),
        (
            "--workers 8",
            8,
            "warning: the cluster has room for 3 of 8 workers; the others begin when it has more\n",
        ),
        (
            "--gpus 0,1",
            2,
            "warning: the cluster has room for 0 of 2 workers; the others begin when it has more\n",
        ),
    ],
)
def test_there_are_as_many_actors_as_the_cluster_has_room_for(monkeypatch, capsys, words, size, says):
    monkeypatch.setattr(ray_pool, "connected", lambda *_: Cluster(cores=3))
    monkeypatch.setattr(folder_process, "processor_count", lambda: 1)
    monkeypatch.setattr(grid_run, "finished_in_store", lambda jobs: set())
    options = grid_run.flags().parse_args(["--address", "auto", *words.split()])
    pool = grid_run.pool_of(
        options,
        [
            Job(("mlflow_forget.py", "--unlearn", "SSD", "--seed", str(seed)), PipelineConfig("SSD"))
            for seed in range(20)
        ],
    )
    assert pool.size == size
    assert capsys.readouterr().err == says
