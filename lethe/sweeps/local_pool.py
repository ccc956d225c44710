"""Workers on this machine: one process each, which lives for the whole queue."""

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

from lethe.sweeps.job_queue import Crashed, Finished, Job, Message
from lethe.system.threads import processor_count, take_share, threads_asked
from lethe.termination import heed_signals

GRACE_SECONDS = 20  # for a run to end as KILLED


@dataclass(frozen=True)
class Place:
    """The log, the cores and the GPU of a worker. `gpu`: None shows it all GPUs.

    asked: the user has set that torch computes with so many threads; else they are the most.
    """

    log: Path
    threads: int
    gpu: str | None = None
    asked: bool = False


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    busy: bool = False


class LocalPool:
    """A process for each place. `known`: the (experiment, config_hash) of finished runs."""

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
        with contextlib.suppress(OSError):  # it has died: wait() returns Crashed
            own.pipe.send(job)

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        busy = {worker: own for worker, own in self._workers.items() if own.busy}
        events = [event for own in busy.values() for event in (own.pipe, own.process.sentinel)]
        connection.wait(events, timeout=seconds)
        messages = [(worker, self._message(own)) for worker, own in busy.items()]
        return [(worker, message) for worker, message in messages if message is not None]

    def stop(self) -> None:
        for own in self._workers.values():
            if own.busy:
                own.process.terminate()
            own.pipe.close()  # ends a worker that has no job
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

    def _message(self, own: _Worker) -> Message | None:
        """Return the worker's message about its job, Crashed if it has died, or None while it works."""
        try:
            if own.pipe.poll():
                message: Message = own.pipe.recv()
                own.busy = False
                if isinstance(message, Crashed | Finished):
                    own.process.join(GRACE_SECONDS)
                return message
        except (EOFError, OSError):  # the worker's end was closed, perhaps in the middle of a message
            own.process.join(GRACE_SECONDS)
        if own.process.is_alive():
            return None
        own.busy = False
        code = own.process.exitcode or 0
        return Crashed(signal.Signals(-code).name if code < 0 else f"exit code {code}")


def places(workers: int, gpus: Sequence[str], logs: Path) -> list[Place]:
    """Return a place for each worker: an equal part of the cores, and a GPU in turn.

    OMP_NUM_THREADS, if set, is the number of threads instead.
    """
    asked = threads_asked()
    threads = asked or max(1, processor_count() // workers)
    return [
        Place(
            logs / f"worker{number + 1}.log",
            threads,
            gpus[number % len(gpus)] if gpus else None,
            asked=asked is not None,
        )
        for number in range(workers)
    ]


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all: the parent stops them itself."""
    resource_tracker.ensure_running()  # starting it below would unblock the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def work(pipe: Connection, place: Place, known: Collection[tuple[str, str]]) -> None:
    """Run the jobs from the pipe, in a worker's process, until it is closed. SIGTERM ends a run as KILLED."""
    heed_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if place.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu
    os.environ["OMP_NUM_THREADS"] = str(place.threads)
    if not place.asked:
        take_share(place.threads)
    write_to(place.log)
    try:
        # torch reads the environment when it is imported, so this import comes after the settings above.
        from lethe.sweeps.warm_worker import WarmWorker

        worker = WarmWorker(place.threads, known)
        message: Message | None = None
        while not isinstance(message, Finished) and (job := _next_job(pipe)) is not None:
            message = worker.do(job)
            _send(pipe, message)
    except KeyboardInterrupt:
        _send(pipe, Crashed("SIGTERM"))
    except BaseException as error:
        _send(pipe, Crashed(f"{type(error).__name__}: {' '.join(str(error).split())}"))
        raise


def _next_job(pipe: Connection) -> Job | None:
    """Return the next job, or None if the parent has closed the pipe or is gone."""
    try:
        job: Job = pipe.recv()
        return job
    except (EOFError, OSError):
        return None


def _send(pipe: Connection, message: Message) -> None:
    with contextlib.suppress(OSError):  # the parent is gone
        pipe.send(message)


def _end_with_the_parent() -> None:
    """End this process when its parent was killed; it would go on alone."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)


def write_to(log: Path) -> None:
    """Write all output of this process, of C libraries too, to a log; if that fails, warn and drop it."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        reason = f"{log} can't be written ({error.strerror})"
        print(f"warning: {reason}: what a worker prints is lost", file=sys.stderr)
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
    """A file descriptor to write to. Drops what can't be written, as on a full disk, so that no job ends."""

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
