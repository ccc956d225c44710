"""Processes that begin with the imports done, which take five seconds: forks of a server that has run
nothing. Tests that aren't about imports start theirs so.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from lethe.sweeps import local_pool

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
IMPORTS = """
    torch torch._dynamo sklearn.datasets sklearn.linear_model sklearn.metrics sklearn.model_selection
    sklearn.svm
    pyarrow.parquet git IPython.display mlflow.data mlflow.store.tracking.sqlalchemy_store
    array_param_file main_baseline mlflow_forget lethe.sweeps.warm_worker
"""  # of a run, the moment it comes to them


@pytest.fixture(name="warm", scope="session")
def fixture_warm():
    """The context of such processes. Their environment is that of this moment."""
    CONTEXT.set_forkserver_preload(IMPORTS.split())
    # The server finds modules from the folder that it is started in.
    with contextlib.chdir(ROOT), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        forkserver.ensure_running()
    return CONTEXT


@pytest.fixture(name="warm_workers")
def fixture_warm_workers(warm, monkeypatch):
    """The workers of a sweep are such processes."""
    monkeypatch.setattr(local_pool, "get_context", lambda method: warm)


@pytest.fixture(name="begin")
def fixture_begin(warm):
    """Begin a process that calls a function, in this folder and environment, with the default Ctrl-C. What
    the function returns is the exit code. The process is the first of a session.
    """
    yield from begun(warm)


@pytest.fixture(name="begin_in_module", scope="module")
def fixture_begin_in_module(warm):
    """The same for a fixture of a module."""
    yield from begun(warm)


def begun(warm):
    processes = []

    def begin(function, *given, folder=None):
        place = Path(folder or Path.cwd())
        processes.append(warm.Process(target=_call, args=(place, dict(os.environ), function, given)))
        processes[-1].start()
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.join()


def _call(folder, environment, function, given):
    """Call a function whose output goes to the files `out` and `err` of its folder."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    sys.exit(function(*given))


def command(script, *words):
    """What a script of the root does."""
    return importlib.import_module(script).main(words)


def sweep(*words):
    """`array_param_file.py`, whose workers are forks of its process."""
    local_pool.get_context = lambda method: multiprocessing.get_context("fork")
    return command("array_param_file", *words)


def new_python(*words):
    """The program of the root in a process that has imported nothing."""
    os.execv(sys.executable, [sys.executable, str(ROOT / words[0]), *words[1:]])


def ended(process, seconds=120.0):
    """Wait for the end of a process, and return its exit code."""
    process.join(seconds)
    assert process.exitcode is not None, f"it goes on after {seconds} seconds"
    return process.exitcode


def until(holds, seconds=300.0):
    """Wait until a function returns something true."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)
