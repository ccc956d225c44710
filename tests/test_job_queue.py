"""The queue: every job gets an outcome, whoever dies; base models first; a failure stops no other."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.sweeps.job_queue import CRASHES, RUN, Crashed, Finished, Job, Outcome, Queue, run_jobs

BASE = "main_ideal.py"


class Rehearsed:
    """A pool whose jobs end in any order, as `plan` says: a list for each job of what becomes of it, one
    attempt after the other.
    """

    fate_of_runs = "exeunt"

    def __init__(self, size, plan, seed=0):
        self.size = size
        self.plan = {words: list(ends) for words, ends in plan.items()}
        self.order = random.Random(seed)
        self.holding = {}
        self.begun = []
        self.answered = range(0)

    def ready(self):
        self.answered = (
            range(min(self.size, len(self.answered) + 1)) if self.order.random() < 0.5 else self.answered
        )
        return self.answered

    def give(self, worker, job):
        assert worker in self.answered, "one that has not answered gets no job"
        assert worker not in self.holding, "a worker has one job at a time"
        self.holding[worker] = job
        self.begun.append(job)

    def wait(self, seconds):
        if len(self.answered) < self.size and not self.holding:
            return []
        assert self.holding, "nobody works, and nothing would ever end"
        worker = self.order.choice(sorted(self.holding))
        job = self.holding.pop(worker)
        ends = self.plan.get(job.words, [])
        return [(worker, ends.pop(0) if ends else Outcome("finished"))]

    def stop(self):
        self.holding.clear()


def job(name, *needs, base=False):
    return Job((BASE if base else RUN, name), None, frozenset(needs))


def test_runs_wait_for_their_base_models_alone():
    jobs = [job("a", base=True), job("b", base=True), job("1", 0), job("2", 1)]
    pool = Rehearsed(2, {})
    queue = run_jobs(Queue(jobs), pool, lambda *_: None)
    assert queue.count("finished", bases=True) == queue.count("finished", bases=False) == 2
    assert [one.words[1] for one in pool.begun[:2]] == ["a", "b"]


def test_a_failure_stops_no_other_but_those_that_need_it():
    jobs = [job("a", base=True), job("b", base=True), job("1", 0), job("2", 1), job("3", 1)]
    queue = run_jobs(
        Queue(jobs), Rehearsed(2, {jobs[0].words: [Outcome("failed", "no room")]}), lambda *_: None
    )
    assert queue.failed == [0, 2]
    assert queue.outcomes[2].error == "its base model failed: no room"
    assert queue.left == 0


def test_a_job_is_given_again_when_its_worker_died():
    jobs = [job("1"), job("2")]
    pool = Rehearsed(1, {jobs[0].words: [Crashed("SIGKILL")]})
    queue = run_jobs(Queue(jobs), pool, lambda *_: None)
    assert queue.count("finished") == 2
    assert [one.words[1] for one in pool.begun] == ["1", "1", "2"]


def test_a_job_whose_worker_left_is_given_again_as_often_as_that_happens():
    jobs = [job("1"), job("2")]
    queue = run_jobs(
        Queue(jobs), Rehearsed(1, {jobs[0].words: [Finished()] * (CRASHES + 1)}), lambda *_: None
    )
    assert queue.count("finished") == 2


def test_a_job_that_kills_its_workers_fails():
    jobs = [job("1"), job("2")]
    queue = run_jobs(
        Queue(jobs), Rehearsed(1, {jobs[0].words: [Crashed("SIGKILL")] * CRASHES}), lambda *_: None
    )
    assert queue.failed == [0]
    assert "3 workers died over it (SIGKILL)" in queue.outcomes[0].error
    assert queue.outcomes[1].status == "finished"


def test_what_is_done_is_known_when_it_is_broken_off():
    def interrupted(queue, ended):
        if ended == 1:
            raise KeyboardInterrupt

    jobs = [job(str(number)) for number in range(4)]
    queue = Queue(jobs)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(queue, Rehearsed(1, {}), interrupted)
    assert sorted(queue.outcomes) == [0, 1]
    assert queue.left == 2


ENDS = st.sampled_from(
    [Outcome("finished"), Outcome("skipped"), Outcome("failed", "why"), Crashed("SIGKILL")]
)


@given(
    bases=st.integers(0, 4),
    needs=st.lists(st.sets(st.integers(0, 3)), max_size=12),
    ends=st.dictionaries(st.integers(0, 15), st.lists(ENDS, max_size=4)),
    size=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_every_job_ends_once_and_after_what_it_needs(bases, needs, ends, size, seed):
    jobs = [job(f"base {n}", base=True) for n in range(bases)]
    jobs += [job(f"run {n}", *(need for need in own if need < bases)) for n, own in enumerate(needs)]
    pool = Rehearsed(size, {jobs[n].words: own for n, own in ends.items() if n < len(jobs)}, seed)
    ended = []

    def show(queue, number):
        if number is not None:
            ended.append(number)
            if queue.outcomes[number].status != "failed":
                assert jobs[number].needs <= {
                    n for n in queue.outcomes if queue.outcomes[n].status != "failed"
                }

    queue = run_jobs(Queue(jobs), pool, show)
    assert sorted(ended) == list(range(len(jobs)))
    assert sorted(queue.outcomes) == list(range(len(jobs)))
    for number, one in enumerate(jobs):
        attempts = sum(other is one for other in pool.begun)
        assert attempts <= CRASHES
        assert attempts or queue.outcomes[number].status == "failed"
