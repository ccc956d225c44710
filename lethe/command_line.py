"""What every script has: a parser, and errors and signals as one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from lethe.checkout import Moved
from lethe.flag_error import FlagError
from lethe.system import needed_platform  # noqa: F401  # before anything asks for what Windows has not
from lethe.system.garbage_collection import rare_collections
from lethe.system.machine_limits import limit_met
from lethe.system.process_ended import ProcessEnded
from lethe.system.progress_place import progress_bar as progress_bar
from lethe.termination import Terminated, heed_signals
from lethe.tracking.shown_uri import without_password

if TYPE_CHECKING:
    from lethe.registry import Entry

STARTED = time.perf_counter()

# Threads that spin for microseconds before they sleep: processes on the same cores would otherwise stop each
# other, and waking a thread takes longer than many a product. Torch reads this when it loads; GNU's OpenMP
# counts turns, the others know the policy alone.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

FAILED, MISTAKE, INTERRUPTED, BY_SIGNAL = 1, 2, 130, 128  # BY_SIGNAL: plus the signal's number, as in a shell
BROKEN_PIPE = BY_SIGNAL + 13  # as a shell reports SIGPIPE
FIRST, MORE = "used first", "more"  # titles of groups of flags, in --help
ENDED_WITHIN = 10.0  # seconds in which torchrun ends the other processes where one has failed


class OneLineParser(argparse.ArgumentParser):
    """argparse with one-line errors, without abbreviated flags; --some-flag means --some_flag.

    first: the flags that --help shows first, without their dashes.
    """

    def __init__(self, description: str, epilog: str = "", add_help: bool = True) -> None:
        super().__init__(
            usage="%(prog)s [flags]",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=add_help,
            exit_on_error=False,
        )
        self.first: tuple[str, ...] = ()

    def format_help(self) -> str:
        """Return the help: the flags in `first` in that order, then the groups, those named "more" last."""
        first = sorted(
            (action for action in self._actions if action.dest in self.first),
            key=lambda action: self.first.index(action.dest),
        )
        rest = sorted(self._action_groups, key=lambda group: _place_of(str(group.title)))
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, actions in (FIRST, first), *((group.title, group._group_actions) for group in rest):
            formatter.start_section(title)
            formatter.add_arguments(action for action in actions if title == FIRST or action not in first)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. See --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        words = [_in_home(_with_underscores(arg)) for arg in args]
        try:
            return super().parse_known_args(words, namespace)
        except argparse.ArgumentError as error:
            flag = str(error.argument_name).partition("/")[0].removeprefix("--")  # of --mask/--checkpoint
            raise FlagError(flag, f"{error}. See --help", named=False) from error


def _place_of(title: str) -> int:
    """Return 0 for the flags of a method that was asked for, 2 for those that few need, 1 for others."""
    return 0 if title.startswith("method ") else 2 if title.startswith(MORE) else 1


def _with_underscores(argument: str) -> str:
    flag = re.match(r"--[A-Za-z][\w-]*", argument)
    return argument if flag is None else "--" + flag[0][2:].replace("-", "_") + argument[flag.end() :]


def _in_home(argument: str) -> str:
    """Expand ~ where no shell does: after a flag's equals sign, in a config, in a grid."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return flag + equals + str(Path(value).expanduser()) if value.startswith("~") else argument


class Main(Protocol):
    """The main function of a script: from the command line (default: the process's own) to the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(main: Main) -> Main:
    """Decorator of a script's main: print errors as one line on stderr, and return an exit code.

    2 for a mistake of the user; 1 for divergence and for a limit of the machine or the store; 130 for Ctrl-C;
    128 + number for another signal. Other exceptions, perhaps of a user's own method, keep their traceback.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        with contextlib.suppress(ValueError):  # outside of the main thread, signals are the caller's
            heed_signals()
        _print_anything()
        warnings.showwarning = _print_warning
        sys.excepthook = _print_traceback
        try:
            with rare_collections():
                code = main(argv)
            print(end="", flush=True)  # a failure to write raises here, and not when the interpreter ends
            return code
        except BrokenPipeError:  # the reader, as `head`, closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return BROKEN_PIPE
        except Exception as error:
            line, code = _line_and_code(error)
            if line is None:
                raise
            _print_error(line, _seconds_before_others(error))
            return code
        except KeyboardInterrupt as error:
            return _interrupted(error)

    return run


def _line_and_code(error: Exception) -> tuple[str | None, int]:
    """Return the message of an error and its exit code; no message for one that needs its traceback."""
    if isinstance(error, FloatingPointError):  # diverged
        return str(error), FAILED
    if isinstance(error, ValueError | FileNotFoundError | Moved):
        return str(error), MISTAKE
    limit = None
    if isinstance(error, RuntimeError | MemoryError | ImportError | SystemError | OSError):
        limit = limit_met(error)
    if limit is None and isinstance(error, OSError):
        limit = str(error)
    return limit, FAILED


def _interrupted(error: KeyboardInterrupt) -> int:
    said, code = "interrupted", INTERRUPTED
    if isinstance(error, Terminated):
        name = signal.Signals(error.number).name
        said = "terminated" if name == "SIGTERM" else f"ended by {name}"
        code = BY_SIGNAL + error.number
    if _rank() == "0":  # a signal ends all processes of a torchrun
        _print_last(said)
    return code


def _print_last(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone, or the disk is full
        print(text, file=sys.stderr)


def _print_anything() -> None:
    """Let a console print the escape of a character that it lacks (\\xb1 for ±) instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if _rank() == "0":
        print(f"warning: {_in_one_line(str(message))}", file=sys.stderr)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unforeseen exception as Python does, but without passwords."""
    print(without_password("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def _seconds_before_others(error: Exception) -> float:
    """Return the seconds in which another process of a torchrun says what this one would say.

    They mostly make the same mistake, and the first one prints it. Where one has ended alone, it knows why.
    """
    if isinstance(error, ProcessEnded):
        return 2 * ENDED_WITHIN
    return ENDED_WITHIN if _rank() != "0" else 0.0


def _print_error(message: str, wait: float) -> None:
    """Print an error as one line on stderr, after `wait` seconds, unless torchrun ends this process first."""
    line = f"error: {_in_one_line(message)}"
    if _rank() != "0":
        line = f"process {os.environ.get('RANK', _rank())}: {line}"
    try:
        time.sleep(wait)
    except KeyboardInterrupt:
        return
    _print_last(line)


def _rank() -> str:
    """Return the number of this process among those that torchrun has started on this machine."""
    return os.environ.get("LOCAL_RANK", "0")


def _in_one_line(text: str) -> str:
    return without_password(" ".join(text.split()))


def first_pass(argv: Sequence[str] | None, flags: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the values of flags that decide which other flags there are, and ignore everything else."""
    parser = OneLineParser("", add_help=False)
    for flag, default in flags.items():
        parser.add_argument(f"--{flag}", default=default)
    return vars(parser.parse_known_args(argv)[0])


def words_on(argv: Sequence[str] | None, flags: Iterable[str]) -> dict[str, list[str]]:
    """Return the words of those of these flags that the command line has, and ignore everything else."""
    parser = OneLineParser("", add_help=False)
    for flag in flags:
        parser.add_argument(f"--{flag}", nargs="*")
    given = vars(parser.parse_known_args(argv)[0])
    return {flag: words for flag, words in given.items() if words is not None}


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, entry: Entry[Any] | None = None
) -> argparse.Namespace:
    """Return the flags' values. A flag of an entry that is not chosen, such as an add-on, may be `none`.

    Raises ValueError for an unknown flag, with the nearest match and the entry's flags.
    """
    from lethe.nearest_name import did_you_mean

    options, unknown = parser.parse_known_args(argv)
    known = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    for flag, *values in _by_flag(unknown):
        own, plural, elsewhere = None, "flags", ""
        if entry is not None:
            own = [f"--{each}" for each in entry.hyperparameters]
            plural = f"flags of {entry.name} itself (--help shows all flags)"
            elsewhere = entry.not_chosen(flag.removeprefix("--"))
        if elsewhere and {value.casefold() for value in values} == {"none"}:  # as good as not given
            continue
        message = elsewhere or did_you_mean("flag", flag, known, plural, own)
        raise FlagError(flag.removeprefix("--"), message, named=False)
    return options


def _by_flag(words: Sequence[str]) -> list[list[str]]:
    """Return each flag with the words after it; last, the first word that no flag is before."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-"):
            groups.append(word.split("=", 1))
        else:
            groups[-1].append(word)
    return [group for group in (*groups[1:], groups[0][:1]) if group]
