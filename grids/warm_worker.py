"""One job after another in one process: the interpreter, the imports, images and base models are loaded once."""

from __future__ import annotations

import importlib
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import base_model_command
import command_line
import run_flags
from base_config import BaseConfig
from base_models import BaseModels
from grids.job_queue import Finished, Outcome
from grids.run_once import run_once
from pipeline import Pipeline
from sweep import same_splits
from tracking.shown_uri import without_password
from training import Loaded
from user_files import changed_files
from vision_data import Splits

BASES_KEPT, CHECKPOINTS_KEPT = 4, 8

Checkpoints = OrderedDict[tuple[Any, ...], tuple[nn.Module, Loaded]]


class WarmWorker:
    """Runs the lines of a grid, each as its script would in a process of its own.

    threads: for torch. known: jobs that are finished, by what the tracking store said before.
    """

    def __init__(self, threads: int, known: Collection[tuple[str, str]] = ()) -> None:
        torch.set_num_threads(threads)
        self.known = known
        self.bases: list[WarmModels] = []
        self.checkpoints: Checkpoints = OrderedDict()
        self.random_state = torch.get_rng_state()  # that of a process which has drawn nothing

    def do(self, words: Sequence[str]) -> Outcome | Finished:
        """Run a line, given as the words after `python -u`. What fails is an outcome too; Ctrl-C and SIGTERM
        are not.

        Finished, and nothing is run, where a user's file was edited after it was loaded: what a process has
        loaded it keeps.
        """
        if changed_files():
            return Finished()
        started = time.perf_counter()
        torch.set_rng_state(self.random_state)
        script, argv = words[0], words[1:]
        try:
            outcome = self._run(argv) if script == "mlflow_forget.py" else self._train(script, argv)
        except Exception as error:  # noqa: BLE001  # of a method, perhaps a user's own: the other jobs go on
            self.bases.clear()
            self.checkpoints.clear()  # nothing that a failure may have damaged is used again
            known = isinstance(error, (ValueError, OSError, FloatingPointError))
            outcome = Outcome(
                "failed",
                ("" if known else f"{type(error).__name__}: ")
                + without_password(" ".join(str(error).split())),
            )
        return replace(outcome, seconds=time.perf_counter() - started)

    def _train(self, script: str, argv: Sequence[str]) -> Outcome:
        about = importlib.import_module(Path(script).stem).__doc__ or ""
        base_model_command.train_base_model(
            argv, about, which="initial" if script == "main_baseline.py" else "ideal"
        )
        return Outcome("finished")

    def _run(self, argv: Sequence[str]) -> Outcome:
        (config,) = run_flags.configs_from(*run_flags.options_of(argv))
        pipeline = Pipeline(config, progress=command_line.progress_bar, base=self._base(config.base))
        _, result = run_once(pipeline, self.known)
        return Outcome("skipped") if result is None else Outcome("finished", warnings=len(pipeline.warnings))

    def _base(self, config: BaseConfig) -> BaseModels:
        """The base models of a config, kept for the next job with the same; the splits of another where they
        are the same.
        """
        found = next((base for base in self.bases if base.config == config), None)
        if found is None:
            found = WarmModels(config, splits=same_splits(self.bases, config), checkpoints=self.checkpoints)
            self.bases = [*self.bases[1 - BASES_KEPT :], found]
        return found


class WarmModels(BaseModels):
    """Base models that read a checkpoint again only if it has changed, or is for another architecture;
    `checkpoints`: the last few.
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
