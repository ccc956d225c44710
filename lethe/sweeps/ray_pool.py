"""Workers on a Ray cluster whose machines see the same folders: one actor each, for the whole queue."""

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

from lethe.sweeps.job_queue import Crashed, Job, Message, Outcome
from lethe.system.threads import threads_asked

ROOT = Path(__file__).resolve().parents[2]  # the folder that `lethe` is in
LOCAL = "local"
ANSWER_SECONDS = 10
PASSED_ON = "MLFLOW_"  # environment variables of the tracking store


class RayPool:
    """`size` actors, each with a core and `gpu_share` of a GPU, which Ray chooses.

    ray: the module, connected to a cluster. known: the (experiment, config_hash) of finished runs. An actor
    gets no job before it has answered, as the cluster may have no room for it yet.
    """

    # Ray ends an actor without a warning.
    fate_of_runs = "the runs that are going on say RUNNING until the next ones begin on their machines"

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
        self._starting: dict[Any, int] = {}  # reference of its answer -> worker
        self._working: dict[Any, int] = {}  # reference of its message -> worker

    def ready(self) -> list[int]:
        for worker in set(range(self.size)) - set(self._actors):
            actor = self._ray.remote(Actor).options(**self._options).remote(worker, *self._about)
            self._actors[worker] = actor
            self._starting[actor.answer.remote()] = worker
        for reference in self._done(self._starting, 0):
            del self._starting[reference]  # one that has died is Crashed at its first job
        starting = self._starting.values()
        return [worker for worker in range(self.size) if worker not in starting]

    def give(self, worker: int, job: Job) -> None:
        self._working[self._actors[worker].do.remote(job)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        self._done(self._working | self._starting, seconds)
        done = {reference: self._working.pop(reference) for reference in self._done(self._working, 0)}
        return [(worker, self._message(worker, reference)) for reference, worker in done.items()]

    def _done(self, references: Collection[Any], seconds: float) -> list[Any]:
        """Return the references that are done; if none is, wait for the first at most so many seconds."""
        if not references:
            return []
        number = 1 if seconds else len(references)
        done: list[Any] = self._ray.wait(list(references), num_returns=number, timeout=seconds)[0]
        return done

    def stop(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._ray.shutdown()

    def _message(self, worker: int, reference: Any) -> Message:
        try:
            message: Message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            message = Crashed(" ".join(str(error).split())[:200])
        if not isinstance(message, Outcome):
            self._ray.kill(self._actors.pop(worker))
        return message


def connected(address: str, cpus: int) -> Any:
    """Return the module ray, connected to a cluster; actors import Lethe from this folder.

    address: as ray.init takes it; `local` starts a cluster with `cpus` cores on this machine. Raises
    ValueError if Ray is not installed or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        way_out = "pip install -r requirements-ray.txt, or leave out --address"
        raise ValueError(f"--address needs Ray, which is not installed. {way_out}") from error
    tracking = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), **tracking}}
    where: dict[str, Any] = {"address": address}
    if address == LOCAL:
        where |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        check_answers(address)
        ray.init(**where, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
        reason = " ".join(str(error).split())[:160]
        message = f"--address: no Ray cluster at {address!r} ({reason}). Start it: ray start --head"
        raise ValueError(message) from error
    return ray


def room(ray: Any, gpu_share: float = 0) -> int:
    """Return how many actors the cluster's cores and GPUs are enough for."""
    there: dict[str, float] = ray.cluster_resources()
    shares = there.get("GPU", 0) / gpu_share if gpu_share else math.inf
    return int(min(there.get("CPU", 0), shares))


def check_answers(address: str) -> None:
    """Raise OSError if nobody listens at host:port. Ray itself takes minutes to find out."""
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    if place is not None:
        socket.create_connection((place[1], int(place[2])), timeout=ANSWER_SECONDS).close()


class Actor:
    """A warm worker in an actor's process, which works in the folder of the queue."""

    def __init__(
        self, number: int, folder: str, logs: str, threads: int | None, known: Collection[tuple[str, str]]
    ) -> None:
        os.chdir(folder)
        sys.path.insert(0, str(ROOT))
        os.environ["OMP_NUM_THREADS"] = str(threads or 1)
        # torch reads the environment when it is imported, so these imports come after the settings above.
        from lethe.sweeps.local_pool import write_to
        from lethe.sweeps.warm_worker import WarmWorker
        from lethe.system.threads import take_share

        if threads is None:
            take_share(1)
        write_to(Path(logs) / f"ray{number + 1}.log")
        self.worker = WarmWorker(int(os.environ["OMP_NUM_THREADS"]), known)

    def answer(self) -> None:
        """Return when the actor has started."""

    def do(self, job: Job) -> Message:
        return self.worker.do(job)
