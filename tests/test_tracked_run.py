"""A run ends as what happened, whenever a signal comes."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from lethe.termination import Terminated, heed_signals
from lethe.tracking.run import tracked_run
from lethe.tracking.signals import ENDING, WAITING, signals_wait
from tests.own_store import there  # noqa: F401 (a fixture of every test here)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = {number: signal.getsignal(number) for number in WAITING}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    for number in ENDING:  # and nohup's ignores SIGHUP
        signal.signal(number, signal.SIG_DFL)
    heed_signals()
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
    return mlflow.search_runs(
        search_all_experiments=True, output_format="list", order_by=["attributes.start_time DESC"]
    )[0]


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), *((number, Terminated) for number in ENDING)]
)
def test_a_signal_while_a_run_is_begun_ends_it_as_killed(monkeypatch, number, error):
    name = f"begun {number}"
    monkeypatch.setattr(
        mlflow.MlflowClient, "create_run", with_signal(mlflow.MlflowClient.create_run, number)
    )
    with pytest.raises(error), tracked_run("signals", name):
        pytest.fail("the run goes on")
    run = last_run()
    assert (run.info.run_name, run.info.status) == (name, "KILLED")


def test_a_signal_while_a_run_is_ended_is_too_late_to_change_it(monkeypatch):
    monkeypatch.setattr(
        mlflow.MlflowClient, "set_terminated", with_signal(mlflow.MlflowClient.set_terminated, signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt), tracked_run("signals", "ended"):
        pass
    assert (last_run().info.run_name, last_run().info.status) == ("ended", "FINISHED")


def test_the_address_of_a_clone_is_logged_without_its_token():
    with tracked_run(
        "signals", "clone", tags={"mlflow.source.git.repoURL": "https://me:secret@host/lethe.git"}
    ):
        pass
    assert last_run().data.tags["mlflow.source.git.repoURL"] == "https://***@host/lethe.git"


def test_an_error_is_logged_without_a_password():
    with pytest.raises(RuntimeError), tracked_run("signals", "error"):
        raise RuntimeError("no answer from http://me:secret@server")
    run = last_run()
    assert run.data.tags["error"] == "RuntimeError: no answer from http://***@server"
    assert "secret" not in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/error.txt")


@pytest.mark.slow
def test_what_is_left_when_the_process_ends_is_killed_and_not_finished(folder):
    program = (
        "import lethe.tracking.run as run\n"
        "def broken(*_):\n    raise KeyboardInterrupt\n"
        "with run.tracked_run('signals', 'left'):\n    run._end = broken\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert b"KeyboardInterrupt" in done.stderr
    assert (last_run().info.run_name, last_run().info.status) == ("left", "KILLED")


def test_a_signal_is_not_lost_where_something_fails_meanwhile():
    with pytest.raises(Terminated), signals_wait():
        signal.raise_signal(signal.SIGTERM)
        raise OSError("the server is gone")


def test_a_persons_second_signal_does_not_wait():
    with pytest.raises(Terminated), signals_wait():
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it waits")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_what_comes_twice_by_itself_breaks_nothing_off(number):
    """A terminal's end comes from the kernel and from the shell, a limit of processor time is told each
    second.
    """
    done = []
    with pytest.raises(Terminated), signals_wait():
        signal.raise_signal(number)
        signal.raise_signal(number)
        done.append("ended")
    assert done == ["ended"]
    signal.raise_signal(number)  # while the process leaves


def test_a_signal_that_is_ignored_stays_ignored():
    """As SIGHUP is for what nohup starts."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    heed_signals()
    signal.raise_signal(signal.SIGHUP)


IN_A_TERMINAL = """
import fcntl, signal, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its own from now on, whose end it is told of
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may have been started by nohup
from lethe import command_line
from lethe.tracking.run import tracked_run

@command_line.command
def main(argv=None):
    with tracked_run("signals", "terminal"):
        for second in command_line.progress_bar(range(600), "waiting"):
            print(second, flush=True)
            time.sleep(0.1)

raise SystemExit(main([]))
"""


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_its_run_as_killed():
    """What the process writes then is an error, of a bar or of a line."""
    terminal, its_end = pty.openpty()
    streams = {"stdin": its_end, "stdout": its_end, "stderr": its_end}
    command, environment = [sys.executable, "-c", IN_A_TERMINAL], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, start_new_session=True, **streams) as process:
        os.close(its_end)
        while b"30" not in os.read(terminal, 1000):  # after the three seconds in which the bar has appeared
            continue
        os.close(terminal)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert (last_run().info.run_name, last_run().info.status) == ("terminal", "KILLED")


def test_a_clock_that_is_turned_back_makes_no_negative_duration(monkeypatch):
    """And the value that is logged last is the one that is shown."""
    now = [2_000_000_000.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now[0])
        with tracked_run("clock", "back") as run:
            now[0] = 1_000_000_000.0
            run.points({1: {"score": 9.0}})
            run.metrics({"score": 2.0}, step=1)
    logged = mlflow.MlflowClient().get_run(run.run_id)
    assert 2_000_000_000_000 <= logged.info.start_time <= logged.info.end_time < 2_000_000_060_000
    assert logged.data.metrics == {"score": 2.0}


def test_a_run_is_its_own_whatever_the_environment_would_continue(monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with tracked_run("environment", "own") as run:
        pass
    assert run.run_id != "0" * 32
    assert mlflow.MlflowClient().get_run(run.run_id).info.status == "FINISHED"


def test_children_know_their_parent():
    with tracked_run("family", "parent") as parent, tracked_run("family", "child", nested=True) as child:
        pass
    tags = {run: mlflow.MlflowClient().get_run(run.run_id).data.tags for run in (parent, child)}
    assert tags[child]["mlflow.parentRunId"] == parent.run_id
    assert "mlflow.parentRunId" not in tags[parent]


def test_a_run_has_mlflows_own_tags():
    with tracked_run("tags", "named", tags={"own": "1"}) as run:
        pass
    tags = mlflow.MlflowClient().get_run(run.run_id).data.tags
    assert {"mlflow.user", "mlflow.source.name", "mlflow.runName", "own", "owner"} <= set(tags)
