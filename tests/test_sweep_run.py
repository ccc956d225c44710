"""`array_param_file.py run`: every job once, whoever is killed; a warm worker's numbers are those of a fresh
process.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

import array_param_file
import mlflow_forget
from lethe import commands
from lethe.experiment import base_models
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.sweeps import local_pool, warm_worker
from lethe.sweeps import run as grid_run
from lethe.sweeps.base_model_jobs import jobs_of
from lethe.sweeps.job_queue import Crashed, Finished, Outcome
from lethe.sweeps.local_pool import LocalPool
from lethe.sweeps.run_once import run_once
from lethe.sweeps.warm_worker import WarmWorker
from lethe.tracking.finished import finished_keys
from lethe.tracking.run import tracked_run
from lethe.training import fit, load_weights
from lethe.training.file_lock import locked
from tests.warm_processes import (
    command,
    ended,
    fixture_begin,  # noqa: F401
    fixture_warm,  # noqa: F401
    fixture_warm_workers,  # noqa: F401
    new_python,
    sweep,
    until,
)

GRID = """
epochs: 1
ideal: {ideal}
methods:
  random_mask: {{kappa: [{kappas}]}}
  SSD:
"""
FORGET_SCORE = {"metrics": ("forget_score",), "report": "skip"}
FEW = "report: skip\nmetrics: forget_score\n"  # for what isn't about measurements
GRID_RUN = ["run", "--grid", "grid.yml"]
TORTURE = "LETHE_TORTURE" in os.environ  # `make torture` sets it
KILLS = int(os.environ.get("LETHE_TORTURE", "2"))


@pytest.fixture(autouse=True)
def folder(empty_place, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (empty_place / "grid.yml").write_text(GRID.format(ideal="skip", kappas="0.1, 0.2"))
    return empty_place


def runs(folder):
    """(config_hash, status) of every run in the store."""
    if not (folder / "mlflow.db").exists():
        return []
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as store:
        return store.execute(
            "SELECT value, status FROM runs JOIN tags USING (run_uuid) WHERE key = 'config_hash'"
        ).fetchall()


def finished(folder):
    return Counter(config_hash for config_hash, status in runs(folder) if status == "FINISHED")


def without_metrics(folder):
    """The FINISHED runs that measured nothing."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return store.execute(
            "SELECT run_uuid FROM runs WHERE status = 'FINISHED' AND run_uuid NOT IN (SELECT run_uuid FROM "
            "metrics)"
        ).fetchall()


def metrics_in(folder):
    """What the runs of a folder measured, by method and settings, with the digest of the model; seconds left
    out.
    """
    found = {}
    for path in sorted((folder / "eval").rglob("*.json")):
        content = json.loads(path.read_text())
        numbers = {
            name: value
            for name, value in content["metrics"].items()
            if "seconds" not in name and name != "speedup"
        }
        found[path.name] = (numbers, content["initial"], content["undefined"])
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        digests = store.execute("SELECT value FROM params WHERE key = 'unlearned_digest'").fetchall()
    return found, sorted(digests)


WRONG = "def mine(model, data, *, raises: bool = True):\n    raise RuntimeError('no such\\nluck')\n"
RIGHT = """
import os
from lethe.unlearn import Unlearned, copy_of

def mine(model, data, *, raises: bool = True):
    return Unlearned(copy_of(model), facts={"gpu": os.environ["CUDA_VISIBLE_DEVICES"]})
"""


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_jobs_are_run_once_and_found_again_and_a_failure_stops_no_other(folder, made_store, capsys):
    (folder / "own.py").write_text(WRONG)
    grid = GRID.format(ideal="skip", kappas="0.1, 0.2")
    (folder / "grid.yml").write_text(f"{FEW}{grid}  own.py:mine:\n")
    assert array_param_file.main([*GRID_RUN, "--gpus", "5"]) == 1
    out, err = capsys.readouterr()
    assert "3 finished, 0 were before, 1 failed" in out
    retry = "python array_param_file.py run --grid grid.yml --gpus 5"
    last = out.splitlines()[-1]
    assert last == f"1 of 5 jobs failed (failed.txt says why). Retry them:  {retry}"
    assert (folder / "failed.txt").read_text() == (
        "# RuntimeError: no such luck\npython -u mlflow_forget.py --unlearn own.py:mine --report skip "
        "--metrics forget_score --epochs 1 --ideal skip\n"
    )
    assert "RuntimeError: no such luck" in err
    assert Counter(status for _, status in runs(folder)) == {"FINISHED": 3, "FAILED": 1}

    (folder / "own.py").write_text(RIGHT)
    assert array_param_file.main([*GRID_RUN, "--gpus", "7"]) == 0
    assert "1 finished, 3 were before, 0 failed" in capsys.readouterr().out
    assert not (folder / "failed.txt").exists()
    assert set(finished(folder).values()) == {1}
    assert len(finished(folder)) == 4
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert store.execute("SELECT value FROM tags WHERE key = 'gpu'").fetchall() == [("7",)]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_a_warm_worker_measures_what_a_fresh_process_does(folder, made_store, tables, begin):
    grid = GRID.format(ideal="skip", kappas="0.1, 0.2")
    (folder / "grid.yml").write_text(f"report: skip\n{grid}")
    assert array_param_file.main([*GRID_RUN, "--workers", "1"]) == 0
    warm, digests = metrics_in(folder)
    shutil.rmtree(folder / "eval")
    (folder / "mlflow.db").rename(folder / "warm.db")
    shutil.copy(tables, folder)
    shutil.rmtree(folder / "results" / "digits" / "cache")
    # What the worker did after all the others.
    last = "--unlearn SSD --report skip --epochs 1 --ideal skip".split()
    assert ended(begin(command, "mlflow_forget", *last)) == 0
    fresh, (digest,) = metrics_in(folder)
    assert list(fresh) == [name for name in warm if name.startswith("SSD")]
    assert fresh.items() <= warm.items()
    assert digest in digests


@pytest.mark.slow
def test_a_finished_job_is_skipped_by_a_single_command_too(folder, capsys):
    flags = "--unlearn SSD --epochs 1 --ideal skip --report skip --metrics forget_score --skip_finished"
    words = flags.split()
    assert mlflow_forget.main(words) == 0
    assert "metrics: eval" in capsys.readouterr().out
    assert mlflow_forget.main(words) == 0
    assert capsys.readouterr().out.startswith(
        "finished before, in sqlite:///mlflow.db: experiment digits-mlp, config_hash "
    )
    assert list(finished(folder).values()) == [1]
    assert mlflow_forget.main([*words, "--experiment", "another"]) == 0
    assert sorted(finished(folder).values()) == [2]


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_killed_when_its_job_is_run_again(folder):
    config = PipelineConfig("default", base=BaseConfig(epochs=1), ideal="skip", **FORGET_SCORE)
    pipeline = Pipeline(config)
    job, _ = run_once(pipeline)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        store.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL")
    assert run_once(pipeline)[1] is not None
    assert Counter(status for _, status in runs(folder)) == {"KILLED": 1, "FINISHED": 1}
    assert run_once(pipeline)[1] is None
    assert finished_keys() == {job}
    assert run_once(pipeline, known={job})[1] is None


def test_a_run_that_goes_on_beside_a_sweep_is_left_alone(folder):
    """One of mlflow_forget.py as it stands."""
    config = PipelineConfig("default", base=BaseConfig(epochs=1), ideal="skip", **FORGET_SCORE)
    pipeline = Pipeline(config)
    with tracked_run("digits-mlp", "beside", tags={"config_hash": "another"}):
        assert run_once(pipeline)[1] is not None
        assert Counter(status for _, status in runs(folder)) == {"RUNNING": 1, "FINISHED": 1}


def test_base_models_are_trained_once_by_those_who_want_them_at_the_same_time(folder, monkeypatch):
    trained = []
    monkeypatch.setattr(
        base_models, "fit", lambda *given, **more: trained.append(1) or time.sleep(0.2) or fit(*given, **more)
    )
    models = [BaseModels(BaseConfig(epochs=1)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda base: base.initial(), models))
    assert len(trained) == 1
    assert sorted(one.loaded for one in made) == [False, True, True, True]
    assert [path.name for path in (folder / "results" / "digits").glob("*.safetensors")] == [
        "1mlp_ep1.safetensors"
    ]


def hold(lock, told):
    with locked(Path(lock)):
        Path(told).touch()
        time.sleep(600)


@pytest.mark.slow
def test_a_lock_goes_with_the_process_that_held_it(folder, begin):
    holder = begin(hold, "it", "held")
    until((folder / "held").exists)
    holder.kill()
    assert ended(holder) == -signal.SIGKILL
    with locked(folder / "it"):
        pass


def test_workers_share_cores_and_gpus(folder, monkeypatch):
    monkeypatch.setattr(local_pool, "processor_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [(one.gpu, one.threads) for one in local_pool.places(4, ("0", "1"), folder)] == [
        ("0", 2),
        ("1", 2),
        ("0", 2),
        ("1", 2),
    ]
    assert [(one.gpu, one.threads) for one in local_pool.places(3, (), folder)] == [(None, 2)] * 3


def test_of_several_numbers_of_threads_the_first_counts(folder, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert local_pool.places(1, (), folder)[0].threads == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert array_param_file.main(["run"]) == 2
    assert "OMP_NUM_THREADS: expected an integer >= 1, got 'many'" in capsys.readouterr().err


class WorkerPool:
    """Fails the jobs that have a word, and does the others at once; `asked` is called before each."""

    fate_of_runs = ""

    def __init__(self, fails, asked):
        self.fails, self.asked, self.ended = fails, asked, []

    def ready(self):
        return [0]

    def give(self, worker, job):
        self.asked(job)
        self.ended.append(
            (worker, Outcome("failed", "no luck") if self.fails in job.words else Outcome("finished"))
        )

    def wait(self, seconds):
        ended, self.ended = self.ended, []
        return ended

    def stop(self):
        pass


OWN = """
from lethe.unlearn import Unlearned, copy_of

def mine(model, data, *, number: int = 0):
    return Unlearned(copy_of(model), facts={{"which": "{which}"}})
"""


def run_job(flags):
    """The job of a run with these flags."""
    return jobs_of([grid_run.run_of(f"python -u mlflow_forget.py {flags}", "here")])[-1]


def base_job(flags):
    """The job of the initial model of a run with these flags."""
    return jobs_of([grid_run.run_of(f"python -u mlflow_forget.py --unlearn default {flags}", "here")])[0]


def messages(pool, *jobs):
    """The messages of a pool of one about each job, one after the other."""
    for job in jobs:
        pool.give(0, job)
        found = []
        until(lambda own=found: own.extend(pool.wait(1.0)) or own, 120)
        yield found[0][1]


@pytest.fixture
def pool(folder, warm_workers):
    """A worker of its own, which writes to a log that the test may name."""
    made = []

    def of(log="log"):
        made.append(LocalPool([local_pool.Place(Path(log), threads=1)]))
        return made[-1]

    yield of
    for one in made:
        one.stop()


@pytest.mark.slow
def test_a_worker_does_not_run_what_a_file_said_before(pool, folder, made_store):
    line = "--unlearn own.py:mine --epochs 1 --ideal skip --report skip --metrics forget_score --number"
    (folder / "own.py").write_text(OWN.format(which="one"))
    jobs = [run_job(f"{line} {number}") for number in (1, 2)]
    own = pool()
    assert [said.status for said in messages(own, jobs[0])] == ["finished"]
    (folder / "own.py").write_text(OWN.format(which="two"))
    first, second = messages(own, jobs[1], jobs[1])
    assert first == Finished()
    assert second.status == "finished"
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        found = store.execute(
            "SELECT run_uuid, value FROM tags WHERE key = 'which' ORDER BY value"
        ).fetchall()
    assert [which for _, which in found] == ["one", "two"]
    for run_id, which in found:
        (code,) = (folder / "mlruns").glob(f"*/{run_id}/artifacts/code/own.py")
        assert code.read_text() == OWN.format(which=which)
    assert len(finished(folder)) == 2


@pytest.mark.slow
def test_a_worker_reads_a_checkpoint_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(
        base_models,
        "load_weights",
        lambda path, *to, **known: read.append(path.name) or load_weights(path, *to, **known),
    )
    monkeypatch.setattr(warm_worker, "changed_files", list)  # of other tests
    worker = WarmWorker(threads=1)
    line = "--unlearn default --epochs 1 --ideal skip --report skip --metrics forget_score"
    for request in (0, 3, 5):
        assert worker.do(run_job(f"{line} --class_to_replace {request}")).status == "finished"
    assert read == ["1mlp_ep1.safetensors"]
    worker.do(base_job("--epochs 1 --seed 2"))
    for seed in (1, 2):  # another model takes the place of the one that was read
        shutil.copy(folder / "results" / "digits" / f"{seed}mlp_ep1.safetensors", folder / "own.safetensors")
        for request in (0, 3):
            job = run_job(f"{line} --mask own.safetensors --class_to_replace {request}")
            assert worker.do(job).status != "failed"
        assert read.count("own.safetensors") == seed
    assert len(finished(folder)) == 5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("log", ["/dev/full", "grid.yml/log"])
def test_a_log_that_can_not_be_written_ends_no_job(pool, log):
    job = base_job("--epochs 1")
    assert [said.status for said in messages(pool(log), job)] == ["finished"]


@pytest.mark.slow
def test_a_worker_that_can_not_begin_says_why(pool, monkeypatch, folder):
    monkeypatch.setattr(local_pool, "get_context", multiprocessing.get_context)  # has not imported torch
    (folder / "torch.py").write_text("raise ImportError('no such\\nluck')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    assert list(messages(pool(), base_job(""))) == [Crashed("ImportError: no such luck")]


def test_failed_lines_are_run_again_from_their_file_and_none_is_lost(folder, monkeypatch):
    job, failed = "python -u mlflow_forget.py --unlearn", folder / "failed.txt"
    (folder / "params.txt").write_text(f"{job} SSD --ideal skip\n{job} default --ideal skip\n")

    def go_on(fails, *words, asked=lambda job: None):
        monkeypatch.setattr(grid_run, "pool_of", lambda *_: WorkerPool(fails, asked))
        return array_param_file.main(["run", *words])

    assert go_on("main_baseline.py") == 1
    assert [line.split()[2] for line in failed.read_text().splitlines() if line[0] != "#"] == [
        "main_baseline.py",
        *2 * ["mlflow_forget.py"],
    ]
    before = failed.read_text()
    assert (
        go_on(
            "SSD",
            "--params",
            "failed.txt",
            asked=lambda job: failed.read_text() == before or pytest.fail("lines are lost"),
        )
        == 1
    )
    assert failed.read_text() == f"# no luck\n{job} SSD --ideal skip\n"
    assert go_on("nothing", "--params", "failed.txt") == 0
    assert not failed.exists()


def test_an_installed_lethe_runs_its_failed_lines_again(folder, monkeypatch):
    """The base model's line is left out: the runs that need it train it."""
    monkeypatch.setattr(commands, "has_scripts", lambda: False)
    (folder / "params.txt").write_text("lethe forget --unlearn SSD --ideal skip\n")

    def go_on(fails, *words):
        monkeypatch.setattr(grid_run, "pool_of", lambda *_: WorkerPool(fails, lambda job: None))
        return array_param_file.main(["run", *words])

    assert go_on("main_baseline.py") == 1
    lines = (folder / "failed.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines if line[0] != "#"] == ["baseline", "forget"]
    assert go_on("nothing", "--params", "failed.txt") == 0


def test_failures_of_another_sweep_stay_in_their_file(folder, monkeypatch):
    job, failed = "python -u mlflow_forget.py --unlearn", folder / "failed.txt"
    other = f"# no\n# luck\n{job} SSD --seed 9\n"
    failed.write_text(f"{other}# nor this\n{job} SSD --ideal skip\n")
    (folder / "params.txt").write_text(f"{job} SSD --ideal skip\n{job} default --ideal skip\n")

    def go_on(fails, asked=lambda job: None):
        monkeypatch.setattr(grid_run, "pool_of", lambda *_: WorkerPool(fails, asked))
        return array_param_file.main(["run"])

    assert go_on("default") == 1
    assert failed.read_text() == f"{other}# no luck\n{job} default --ideal skip\n"
    assert go_on("nothing") == 0
    assert failed.read_text() == other
    (folder / "params.txt").write_text(f"{job} SSD --seed 9\n")
    assert go_on("nothing") == 0
    assert not failed.exists()


@pytest.fixture
def lines(folder):
    """What a filter leaves of params.txt, by its last words."""
    (folder / "params.txt").write_text(
        "# by hand\n\npython -u mlflow_forget.py --unlearn SSD --seed 1\n"
        "python -u mlflow_forget.py --unlearn SSD --seed 2 --dataset MNIST\n"
        "/usr/bin/python3.11 there/mlflow_forget.py --unlearn default --seed=2\n"
    )

    def left(*words):
        found = grid_run.runs_of(grid_run.flags().parse_args([]))
        return [" ".join(run.words) for run in grid_run.chosen(found, words)]

    return left


def test_a_filter_takes_lines_with_all_its_words(lines):
    assert len(lines()) == 3
    assert lines("ssd", "mnist") == ["--unlearn SSD --seed 2 --dataset MNIST"]
    assert lines("seed=2") == ["--unlearn SSD --seed 2 --dataset MNIST", "--unlearn default --seed=2"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--filter MNISTS", "--filter: no line has 'MNISTS'"),
        ("--filter MNIST,default", "--filter: no line has all of MNIST, default"),
        ("--workers 0", "--workers: expected an integer >= 1, got 0"),
        ("--workers 2 --gpus 0", "Leave out --workers"),
        ("--jobs_per_gpu 2", "expected --gpus with it"),
        ("--params none.txt", "there is no file none.txt. Make it: python array_param_file.py"),
        ("--params empty.txt", "empty.txt has none"),
        (
            "--params other.txt",
            "other.txt, line 2: expected 'python -u mlflow_forget.py --unlearn ...' and nothing before it, "
            "got 'echo'",
        ),
        ("--params wrong.txt", "wrong.txt, line 1: unknown method 'SSDD'"),
        ("--params config.txt", "config.txt, line 1: --config: expected the flags themselves"),
        ("--params two.txt", "two.txt, line 1: expected one run, got several values of one flag"),
        ("--params open.txt", "open.txt, line 1: No closing quotation"),
        (
            "--params before.txt",
            "before.txt, line 1: expected 'python -u mlflow_forget.py --unlearn ...' and nothing before it, "
            "got 'A=b p",
        ),
        (
            "--params folder.txt",
            "folder.txt, line 1: expected 'python -u mlflow_forget.py --unlearn ...' and nothing before it, "
            "got 'cd x;",
        ),
        ("--params help.txt", "help.txt, line 1: --help shows what there is"),
        ("--filter ,", "argument --filter: expected words separated by commas, got ','"),
        ("--gpus ,", "argument --gpus: expected words separated by commas, got ','"),
        (
            "--params two.txt --failed ./two.txt",
            "--failed: two.txt is the file of --params, which it would overwrite",
        ),
        (
            "--grid grid.yml --failed grid.yml",
            "--failed: grid.yml is the file of --grid, which it would overwrite",
        ),
        ("--params failed.txt --filter SSD", "--filter: failed.txt would lose the lines that are left out"),
        ("--failed .", "--failed: expected a file, and . is a folder"),
        ("--logs two.txt", "--logs: expected a folder, and two.txt is a file"),
        ("--grid none.yml", "there is no file none.yml"),
        ("--worker 2", "Did you mean '--workers'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_runs(lines, folder, capsys, words, says):
    job = "python -u mlflow_forget.py --unlearn"
    texts = {
        "empty": "#\n",
        "other": f"{job} SSD\necho\n",
        "wrong": f"{job} SSDD\n",
        "config": f"{job} SSD --config=a.yml\n",
        "two": f"{job} SSD --seed 1 2\n",
        "open": f"{job} 'SSD\n",
        "before": f"A=b {job} SSD\n",
        "folder": f"cd x; {job} SSD\n",
        "help": f"{job} SSD --help\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    before = sorted(folder.rglob("*"))
    assert array_param_file.main(["run", *words.split()]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def children_of(driver):
    """The workers' process ids: children of the driver that multiprocessing began, but for its tracker."""
    found = []
    for task in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((task / "stat").read_text().rpartition(")")[2].split()[1])
            words = (task / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == driver.pid and b"multiprocessing" in words and b"resource_tracker" not in words:
            found.append(int(task.name))
    return sorted(found)


def gone(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.slow
def test_ctrl_c_stops_cleanly(folder, made_store, begin):
    (folder / "slow.py").write_text(
        "import pathlib, time\nfrom lethe.unlearn import copy_of\n\n"
        "def slow(model, data, *, number: int = 0):\n"
        "    pathlib.Path('begun').touch()\n    time.sleep(600)\n    return copy_of(model)\n"
    )
    (folder / "grid.yml").write_text(
        "epochs: 1\nideal: skip\nmethods:\n  slow.py:slow: {number: [1, 2, 3]}\n"
    )
    driver = begin(command, "array_param_file", *GRID_RUN, "--workers", "1")  # whose worker is a new Python
    until((folder / "begun").exists)
    workers = children_of(driver)
    assert len(workers) == 1
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: the driver and its workers
    assert ended(driver) == 130
    out, err = Path("out").read_text(), Path("err").read_text()
    assert (
        out.splitlines()[-1]
        == "3 of 4 jobs are left. Go on:  python array_param_file.py run --grid grid.yml --workers 1"
    )
    assert "Traceback" not in err
    assert all(map(gone, workers))
    assert [status for _, status in runs(folder)] == ["KILLED"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.slow
def test_whoever_is_killed_every_job_has_one_finished_run(folder, begin):
    """kill -9 of a worker and the driver in turn, at random moments, KILLS times, then the command once more.

    `make torture` does it many times over, with processes that import all themselves.
    """
    sweep_of_two = [*GRID_RUN, "--workers", "2"]
    start = [new_python, "array_param_file.py"] if TORTURE else [sweep]
    pace = 1.0 if TORTURE else 0.15  # forks begin that much sooner
    jobs = 4 * KILLS
    kappas = ", ".join(f"{(number + 1) / 1000}" for number in range(jobs - 1))
    (folder / "grid.yml").write_text(FEW + GRID.format(ideal="train", kappas=kappas))
    seed = int(os.environ.get("LETHE_TORTURE_SEED", "0")) or random.randrange(10**6)
    print(f"LETHE_TORTURE_SEED={seed}")
    chance = random.Random(seed)
    killed = Counter()
    for number in range(KILLS):
        driver = begin(*start, *sweep_of_two)
        whom = ("worker", "driver")[number % 2]
        before = sum(finished(folder).values())
        if chance.random() < 0.3:  # while they start, train base models, make the store
            time.sleep(pace * chance.uniform(0.5, 15))
        else:
            wanted = before + chance.randrange(1, 4)
            while sum(finished(folder).values()) < wanted and driver.is_alive():
                time.sleep(0.01)
            time.sleep(pace * chance.uniform(0, 1))
        workers = children_of(driver)
        if whom == "worker" and workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            time.sleep(pace * chance.uniform(0, 3))
            workers = children_of(driver) or workers
        driver.kill()
        ended(driver)
        killed[whom] += 1
        if chance.random() < 0.5:
            until(lambda own=workers: all(map(gone, own)), 60)  # else the next begins while they are at it
    code = ended(begin(*start, *sweep_of_two), 600)
    out = Path("out").read_text()
    assert code == 0, out + Path("err").read_text()
    count = finished(folder)
    assert len(count) == jobs, (seed, killed)
    assert set(count.values()) == {1}, (seed, killed)
    assert not {status for _, status in runs(folder)} - {"FINISHED", "KILLED"}, (seed, killed)
    assert not without_metrics(folder), (seed, killed)
    made = [path.name for path in (folder / "results" / "digits").glob("*.safetensors")]
    assert sorted(made) == ["1mlp_ep1.safetensors", "1mlp_ep1_ideal_class0.safetensors"]
    assert re.search(rf"{jobs} runs: \d+ finished, \d+ were before, 0 failed", out)
    print(Counter(status for _, status in runs(folder)), dict(killed))
