"""Workers on a Ray cluster, whose machines see the same folders: an actor each, which lives for the whole queue."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from grids.job_queue import Died, Job, Outcome
from grids.local_crew import threads_asked

ROOT = Path(__file__).resolve().parent.parent
LOCAL = "local"
ANSWER_SECONDS = 10
PASSED_ON = "MLFLOW_"  # the environment's settings of the tracking store


class RayCrew:
    """As many actors as `size`, each with a core and `gpu_share` of a GPU, which Ray chooses. `known`: jobs that are finished.

    address: of a cluster, as ray.init takes it; `local` starts one on this machine. Raises ValueError where Ray is not there or there is
    no cluster.
    """

    farewell = "the runs that are going on say RUNNING until their jobs are run again"  # Ray ends an actor without a warning

    def __init__(self, address: str, size: int, logs: Path, known: Collection[tuple[str, str]] = (), *, gpu_share: float = 0) -> None:
        self.size = size
        self._ray = connected(address, size)
        self._about = (str(Path.cwd()), str(logs), threads_asked(), frozenset(known))
        self._options = {"num_cpus": 1, "num_gpus": gpu_share, "max_restarts": 0, "max_task_retries": 0}
        self._actors: dict[int, Any] = {}
        self._working: dict[Any, int] = {}  # what it will have said -> worker

    def give(self, worker: int, job: Job) -> None:
        if worker not in self._actors:
            self._actors[worker] = self._ray.remote(Actor).options(**self._options).remote(worker, *self._about)
        self._working[self._actors[worker].do.remote(job.words)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Outcome | Died]]:
        done, _ = self._ray.wait(list(self._working), num_returns=len(self._working), timeout=0)
        if not done:
            done, _ = self._ray.wait(list(self._working), timeout=seconds)
        return [(worker, self._said(worker, reference)) for reference in done if (worker := self._working.pop(reference)) is not None]

    def stop(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._ray.shutdown()

    def _said(self, worker: int, reference: Any) -> Outcome | Died:
        try:
            outcome: Outcome = self._ray.get(reference)
            return outcome
        except self._ray.exceptions.RayError as error:
            del self._actors[worker]
            return Died(" ".join(str(error).split())[:200])


def connected(address: str, size: int) -> Any:
    """The module ray, connected to the cluster; actors import Lethe from this folder."""
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--address needs Ray, which is not installed. pip install -r requirements-ray.txt, or leave out --address"
        ) from error
    tracking = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), **tracking}}
    where: dict[str, Any] = {"num_cpus": size, "include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        answering(address)
        ray.init(**where, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
        raise ValueError(
            f"--address: no Ray cluster at {address!r} ({' '.join(str(error).split())[:160]}). Start it: ray start --head"
        ) from error
    return ray


def answering(address: str) -> None:
    """OSError if nobody listens at host:port, which Ray itself would find out in a minute or two, with many words."""
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    if place is not None:
        socket.create_connection((place[1], int(place[2])), timeout=ANSWER_SECONDS).close()


class Actor:
    """A warm worker in an actor's process, in the folder of the queue."""

    def __init__(self, number: int, folder: str, logs: str, threads: int | None, known: Collection[tuple[str, str]]) -> None:
        os.chdir(folder)
        sys.path.insert(0, str(ROOT))
        os.environ["OMP_NUM_THREADS"] = str(threads or 1)
        from grids.local_crew import write_to
        from grids.warm_worker import WarmWorker

        write_to(Path(logs) / f"ray{number + 1}.log")
        self.worker = WarmWorker(int(os.environ["OMP_NUM_THREADS"]), known)

    def do(self, words: tuple[str, ...]) -> Outcome:
        print(f"\n{' '.join(words)}", flush=True)
        outcome = self.worker.do(words)
        print(outcome, flush=True)
        return outcome
