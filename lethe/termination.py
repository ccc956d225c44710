"""Signals that end a process raise Terminated, which ends a run as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from types import FrameType
from typing import NoReturn

from lethe.tracking.signals import ENDING


class Terminated(KeyboardInterrupt):
    """Raised by a signal that ends the process."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def heed_signals() -> None:
    """Let the signals that end a process raise Terminated, except ignored ones (SIGHUP after nohup).

    Raises ValueError outside of the main thread.
    """
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    sys.unraisablehook = _raise_again


def _raise_again(dropped: sys.UnraisableHookArgs) -> None:
    """Raise a moment later what Python drops: exceptions in destructors and weak references' callbacks."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    again = dropped.exc_value

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        raise again

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    # These repeat: SIGXCPU each second, SIGHUP from the kernel and from the shell.
    if number != signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)
    if signal.Signals(number).name == "SIGHUP":
        _leave_terminal()
    raise Terminated(number)


def _leave_terminal() -> None:
    """Redirect output to a closed terminal to /dev/null: writing there would raise while the run ends."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
