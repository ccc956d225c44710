"""Run a pipeline only if its run is not finished yet, whoever else runs or dies."""

from __future__ import annotations

from collections.abc import Collection

from lethe.evaluation import names_in
from lethe.experiment.identity import config_hash_of
from lethe.experiment.pipeline import Pipeline, Result
from lethe.tracking.finished import HASH, RunKey, finished_run
from lethe.training.file_lock import locked_together


def run_once(pipeline: Pipeline, known: Collection[RunKey] = ()) -> tuple[RunKey, Result | None]:
    """Run the pipeline unless the tracking store has a FINISHED run of its experiment and config_hash.

    Processes with the same run wait for each other at a lock in the folder of the checkpoints, which they
    share. The store is asked under the lock, so that a run which has just finished counts; runs of this
    machine whose processes were killed end as KILLED. known: finished runs. Of several processes that compute
    the run together, the first gets the result. Raises as Pipeline.run.
    """
    group = pipeline.base.group
    initial, ideal = pipeline.base.initial(), pipeline.ideal()
    key = (pipeline.checked.experiment, config_hash_of(pipeline.checked, initial, ideal))
    if key in known:
        return key, None
    with locked_together(pipeline.base.save_dir / key[1], group):
        finished = group.first and finished_run(key, names_in("overview")) is not None
        if group.broadcast(finished):
            return key, None
        if group.first:
            return key, pipeline.run(tags={HASH: key[1]})
        pipeline.take_part()
        return key, None
