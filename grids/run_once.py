"""A job that is run once, whatever happens to those who run it."""

from __future__ import annotations

from collections.abc import Collection

from evaluation import names_in
from identity import config_hash_of
from pipeline import Pipeline, Result
from tracking.finished import HASH, Job, finished_run
from training.file_lock import locked


def run_once(pipeline: Pipeline, known: Collection[Job] = ()) -> tuple[Job, Result | None]:
    """Run a job unless the tracking store has a FINISHED run of it, in the same experiment and with the same
    config_hash.

    Processes that want the same job wait for each other, by a lock in the folder of the checkpoints, which
    has to be one for all of them. The store is asked while the lock is held, so that a run which was finished
    meanwhile counts; runs of this machine whose processes were killed end as KILLED.
    `known`: jobs of which it is known that they are finished. Raises as Pipeline.run.
    """
    initial, ideal = pipeline.base.initial(), pipeline.ideal()
    job = (pipeline.checked.experiment, config_hash_of(pipeline.checked, initial, ideal))
    if job in known:
        return job, None
    with locked(pipeline.base.save_dir / job[1]):
        if finished_run(job, names_in("overview")) is not None:
            return job, None
        return job, pipeline.run(tags={HASH: job[1]})
