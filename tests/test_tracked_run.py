"""A run ends as what happened, whenever a signal comes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from command_line import Terminated, heed_sigterm
from tests.own_store import there  # noqa: F401 (a fixture of every test here)
from tracking.run import tracked_run
from tracking.signals import signals_wait

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    heed_sigterm()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def with_signal(function, number):
    """The same function, during which a signal comes when it has done its work."""

    def signalled(*given, **more):
        result = function(*given, **more)
        signal.raise_signal(number)
        return result

    return signalled


def last_run():
    return mlflow.search_runs(search_all_experiments=True, output_format="list", order_by=["attributes.start_time DESC"])[0]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_while_a_run_is_begun_ends_it_as_killed(monkeypatch, number, error):
    name = f"begun {number}"
    monkeypatch.setattr(mlflow, "start_run", with_signal(mlflow.start_run, number))
    with pytest.raises(error), tracked_run("signals", name):
        pytest.fail("the run goes on")
    assert mlflow.active_run() is None
    run = last_run()
    assert (run.info.run_name, run.info.status) == (name, "KILLED")


def test_a_signal_while_a_run_is_ended_is_too_late_to_change_it(monkeypatch):
    monkeypatch.setattr(mlflow, "end_run", with_signal(mlflow.end_run, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), tracked_run("signals", "ended"):
        pass
    assert (last_run().info.run_name, last_run().info.status) == ("ended", "FINISHED")


def test_what_is_left_when_the_process_ends_is_killed_and_not_finished(folder):
    program = (
        "import sys, tracking.run as run\n"
        "def broken():\n    raise KeyboardInterrupt\n"
        "with run.tracked_run('signals', 'left'):\n    run.signals_wait = broken\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300)
    assert b"KeyboardInterrupt" in done.stderr
    assert (last_run().info.run_name, last_run().info.status) == ("left", "KILLED")


def test_a_signal_is_not_lost_where_something_fails_meanwhile():
    with pytest.raises(Terminated), signals_wait():
        signal.raise_signal(signal.SIGTERM)
        raise OSError("the server is gone")


def test_a_second_signal_does_not_wait():
    with pytest.raises(Terminated), signals_wait():
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
