"""What the machine could not give is one line and exit code 1; every other surprise keeps its traceback."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lethe import command_line
from lethe.system.machine_limits import MEMORY, limit_met

ROOT = Path(__file__).resolve().parent.parent


def ends(error: BaseException) -> int:
    @command_line.command
    def main(argv=None):
        raise error

    return main([])


def of_disk(number: int, path: str = "a.csv") -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), MEMORY),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to "
                "allocate 8 bytes"
            ),
            MEMORY,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), MEMORY),
        (SystemError("error return without exception set"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (
            RuntimeError("can't start new thread"),
            "no thread can be started. Raise the limits of memory and processes",
        ),
        (
            of_disk(errno.ENOSPC),
            "a.csv: no room is left on the disk. Make room, or work in another folder; what is complete is "
            "kept",
        ),
        (of_disk(errno.EDQUOT), "a.csv: the quota on the disk is used up"),
        (of_disk(errno.EFBIG), "a.csv: a file would be larger than is allowed (ulimit -f)"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room is left on the disk"),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "too many files are open. Raise the limit (ulimit -n)",
        ),
        (of_disk(errno.EIO), "[Errno 5] Input/output error: 'a.csv'"),
        (ConnectionError("the tracking store was lost"), "the tracking store was lost"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_the_machine_or_the_store_could_not_do_is_a_line(error, line, capsys):
    assert ends(error) == command_line.FAILED
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}") and err.count("\n") == 1


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error():
    """As `head -1`, which closes the pipe."""
    command = [sys.executable, str(ROOT / "mlflow_forget.py"), "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert (process.wait(60), process.stderr.read() if process.stderr else b"") == (
            command_line.BROKEN_PIPE,
            b"",
        )


def test_the_reason_may_lie_deeper():
    error = RuntimeError("could not save")
    error.__cause__ = of_disk(errno.ENOSPC)
    assert limit_met(error) is not None
    error = RuntimeError("of its own")
    error.__context__, error.__suppress_context__ = of_disk(errno.ENOSPC), True
    assert limit_met(error) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the weights fell out"),
        ImportError("no module named mine"),
        KeyError("x"),
        TypeError("y"),
    ],
)
def test_every_other_surprise_is_raised(error):
    with pytest.raises(type(error)):
        ends(error)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGQUIT"])
def test_a_signal_is_a_line_and_its_number(name, capsys):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # nohup may have left it ignored

    @command_line.command
    def main(argv=None):
        signal.raise_signal(number)
        return 0

    try:
        assert main([]) == 128 + number
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == ("terminated\n" if name == "SIGTERM" else f"ended by {name}\n")
