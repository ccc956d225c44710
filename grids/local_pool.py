"""Workers on this machine: a process each, which lives for the whole queue."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import termination
from grids.job_queue import Crashed, Finished, Job, Message
from tracking.folder_process import processor_count

GRACE_SECONDS = 20  # for a run that is broken off to end as KILLED


@dataclass(frozen=True)
class Place:
    """Where a worker works: its log, the threads that torch gets, the GPU that it sees (None: what the
    machine has).
    """

    log: Path
    threads: int
    gpu: str | None = None


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    busy: bool = False


class LocalPool:
    """A process for each place. `known`: jobs that are finished."""

    fate_of_runs = "the runs that are going on end as KILLED"

    def __init__(self, places: Sequence[Place], known: Collection[tuple[str, str]] = ()) -> None:
        self.places = places
        self.size = len(places)
        self.known = known
        self._workers: dict[int, _Worker] = {}

    def ready(self) -> range:
        return range(self.size)

    def give(self, worker: int, job: Job) -> None:
        own = self._workers.get(worker)
        if own is None or not own.process.is_alive():
            if own is not None:
                own.pipe.close()
            own = self._workers[worker] = self._start(worker)
        own.busy = True
        with contextlib.suppress(OSError):  # dead already: wait() will see it
            own.pipe.send(job.words)

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        busy = {worker: own for worker, own in self._workers.items() if own.busy}
        connection.wait(
            [thing for own in busy.values() for thing in (own.pipe, own.process.sentinel)], timeout=seconds
        )
        said = [(worker, self._said(own)) for worker, own in busy.items()]
        return [(worker, word) for worker, word in said if word is not None]

    def stop(self) -> None:
        for own in self._workers.values():
            if own.busy:
                own.process.terminate()
            own.pipe.close()  # which ends the one that has no job
        deadline = time.monotonic() + GRACE_SECONDS
        for own in self._workers.values():
            own.process.join(max(0.0, deadline - time.monotonic()))
            if own.process.is_alive():
                own.process.kill()
                own.process.join()
        self._workers.clear()

    def _start(self, worker: int) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, self.places[worker], frozenset(self.known)))
        with _without_interrupts():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _said(self, own: _Worker) -> Message | None:
        """The outcome of its job, that it is dead or has left, or None while it works."""
        try:
            if own.pipe.poll():
                word: Message = own.pipe.recv()
                own.busy = False
                if isinstance(word, Crashed | Finished):
                    own.process.join(GRACE_SECONDS)
                return word
        except (EOFError, OSError):  # its end is closed, perhaps in the middle of a word
            own.process.join(GRACE_SECONDS)
        if own.process.is_alive():
            return None
        own.busy = False
        code = own.process.exitcode or 0
        return Crashed(signal.Signals(-code).name if code < 0 else f"exit code {code}")


def places(workers: int, gpus: Sequence[str], logs: Path) -> list[Place]:
    """As many places, with the cores divided among them, and the GPUs in turn. OMP_NUM_THREADS, where it is
    set, counts instead.
    """
    threads = threads_asked() or max(1, processor_count() // workers)
    return [
        Place(logs / f"worker{n + 1}.log", threads, gpus[n % len(gpus)] if gpus else None)
        for n in range(workers)
    ]


def threads_asked() -> int | None:
    """OMP_NUM_THREADS, of a list (4,2: threads within threads) the first; None where it is not set.
    ValueError for what is no number.
    """
    said = os.environ.get("OMP_NUM_THREADS")
    if not said:
        return None
    first = said.split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise ValueError(f"OMP_NUM_THREADS: expected an integer >= 1, got {said!r}. Correct or unset it")
    return int(first)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A Ctrl-C, which the terminal sends to every process, is for the one that asks the others to stop: what
    starts here never sees it.
    """
    resource_tracker.ensure_running()  # which lets signals through again, were it begun below
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def work(pipe: Connection, place: Place, known: Collection[tuple[str, str]]) -> None:
    """What a worker's process does: jobs, until there are no more, or nobody who gives them. SIGTERM ends its
    run as KILLED.
    """
    termination.heed_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if place.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu
    os.environ["OMP_NUM_THREADS"] = str(place.threads)
    write_to(place.log)
    try:
        from grids.warm_worker import (
            WarmWorker,
        )  # not before: torch looks at the environment when it is imported

        worker = WarmWorker(place.threads, known)
        word: Message | None = None
        while not isinstance(word, Finished) and (words := _next_job(pipe)) is not None:
            print(f"\n{' '.join(words)}", flush=True)
            word = worker.do(words)
            print(word, flush=True)
            _say(pipe, word)
    except KeyboardInterrupt:
        _say(pipe, Crashed("SIGTERM"))
    except BaseException as error:
        _say(pipe, Crashed(f"{type(error).__name__}: {' '.join(str(error).split())}"))
        raise


def _next_job(pipe: Connection) -> tuple[str, ...] | None:
    """The words of the next job; None where there are no more, or nobody who gives them."""
    try:
        words: tuple[str, ...] = pipe.recv()
        return words
    except (EOFError, OSError):
        return None


def _say(pipe: Connection, word: Message) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        pipe.send(word)


def _end_with_the_parent() -> None:
    """A worker whose queue was killed would go on alone."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)


def write_to(log: Path) -> None:
    """What the jobs print and warn of goes to the log, whoever prints it; a log that can't be written is a
    warning and ends nothing.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        print(
            f"warning: {log} can't be written ({error.strerror}): what a worker prints is lost",
            file=sys.stderr,
        )
        file = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    sys.stdout, sys.stderr = (_text_to(stream) for stream in (1, 2))


def _text_to(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Unfailing(descriptor)),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


class _Unfailing(io.RawIOBase):
    """A file descriptor to write to. What can't be written, as the disk is full, is lost, and no reason to
    end a job.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def write(self, content: Any, /) -> int:
        left = memoryview(content).cast("B")
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self.descriptor, left) :]
        return len(content)
