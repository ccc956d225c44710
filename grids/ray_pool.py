"""Workers on a Ray cluster, whose machines see the same folders: an actor each, which lives for the whole
queue.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from grids.job_queue import Crashed, Job, Message, Outcome
from grids.local_pool import threads_asked

ROOT = Path(__file__).resolve().parent.parent
LOCAL = "local"
ANSWER_SECONDS = 10
PASSED_ON = "MLFLOW_"  # the environment's settings of the tracking store


class RayPool:
    """As many actors as `size`, each with a core and `gpu_share` of a GPU, which Ray chooses. `known`: jobs
    that are finished.

    ray: the module, connected to a cluster. An actor gets no job before it has answered: one for which the
    cluster has no room yet waits for it without one.
    """

    fate_of_runs = "the runs that are going on say RUNNING until the next ones begin on their machines"  # Ray ends an actor without a warning

    def __init__(
        self,
        ray: Any,
        size: int,
        logs: Path,
        known: Collection[tuple[str, str]] = (),
        *,
        gpu_share: float = 0,
    ) -> None:
        self.size = size
        self._ray = ray
        self._about = (str(Path.cwd()), str(logs), threads_asked(), frozenset(known))
        self._options = {"num_cpus": 1, "num_gpus": gpu_share, "max_restarts": 0, "max_task_retries": 0}
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}  # its answer -> worker
        self._working: dict[Any, int] = {}  # what it will have said -> worker

    def ready(self) -> list[int]:
        for worker in range(self.size):
            if worker not in self._actors:
                self._actors[worker] = (
                    self._ray.remote(Actor).options(**self._options).remote(worker, *self._about)
                )
                self._starting[self._actors[worker].answer.remote()] = worker
        for reference in self._done(self._starting, 0):
            del self._starting[reference]  # one that died meanwhile says so of its first job
        return [worker for worker in range(self.size) if worker not in self._starting.values()]

    def give(self, worker: int, job: Job) -> None:
        self._working[self._actors[worker].do.remote(job.words)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        self._done(self._working | self._starting, seconds)
        return [(worker, self._said(worker, reference)) for reference, worker in self._popped(self._working)]

    def _popped(self, references: dict[Any, int]) -> list[tuple[Any, int]]:
        return [(reference, references.pop(reference)) for reference in self._done(references, 0)]

    def _done(self, references: Collection[Any], seconds: float) -> list[Any]:
        """Those that are there; where none is, the first one after at most so many seconds."""
        number = len(references) if not seconds else 1
        done: list[Any] = (
            self._ray.wait(list(references), num_returns=number, timeout=seconds)[0] if references else []
        )
        return done

    def stop(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._ray.shutdown()

    def _said(self, worker: int, reference: Any) -> Message:
        try:
            word: Message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            word = Crashed(" ".join(str(error).split())[:200])
        if not isinstance(word, Outcome):
            self._ray.kill(self._actors.pop(worker))
        return word


def connected(address: str, cpus: int) -> Any:
    """The module ray, connected to a cluster; actors import Lethe from this folder.

    address: of the cluster, as ray.init takes it; `local` starts one of so many cores on this machine. Raises
    ValueError where Ray is not there or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--address needs Ray, which is not installed. pip install -r requirements-ray.txt, or leave out "
            "--address"
        ) from error
    tracking = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), **tracking}}
    where: dict[str, Any] = (
        {"address": LOCAL, "num_cpus": cpus, "include_dashboard": False}
        if address == LOCAL
        else {"address": address}
    )
    try:
        answering(address)
        ray.init(**where, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
        raise ValueError(
            f"--address: no Ray cluster at {address!r} ({' '.join(str(error).split())[:160]}). Start it: ray "
            "start --head"
        ) from error
    return ray


def room(ray: Any, gpu_share: float = 0) -> int:
    """How many actors the cluster as it is now has cores for, and GPUs."""
    there: dict[str, float] = ray.cluster_resources()
    shares = there.get("GPU", 0) / gpu_share if gpu_share else math.inf
    return int(min(there.get("CPU", 0), shares))


def answering(address: str) -> None:
    """OSError if nobody listens at host:port, which Ray itself would find out in a minute or two, with many
    words.
    """
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    if place is not None:
        socket.create_connection((place[1], int(place[2])), timeout=ANSWER_SECONDS).close()


class Actor:
    """A warm worker in an actor's process, in the folder of the queue."""

    def __init__(
        self, number: int, folder: str, logs: str, threads: int | None, known: Collection[tuple[str, str]]
    ) -> None:
        os.chdir(folder)
        sys.path.insert(0, str(ROOT))
        os.environ["OMP_NUM_THREADS"] = str(threads or 1)
        from grids.local_pool import write_to
        from grids.warm_worker import WarmWorker

        write_to(Path(logs) / f"ray{number + 1}.log")
        self.worker = WarmWorker(int(os.environ["OMP_NUM_THREADS"]), known)

    def answer(self) -> None:
        """It is there."""

    def do(self, words: tuple[str, ...]) -> Message:
        print(f"\n{' '.join(words)}", flush=True)
        word = self.worker.do(words)
        print(word, flush=True)
        return word
