"""A queue of jobs and those who work it off, one job after another each; who dies over a job is replaced, and
the job given again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

DEATHS = 3  # a job that so many workers died over is what kills them

Status = Literal["finished", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `skipped` was finished before. `error` is a line, "" if there is none; seconds of
    the worker's time.
    """

    status: Status
    error: str = ""
    seconds: float = 0.0
    warnings: int = 0


@dataclass(frozen=True)
class Crashed:
    """A worker ended without saying what became of its job; how it ended, in words."""

    how: str


@dataclass(frozen=True)
class Finished:
    """A worker ended before it began with its job, which needs a fresh one: code that it has loaded is
    another by now.
    """


Message = Outcome | Crashed | Finished  # what there is to say of a job


@dataclass(frozen=True)
class Job:
    """A line, as its words after `python -u`, and the positions in the queue of the base models that it waits
    for.
    """

    words: tuple[str, ...]
    needs: frozenset[int] = frozenset()

    @property
    def is_base(self) -> bool:
        return self.words[0] != "mlflow_forget.py"


class WorkerPool(Protocol):
    """Workers with numbers. One that died is there again when it is given the next job."""

    fate_of_runs: str  # what becomes of runs that are going on when it is stopped

    def ready(self) -> Collection[int]:
        """The workers that begin at once with a job they are given, unless they have one."""
        ...

    def give(self, worker: int, job: Job) -> None:
        """A worker that has no job begins with this one."""
        ...

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """What workers have to say of their jobs, as soon as one has; [] after that many seconds."""
        ...

    def stop(self) -> None:
        """All end, and who has a job breaks it off; returns when they are gone."""
        ...


@dataclass
class Queue:
    """How it stands."""

    jobs: Sequence[Job]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    running: dict[int, int] = field(default_factory=dict)  # worker -> job

    def count(self, *statuses: Status, bases: bool | None = None) -> int:
        """Jobs that ended so; base models alone, runs alone, or both."""
        of_kind = (number for number in self.outcomes if bases is None or self.jobs[number].is_base == bases)
        return sum(self.outcomes[number].status in statuses for number in of_kind)

    @property
    def failed(self) -> list[int]:
        return [number for number, outcome in sorted(self.outcomes.items()) if outcome.status == "failed"]

    @property
    def left(self) -> int:
        return len(self.jobs) - len(self.outcomes)


def run_jobs(
    jobs: Sequence[Job],
    pool: WorkerPool,
    show: Callable[[Queue, int | None], None],
    queue: Queue | None = None,
) -> Queue:
    """Have every job done; base models first, each run as soon as those it needs are there. One that fails
    stops no other.

    `show(queue, job)` is told of every change: the job that ended, None where one began or a second went by.
    `queue` is filled as it goes, for whoever is interrupted.
    """
    queue = Queue(jobs) if queue is None else queue
    waiting = deque(sorted(range(len(jobs)), key=lambda number: not jobs[number].is_base))
    deaths: dict[int, int] = {}
    while queue.left:
        for worker in pool.ready():
            if worker not in queue.running and (number := _next(waiting, jobs, queue)) is not None:
                queue.running[worker] = number
                pool.give(worker, jobs[number])
        if _give_up(waiting, jobs, queue, show):
            continue
        show(queue, None)
        for worker, said in pool.wait(1.0):
            number = queue.running.pop(worker)
            if isinstance(said, Finished):
                waiting.appendleft(number)
                continue
            if isinstance(said, Crashed):
                deaths[number] = deaths.get(number, 0) + 1
                if deaths[number] < DEATHS:
                    waiting.appendleft(number)
                    continue
                said = Outcome(
                    "failed",
                    f"{DEATHS} workers died over it ({said.how}). Look into their logs; is there enough "
                    "memory?",
                )
            queue.outcomes[number] = said
            show(queue, number)
    return queue


def _next(waiting: deque[int], jobs: Sequence[Job], queue: Queue) -> int | None:
    """The first job that has all it needs."""
    ready = next((number for number in waiting if _there(jobs[number].needs, queue)), None)
    if ready is not None:
        waiting.remove(ready)
    return ready


def _there(needs: Collection[int], queue: Queue) -> bool:
    return all(number in queue.outcomes and queue.outcomes[number].status != "failed" for number in needs)


def _give_up(
    waiting: deque[int], jobs: Sequence[Job], queue: Queue, show: Callable[[Queue, int | None], None]
) -> bool:
    """The jobs whose base models failed fail with them."""
    failed = set(queue.failed)
    lost = [number for number in waiting if jobs[number].needs & failed]
    for number in lost:
        waiting.remove(number)
        cause = queue.outcomes[min(jobs[number].needs & failed)].error
        queue.outcomes[number] = Outcome("failed", f"its base model failed: {cause}")
        show(queue, number)
    return bool(lost)
