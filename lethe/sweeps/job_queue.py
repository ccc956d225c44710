"""A queue of jobs and the workers that run them. When a worker crashes, another one gets its job."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from lethe.commands import SCRIPTS

if TYPE_CHECKING:
    from lethe.experiment.base_model_command import Training
    from lethe.experiment.run_config import PipelineConfig

RUN = SCRIPTS["forget"]
CRASHES = 3  # a job that has crashed so many workers fails

Status = Literal["finished", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The end of a job; `skipped`: its run was finished before. `error` is one line, or "". `seconds` are
    those of the worker.
    """

    status: Status
    error: str = ""
    seconds: float = 0.0
    warnings: int = 0


@dataclass(frozen=True)
class Crashed:
    """A worker ended during its job. `how`: the signal, exit code or exception."""

    how: str


@dataclass(frozen=True)
class Finished:
    """A worker ended before its job began, because a user's file has changed since the worker loaded it."""


Message = Outcome | Crashed | Finished  # of a worker, about its job


@dataclass(frozen=True)
class Job:
    """A config to run or to train, and the words after `python -u` that would do the same.

    `needs`: the positions in the queue of the base models that it waits for.
    """

    words: tuple[str, ...]
    config: PipelineConfig | Training
    needs: frozenset[int] = frozenset()

    @property
    def is_base(self) -> bool:
        return self.words[0] != RUN


class WorkerPool(Protocol):
    """Numbered workers. One that has ended is started again for its next job."""

    fate_of_runs: str  # after `stop`, for people

    def ready(self) -> Collection[int]:
        """Return the workers that can begin a job at once, if they have none."""
        ...

    def give(self, worker: int, job: Job) -> None:
        """Give a job to a worker that has none."""
        ...

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """Return the workers' messages as soon as there is one; [] after that many seconds."""
        ...

    def stop(self) -> None:
        """End all workers and their jobs. Returns when they are gone."""
        ...


@dataclass
class Queue:
    """The jobs, their outcomes, and the job that each worker runs."""

    jobs: Sequence[Job]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    running: dict[int, int] = field(default_factory=dict)  # worker -> job

    def count(self, status: Status, *, bases: bool | None = None) -> int:
        """Return the number of jobs with this outcome: of base models alone, of runs alone, or of both."""
        of_kind = (number for number in self.outcomes if bases in (None, self.jobs[number].is_base))
        return sum(self.outcomes[number].status == status for number in of_kind)

    @property
    def failed(self) -> list[int]:
        return [number for number, outcome in sorted(self.outcomes.items()) if outcome.status == "failed"]

    @property
    def left(self) -> int:
        return len(self.jobs) - len(self.outcomes)


Show = Callable[[Queue, int | None], None]


def run_jobs(queue: Queue, pool: WorkerPool, show: Show) -> Queue:
    """Run all jobs of the queue, and return it.

    Base models come first; a run begins as soon as those that it needs are there, and fails if one of them
    failed. `show(queue, job)` is called for each job that ended, and with None every second and when a job
    began. After an interrupt, `queue` has the outcomes so far.
    """
    jobs = queue.jobs
    waiting = deque(sorted(range(len(jobs)), key=lambda number: not jobs[number].is_base))
    crashes: dict[int, int] = {}
    while queue.left:
        for worker in pool.ready():
            if worker not in queue.running and (number := _next(waiting, queue)) is not None:
                queue.running[worker] = number
                pool.give(worker, jobs[number])
        if _fail_with_base_models(waiting, queue, show):
            continue
        show(queue, None)
        for worker, message in pool.wait(1.0):
            number = queue.running.pop(worker)
            outcome = _outcome_of(message, number, crashes)
            if outcome is None:
                waiting.appendleft(number)
                continue
            queue.outcomes[number] = outcome
            show(queue, number)
    return queue


def _outcome_of(message: Message, number: int, crashes: dict[int, int]) -> Outcome | None:
    """Return the outcome of a job, or None if it has to run again. Counts the crashes of each job."""
    if isinstance(message, Outcome):
        return message
    if isinstance(message, Crashed):
        crashes[number] = crashes.get(number, 0) + 1
        if crashes[number] == CRASHES:
            remedy = "Look into their logs; is there enough memory?"
            return Outcome("failed", f"{CRASHES} workers died over it ({message.how}). {remedy}")
    return None


def _next(waiting: deque[int], queue: Queue) -> int | None:
    """Take the first job whose base models are all there."""
    for number in waiting:
        outcomes = [queue.outcomes.get(need) for need in queue.jobs[number].needs]
        if all(outcome is not None and outcome.status != "failed" for outcome in outcomes):
            waiting.remove(number)
            return number
    return None


def _fail_with_base_models(waiting: deque[int], queue: Queue, show: Show) -> bool:
    """Fail the jobs whose base models failed. Return whether there are any."""
    failed = set(queue.failed)
    lost = [number for number in waiting if queue.jobs[number].needs & failed]
    for number in lost:
        waiting.remove(number)
        cause = queue.outcomes[min(queue.jobs[number].needs & failed)].error
        queue.outcomes[number] = Outcome("failed", f"its base model failed: {cause}")
        show(queue, number)
    return bool(lost)
