"""Read run folders by several processes, as opening dozens of tiny files per run takes processor time.

Each process gets its share of the folders at its start and writes batches into a pipe. The pipes are read in
turn, which keeps the order. A full pipe blocks its process, which bounds the memory.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from lethe.system.threads import processor_count
from lethe.tracking.run_folder import Found, Place, read_places
from lethe.tracking.selection import Selection

WORTH_A_PROCESS = 1000  # folders: with fewer, a process takes longer to start than it saves
AT_MOST = 8  # processes: the one that writes the table is no faster
BATCH = 50  # folders

ROOT = Path(__file__).resolve().parents[2]  # the folder that `lethe` is in


def found_in(places: Sequence[Place], selection: Selection, processes: int | None = None) -> Iterator[Found]:
    """Yield the results of `read_places` in order, read by several processes.

    processes: by default, their number depends on the work and the processors.
    Raises OSError if a process dies.
    """
    number = processes
    if number is None:
        number = min(processor_count(), AT_MOST, len(places) // WORTH_A_PROCESS)
    if number < 2:
        yield from read_places(places, selection)
        return
    batches = [places[start : start + BATCH] for start in range(0, len(places), BATCH)]
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(reader(batches[share::number], selection)) for share in range(number)]
        for batch in range(len(batches)):
            try:
                yield from pickle.load(pipes[batch % number])  # of our own process
            except (EOFError, pickle.UnpicklingError):
                message = (
                    "a process that reads run folders ended too early: was it killed, or is memory short?"
                )
                raise OSError(f"{message} Start again") from None


@contextlib.contextmanager
def reader(batches: Sequence[Sequence[Place]], selection: Selection) -> Iterator[IO[bytes]]:
    """Yield the pipe from a process that reads these batches.

    multiprocessing would run the caller's script once more.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "lethe.tracking.folder_process"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise OSError("expected pipes to a process, got none")
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as request:  # see the output's end
                pickle.dump((batches, selection), request)
            yield process.stdout
        finally:
            process.kill()  # it has nothing to lose


def main() -> None:
    """Read batches and selection from stdin, and write the results to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller too, which ends this process
    batches, selection = pickle.load(sys.stdin.buffer)  # of our own caller
    with contextlib.suppress(BrokenPipeError):
        for batch in batches:
            pickle.dump(list(read_places(batch, selection)), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
