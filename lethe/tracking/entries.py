"""Entries of a run as data, which can be written again if the store was away, or kept in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mlflow import MlflowClient


MOST, MOST_POINTS = 100, 800  # params and tags, and values, of one call: MLflow takes 1,000 of all together


class Point(NamedTuple):
    """A value of a metric. timestamp: ms since 1970."""

    name: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Batch:
    """Params, tags and values of metrics."""

    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()

    def write(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        client.log_batch(
            run_id,
            metrics=[Metric(*point) for point in self.points],
            params=[Param(name, value) for name, value in self.params.items()],
            tags=[RunTag(name, value) for name, value in self.tags.items()],
        )


def together(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yield the same params, tags and values in as few batches as MLflow takes. Of a tag, the last value."""
    params = [item for batch in batches for item in batch.params.items()]
    tags = list({name: value for batch in batches for name, value in batch.tags.items()}.items())
    points = [point for batch in batches for point in batch.points]
    while params or tags or points:
        yield Batch(dict(params[:MOST]), dict(tags[:MOST]), points[:MOST_POINTS])
        del params[:MOST], tags[:MOST], points[:MOST_POINTS]


@dataclass(frozen=True)
class Artifact:
    """A file, in a folder of the run's artifacts."""

    path: Path
    folder: str = ""

    def write(self, client: MlflowClient, run_id: str) -> None:
        client.log_artifact(run_id, str(self.path), self.folder or None)


@dataclass(frozen=True)
class InputSet:
    """A set of images that is an input of the run: its name and digest, not its pixels."""

    name: str
    digest: str
    dataset: str
    context: str

    @property
    def stored_digest(self) -> str:
        """The digest as MLflow's tables hold it: at most 36 characters."""
        return self.digest[:32]

    def write(self, client: MlflowClient, run_id: str) -> None:
        """Log the set, which the runs of an experiment share.

        If two runs add it at the same time, one fails; its second attempt finds the set.
        """
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        source = CodeDatasetSource(tags={"dataset": self.dataset})
        images = MetaDataset(source, name=self.name, digest=self.stored_digest)  # type: ignore[abstract]
        entry = DatasetInput(images._to_mlflow_entity(), [InputTag("mlflow.data.context", self.context)])
        try:
            client.log_inputs(run_id, [entry])
        except MlflowException as error:
            if "unique" not in str(error).lower():  # the word of sqlite and PostgreSQL
                raise
            client.log_inputs(run_id, [entry])


Entry = Batch | Artifact | InputSet
