"""One MLflow run: begun, filled, and ended as what it was."""

from __future__ import annotations

import atexit
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking.shown_uri import without_password
from tracking.signals import signals_wait
from tracking.store import open_experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_PARAM, LONGEST_TAG = 6000, 5000
LONGEST_NAME = 250  # of a run, in characters: what MLflow's tables hold


class TrackedRun:
    """What can be written into the active MLflow run."""

    def __init__(self, run_id: str, experiment_id: str) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Params, as text; one that is longer than MLflow keeps is cut there and whole in params/<name>.txt."""
        import mlflow

        texts = {name: str(value) for name, value in values.items()}
        for name, text in texts.items():
            if len(text) > LONGEST_PARAM:
                mlflow.log_text(text, f"params/{name}.txt")
        mlflow.log_params({name: text[:LONGEST_PARAM] for name, text in texts.items()})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Metrics at full precision. One that is not a number becomes a tag `undefined.<name>`, never a value."""
        import mlflow

        mlflow.log_metrics({name: float(value) for name, value in values.items() if not math.isnan(value)}, step=step)
        self.tags({f"undefined.{name}": "not a number" for name, value in values.items() if math.isnan(value)})

    def history(self, steps: Sequence[Mapping[str, float]], prefix: str) -> None:
        """A history: one point per step, counted from 1, and name."""
        self.points(dict(enumerate(steps, 1)), prefix)

    def points(self, steps: Mapping[int, Mapping[str, float]], prefix: str = "") -> None:
        """Metrics by step, in one batch. At the same step, what `metrics` logs afterwards is the later point, which MLflow shows."""
        import time

        from mlflow import MlflowClient
        from mlflow.entities import Metric

        a_moment_ago = int(time.time() * 1000) - 1  # of two points at one step and millisecond the larger value would count
        points = [
            Metric(f"{prefix}{name}", float(value), a_moment_ago, step)
            for step, values in steps.items()
            for name, value in values.items()
            if not math.isnan(value)
        ]
        client = MlflowClient()
        for start in range(0, len(points), 1000):
            client.log_batch(self.run_id, metrics=points[start : start + 1000])

    def tags(self, values: Mapping[str, Any]) -> None:
        import mlflow

        if values:
            mlflow.set_tags({name: str(value)[:LONGEST_TAG] for name, value in values.items()})

    def note(self, markdown: str) -> None:
        """What MLflow's page of the run shows as its description."""
        self.tags({"mlflow.note.content": markdown})

    def image_set(self, name: str, digest: str, dataset: str, context: str) -> None:
        """Note a set of images as an input of the run: its name and digest, not its pixels.

        An experiment's runs share it. MLflow looks for it, then adds it: of two runs that add it, one fails, and finds it the next time.
        """
        import mlflow
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.exceptions import MlflowException

        source = CodeDatasetSource(tags={"dataset": dataset})
        images = MetaDataset(source, name=name, digest=digest[:32])  # type: ignore[abstract]  # MLflow's own class lacks an annotation
        try:
            mlflow.log_input(images, context=context)
        except MlflowException as error:
            if "unique" not in str(error).lower():  # the word of sqlite, PostgreSQL and a server that has one of them
                raise
            mlflow.log_input(images, context=context)

    def file(self, path: Path, folder: str = "") -> None:
        import mlflow

        mlflow.log_artifact(str(path), folder or None)

    def text(self, content: str, name: str) -> None:
        import mlflow

        mlflow.log_text(content, name)

    def picture(self, figure: Figure, name: str) -> None:
        import mlflow

        mlflow.log_figure(figure, f"pictures/{name}")


@contextmanager
def tracked_run(experiment: str, name: str, *, nested: bool = False, tags: Mapping[str, str] | None = None) -> Iterator[TrackedRun]:
    """A run that ends as what happened: FINISHED; KILLED on Ctrl-C or SIGTERM; else FAILED, the error in the tag `error`.

    MLflow ends as FINISHED whatever it still has when the process ends. A signal therefore waits while a run is begun or ended, and one
    that comes between that and the next line has the run ended as KILLED before MLflow does.
    """
    import mlflow

    experiment_id = open_experiment(experiment)
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"  # its params have all of it
    _outlive_mlflow()
    run: TrackedRun | None = None
    status = "FAILED"
    try:
        with signals_wait():
            active = mlflow.start_run(
                experiment_id=experiment_id, run_name=name, nested=nested, tags=dict(tags or {}), log_system_metrics=False
            )
            run = TrackedRun(active.info.run_id, experiment_id)
            _begun.append(run.run_id)
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception as error:
        if run is not None:
            run.tags({"error": without_password(f"{type(error).__name__}: {error}")})
            run.text(without_password(traceback.format_exc()), "error.txt")
        raise
    finally:
        with signals_wait():
            if run is not None:
                mlflow.end_run(status)
                _begun.remove(run.run_id)


_begun: list[str] = []  # the runs of this process that were begun and not ended


@cache
def _outlive_mlflow() -> None:
    """At the process's end those functions run first that were registered last: this one before MLflow's own."""
    import mlflow  # noqa: F401  # which registers its own

    atexit.register(_end_as_killed)


def _end_as_killed() -> None:
    import mlflow

    while _begun:
        mlflow.end_run("KILLED")
        _begun.pop()
