"""Systems and consoles other than a Linux in UTF-8: it works, or one line says why not."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lethe import command_line
from lethe.system.device import check_device_name, device_named
from lethe.system.needed_platform import check_platform

ROOT = Path(__file__).resolve().parent.parent
WINDOWS = """
import os, runpy, signal, sys
for name in ("getuid", "O_DIRECTORY", "O_NONBLOCK"):
    delattr(os, name)
for name in ("SIGALRM", "setitimer", "ITIMER_REAL", "pthread_sigmask"):
    delattr(signal, name)
sys.path.insert(0, os.path.dirname(sys.argv[1]))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@contextlib.contextmanager
def ascii_console(monkeypatch):
    """What is printed, as bytes."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    out, err = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(stream, encoding="ascii", write_through=True) for stream in (out, err)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield out, err


@pytest.mark.parametrize(
    "script",
    [
        "mlflow_forget.py",
        "main_baseline.py",
        "array_param_file.py",
        "mlruns_parser.py",
        "compare.py",
        "audit.py",
    ],
)
def test_windows_is_refused_in_one_line(script):
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, str(ROOT / script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert (
        "expected Linux or macOS" in done.stderr and "signal.SIGALRM" in done.stderr and "WSL" in done.stderr
    )


def test_a_python_that_has_what_is_needed_is_taken():
    check_platform()


@pytest.mark.parametrize(("module", "name"), [(os, "getuid"), (signal, "setitimer")])
def test_what_is_lacking_is_named(module, name, monkeypatch, capsys):
    monkeypatch.delattr(module, name)
    with pytest.raises(SystemExit, match="2"):
        check_platform()
    assert f"has no {module.__name__}.{name}. " in capsys.readouterr().err


def test_a_device_without_float64_is_refused(monkeypatch):
    def no_double(_):
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
        )

    monkeypatch.setattr(torch.Tensor, "double", no_double)
    with pytest.raises(ValueError, match="--device: expected a device with float64, .*, got 'cpu'. Use cpu"):
        device_named("cpu")


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:1", "xpu"])
def test_a_device_of_another_machine_is_known_by_name(name):
    check_device_name(name)


@pytest.mark.parametrize("name", ["cuda:first", "gpu", "meta", "mps"])
def test_a_device_of_no_machine_is_refused(name):
    reason = f"--device: expected auto, cpu, cuda or another device of torch with float64, got '{name}'"
    with pytest.raises(ValueError, match=f"{reason}. Use auto"):
        check_device_name(name)


def test_one_module_asks_what_an_accelerator_is():
    kinds = re.compile(r"torch\.(cuda|mps|xpu)\b|\bis_(cuda|mps|xpu)\b|[\"'](cuda|mps|xpu)[\"':]")
    folders = (ROOT / name for name in ("lethe", "unlearn", "models", "evaluation"))
    modules = {path for folder in folders for path in folder.rglob("*.py")}
    asking = [path for path in modules if kinds.search(path.read_text(encoding="utf-8"))]
    assert asking == [ROOT / "lethe" / "system" / "device.py"]


def test_a_console_shows_a_sign_that_it_lacks_as_its_code(monkeypatch):
    @command_line.command
    def main(argv=None):
        print("1 ± 2 für 遗忘")
        raise ValueError("expected ±")

    with ascii_console(monkeypatch) as (out, err):
        assert main([]) == command_line.MISTAKE
        assert out.getvalue() == b"1 \\xb1 2 f\\xfcr \\u9057\\u5fd8\n"
        assert err.getvalue() == b"error: expected \\xb1\n"


def test_a_traceback_has_no_password(capsys):
    try:
        raise RuntimeError("no answer from http://me:secret@server:5000")
    except RuntimeError as error:
        command_line._print_traceback(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith(
        "RuntimeError: no answer from http://***@server:5000\n"
    )
