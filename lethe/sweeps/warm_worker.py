"""Run one job after another in one process, which loads imports, images and base models once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lethe import command_line
from lethe.data import Splits
from lethe.experiment import base_model_command
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.pipeline import Pipeline
from lethe.experiment.run_config import PipelineConfig
from lethe.sweeps.job_queue import Finished, Job, Outcome
from lethe.sweeps.run_once import run_once
from lethe.sweeps.sweep import same_splits
from lethe.tracking.shown_uri import without_password
from lethe.training import Loaded
from lethe.user_files import changed_files

BASES_KEPT, CHECKPOINTS_KEPT = 4, 8

Checkpoints = OrderedDict[tuple[Any, ...], tuple[nn.Module, Loaded]]


class WarmWorker:
    """Runs jobs, each with the result that its command has in a process of its own.

    threads: of torch. known: the (experiment, config_hash) of runs that are finished in the tracking store.
    """

    def __init__(self, threads: int, known: Collection[tuple[str, str]] = ()) -> None:
        torch.set_num_threads(threads)
        self.known = known
        self.bases: list[WarmModels] = []
        self.checkpoints: Checkpoints = OrderedDict()
        self.random_state = torch.get_rng_state()  # of a process that has drawn nothing

    def do(self, job: Job) -> Outcome | Finished:
        """Run a job. Print its words and its end. An error is an outcome; Ctrl-C and SIGTERM are not.

        Returns Finished without running it if a user's file has changed since this process loaded it.
        """
        print(f"\n{' '.join(job.words)}", flush=True)
        message = Finished() if changed_files() else self._outcome(job)
        print(message, flush=True)
        return message

    def _outcome(self, job: Job) -> Outcome:
        started = time.perf_counter()
        torch.set_rng_state(self.random_state)
        try:
            outcome = self._run(job)
        except Exception as error:  # noqa: BLE001  # of a method, perhaps a user's own: the other jobs go on
            self.bases.clear()
            self.checkpoints.clear()  # the failure may have changed them
            line = without_password(" ".join(str(error).split()))
            expected = isinstance(error, (ValueError, OSError, FloatingPointError))
            outcome = Outcome("failed", line if expected else f"{type(error).__name__}: {line}")
        return replace(outcome, seconds=time.perf_counter() - started)

    def _run(self, job: Job) -> Outcome:
        if not isinstance(job.config, PipelineConfig):
            base_model_command.train(job.config)
            return Outcome("finished")
        base = self._base(job.config.base)
        pipeline = Pipeline(job.config, progress=command_line.progress_bar, base=base)
        _, result = run_once(pipeline, self.known)
        return Outcome("skipped") if result is None else Outcome("finished", warnings=len(pipeline.warnings))

    def _base(self, config: BaseConfig) -> BaseModels:
        """Return the base models of a config. Those and the splits of the last few jobs are used again."""
        found = next((base for base in self.bases if base.config == config), None)
        if found is None:
            found = WarmModels(config, splits=same_splits(self.bases, config), checkpoints=self.checkpoints)
            self.bases = [*self.bases[1 - BASES_KEPT :], found]
        return found


class WarmModels(BaseModels):
    """Base models that read a checkpoint again only if it has changed, or for another architecture.

    checkpoints: the last few that were read.
    """

    def __init__(self, config: BaseConfig, *, splits: Splits | None, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        super().__init__(config, progress=command_line.progress_bar, splits=splits)

    def _read(self, path: Path) -> tuple[nn.Module, Loaded]:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        key = (
            path.absolute(),
            stamp,
            self.architecture.identity,
            *sorted(self.options.items()),
            self.splits.train.image_shape,
            self.device,
        )
        if key not in self.checkpoints:
            self.checkpoints[key] = super()._read(path)
            if len(self.checkpoints) > CHECKPOINTS_KEPT:
                self.checkpoints.popitem(last=False)
        self.checkpoints.move_to_end(key)
        return self.checkpoints[key]
