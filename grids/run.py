"""The lines of a grid, run: by warm workers here or on a Ray cluster, each job once, whatever dies.

    python array_param_file.py run                              # what params.txt says, and the base models that it needs
    python array_param_file.py run --grid grid.yml --workers 4  # what a grid says
    python array_param_file.py run --gpus 0,1 --jobs_per_gpu 2 --filter NegGrad,CIFAR10
    python array_param_file.py run --address ray://head:10001 --workers 64

A job is the config_hash of its settings within its experiment: a job that has a FINISHED run in the tracking
store is skipped, one that was interrupted or failed is run again. Killed, or stopped by Ctrl-C, the same
command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command_line
import shared_flags
from foreign_files import LIST, foreign_text
from grids.job_queue import Job, Queue, WorkerPool, run_jobs

if TYPE_CHECKING:
    from grids.base_model_jobs import Run

MOST_WORKERS = 8
FAILURES = "failed.txt"


def run(words: Sequence[str]) -> int:
    """Work off the queue, and say how it went: exit code 0, or 1 where jobs failed, 130 after Ctrl-C."""
    from tracking.store_uri import ui_command

    options = command_line.parsed(flags(), words)
    check(options)
    jobs = queue_of(chosen(lines_of(options), options.filter))
    again = shlex.join(["python", "array_param_file.py", "run", *words])
    queue, started = Queue(jobs), time.perf_counter()
    pool = pool_of(options, jobs)
    failures = failures_of(options)
    screen = Screen(queue, None if _same(failures, options.params) else failures)
    try:
        run_jobs(jobs, pool, screen.show, queue)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workers end their runs as KILLED: let them
        screen.close()
        print(f"stopping: {pool.fate_of_runs}", file=sys.stderr)
        pool.stop()
        print(summary(queue, time.perf_counter() - started))
        print(f"{queue.left} of {len(jobs)} jobs are left. Go on:  {again}")
        raise
    finally:
        screen.close()
        pool.stop()
    print(summary(queue, time.perf_counter() - started))
    if queue.failed:
        write_failures(failures, queue, _rest_of(failures, queue, options))
        print(f"{len(queue.failed)} of {len(jobs)} jobs failed ({failures} says why). Retry them:  {again}")
        return command_line.FAILED
    if failures.exists():
        write_failures(failures, queue, _rest_of(failures, queue, options))
    print(f"look at them:  {ui_command()}      as a table:  python mlruns_parser.py")
    return 0


def flags() -> command_line.OneLineParser:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip("\n"))
    what = parser.add_argument_group("what is run")
    what.add_argument("--grid", metavar="FILE", help="a YAML or Python grid (default: the lines of --params)")
    what.add_argument(
        "--params",
        default="params.txt",
        metavar="FILE",
        help="lines to run, where no grid is given (default: %(default)s)",
    )
    what.add_argument(
        "--filter",
        type=some_words,
        default=(),
        metavar="WORD,...",
        help="only the lines that have all of these words, in capitals or not: values (SSD), or flags with a value (seed=1)",
    )
    who = parser.add_argument_group("who runs it")
    who.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes (default: one a core, here at most {MOST_WORKERS}; with GPUs, what they hold)",
    )
    who.add_argument(
        "--gpus",
        type=some_words,
        default=(),
        metavar="ID,...",
        help="each worker sees one of these (default: all see all)",
    )
    who.add_argument(
        "--jobs_per_gpu",
        type=int,
        default=1,
        metavar="N",
        help="workers that share a GPU (default: %(default)s)",
    )
    who.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of a Ray cluster that sees the same folders (ray://host:10001, auto; local: one of its own)",
    )
    places = parser.add_argument_group("places")
    places.add_argument(
        "--logs",
        default="sweep_logs",
        metavar="FOLDER",
        help="what the workers print (default: ./%(default)s)",
    )
    places.add_argument(
        "--failed",
        metavar="FILE",
        help=f"failed lines with their errors, to be given to --params (default: {FAILURES})",
    )
    return parser


def some_words(text: str) -> tuple[str, ...]:
    """Words separated by commas, at least one."""
    found = shared_flags.words(text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"expected words separated by commas, got {text!r}. Name one, or leave out the flag"
        )
    return found


def check(options: argparse.Namespace) -> None:
    """ValueError for numbers of workers that make no sense, and for places that can't be written or would
    overwrite what is read.
    """
    from grids.local_pool import threads_asked

    threads_asked()
    _check_places(options)
    _check_workers(options)


def _check_places(options: argparse.Namespace) -> None:
    failures, logs = failures_of(options), Path(options.logs)
    if failures.is_dir():
        raise ValueError(f"--failed: expected a file, and {failures} is a folder. Choose another")
    if logs.exists() and not logs.is_dir():
        raise ValueError(f"--logs: expected a folder, and {logs} is a file. Choose another")
    if options.grid is not None and _same(failures, options.grid):
        raise ValueError(
            f"--failed: {failures} is the file of --grid, which it would overwrite. Choose another"
        )
    if options.grid is None and _same(failures, options.params):
        if options.failed is not None:
            raise ValueError(
                f"--failed: {failures} is the file of --params, which it would overwrite. Choose another"
            )
        if options.filter:
            raise ValueError(
                f"--filter: {failures} would lose the lines that are left out. Give another file with "
                "--failed"
            )


def _check_workers(options: argparse.Namespace) -> None:
    for flag, number in (("workers", options.workers), ("jobs_per_gpu", options.jobs_per_gpu)):
        if number is not None and number < 1:
            raise ValueError(f"--{flag}: expected an integer >= 1, got {number}. Correct the number")
    if options.workers is not None and options.gpus:
        raise ValueError(
            "--workers: with --gpus there are as many as those hold, --jobs_per_gpu each. Leave out --workers"
        )
    if options.jobs_per_gpu > 1 and not options.gpus:
        raise ValueError("--jobs_per_gpu: expected --gpus with it. Name the GPUs, e.g. --gpus 0,1")


def failures_of(options: argparse.Namespace) -> Path:
    return Path(options.failed or FAILURES)


def _same(file: Path, other: str) -> bool:
    return file.resolve() == Path(other).resolve()


def lines_of(options: argparse.Namespace) -> list[Run]:
    """The runs: of the grid, or of the lines of a file.

    Lines that train base models, which a file of failures may have, are left out: those that the runs need
    are trained anyway.
    """
    from grids.base_model_jobs import IDEAL, INITIAL
    from grids.grid import jobs_in

    if options.grid is not None:
        return jobs_in(options.grid)
    path = Path(options.params)
    if not path.is_file():
        raise FileNotFoundError(
            f"--params: expected a file of lines, and there is no file {path}. Make it: python "
            "array_param_file.py"
        )
    found = []
    text = foreign_text(path, most=LIST, errors="backslashreplace")
    for number, line in enumerate(text.split("\n"), 1):  # as a shell divides it
        trains = any(Path(word).name in (INITIAL, IDEAL) for word in line.split()[:3])
        if line.strip() and not line.lstrip().startswith("#") and not trains:
            found.append(run_of(line, f"{path}, line {number}"))
    if not found:
        raise ValueError(
            f"--params: expected lines to run, and {path} has none. Make it: python array_param_file.py"
        )
    return found


def run_of(line: str, where: str) -> Run:
    """The run of a line. ValueError for a line of anything else, or that mlflow_forget.py would refuse."""
    import run_flags
    from grids.base_model_jobs import JOB, Run, one_config

    try:
        script, own = script_of(shlex.split(line))
        if script != JOB:
            raise ValueError(
                f"expected 'python -u {JOB} --unlearn ...' and nothing before it, got {line!r}. Correct the "
                "line"
            )
        one_config(own, "line")
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Run(tuple(own), run_flags.flags_given(own))


def script_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the script that a line runs by `python -u`, or by itself, and the words after it; "" where
    there is more before it.
    """
    rest = list(words)
    if rest and re.fullmatch(r"python[\d.]*", Path(rest[0]).name):
        rest = rest[2 if rest[1:2] == ["-u"] else 1 :]
    return (Path(rest[0]).name, rest[1:]) if rest and rest[0].endswith(".py") else ("", rest)


def chosen(runs: list[Run], words: Sequence[str]) -> list[Run]:
    """The runs whose lines have all the words. ValueError for a word that none has, or that none has together
    with the others.
    """
    folded = [_spelled(run) for run in runs]
    for word in words:
        if not any(word.casefold() in one for one in folded):
            raise ValueError(
                f"--filter: no line has {word!r} as a value, or as flag=value. Look at the lines"
            )
    kept = [
        run for run, one in zip(runs, folded, strict=True) if all(word.casefold() in one for word in words)
    ]
    if not kept:
        raise ValueError(f"--filter: no line has all of {', '.join(words)}. Leave out some of them")
    return kept


def _spelled(run: Run) -> set[str]:
    """The values of a run, alone and as flag=value."""
    values = [(name, value) for name, words in run.flags.items() for value in words]
    # --checkpoint is another word for --mask, and lines are known by either.
    values += [("checkpoint", value) for name, value in values if name == "mask"]
    spelled = {value for _, value in values} | {f"{name}={value}" for name, value in values}
    return {one.casefold() for one in spelled}


def queue_of(runs: Sequence[Run]) -> list[Job]:
    """The base models that the runs need, and the runs."""
    from grids.base_model_jobs import JOB, base_models_of

    needed = base_models_of(runs)
    bases = [Job(words) for words in needed.commands]
    return bases + [
        Job((JOB, *run.words), frozenset(needs)) for run, needs in zip(runs, needed.of_run, strict=True)
    ]


def pool_of(options: argparse.Namespace, jobs: Sequence[Job]) -> WorkerPool:
    """The workers; before they start, the tracking store is there and has said what is finished."""
    from grids.local_pool import LocalPool, places
    from tracking.folder_process import processor_count
    from tracking.store import check_store

    check_store()
    asked = options.workers or len(options.gpus) * options.jobs_per_gpu
    if options.address is not None:
        return _ray_pool(options, asked, jobs)
    size = min(asked or min(processor_count(), MOST_WORKERS), len(jobs))
    return LocalPool(places(size, options.gpus, Path(options.logs)), finished_in_store(jobs))


def _ray_pool(options: argparse.Namespace, asked: int, jobs: Sequence[Job]) -> WorkerPool:
    """Actors: as many as were asked for (0: as the cluster has room for), a word on stderr where it has not."""
    from grids.ray_pool import RayPool, connected, room
    from tracking.folder_process import processor_count

    gpu_share = 1 / options.jobs_per_gpu if options.gpus else 0
    ray = connected(options.address, min(asked or min(processor_count(), MOST_WORKERS), len(jobs)))
    there = room(ray, gpu_share)
    size = min(asked or max(1, there), len(jobs))
    if there < size:
        print(
            f"warning: the cluster has room for {there} of {size} workers; the others begin when it has more",
            file=sys.stderr,
        )
    return RayPool(ray, size, Path(options.logs), finished_in_store(jobs), gpu_share=gpu_share)


def finished_in_store(jobs: Sequence[Job]) -> set[tuple[str, str]]:
    """What is finished, by what the tracking store says, which is there from now on, and has the experiments
    of the jobs.
    """
    from evaluation import names_in
    from identity import experiment_of
    from run_flags import configs_from, options_of
    from tracking.finished import finished_jobs
    from tracking.store import open_experiment

    def named(job: Job) -> tuple[str, ...]:
        return tuple(
            command_line.first_pass(
                job.words[1:], {"experiment": None, "dataset": None, "arch": None}
            ).values()
        )

    for job in {named(job): job for job in jobs if not job.is_base}.values():
        (config,) = configs_from(*options_of(job.words[1:]))
        open_experiment(experiment_of(config), names_in("overview"))
    return finished_jobs()


class Screen:
    """A bar with what is done, running and failed, and the time left; a line for each failure, which the file
    of failures has too.

    failures: None where the lines come from that very file, which stays as it is until all of them have been
    run.
    """

    def __init__(self, queue: Queue, failures: Path | None) -> None:
        from tqdm import tqdm

        slow = 0.5 if sys.stderr.isatty() else 10  # a log file gets a line every ten seconds
        self.failures = failures
        self.bar: Any = tqdm(
            total=len(queue.jobs),
            desc="jobs",
            unit="job",
            dynamic_ncols=True,
            mininterval=slow,
            smoothing=0.1,
        )

    def show(self, queue: Queue, ended: int | None) -> None:
        state = f"{len(queue.running)} running, {len(queue.failed)} failed"
        self.bar.set_postfix_str(state, refresh=False)
        if ended is None:
            self.bar.update(0)
            return
        outcome = queue.outcomes[ended]
        if outcome.status == "failed":
            self.bar.write(f"failed: {shlex.join(queue.jobs[ended].words)}: {outcome.error}", file=sys.stderr)
            if self.failures is not None:
                write_failures(self.failures, queue, others_in(self.failures, queue))
        self.bar.update()

    def close(self) -> None:
        self.bar.close()


def write_failures(path: Path, queue: Queue, others: Sequence[str] = ()) -> None:
    """Every failed line, to be run again as it stands, under its error, after those of other sweeps; no file
    where there are none.
    """
    from grids.base_model_jobs import PYTHON

    own = [
        f"# {' '.join(queue.outcomes[n].error.split())}\n{shlex.join([*PYTHON, *queue.jobs[n].words])}"
        for n in queue.failed
    ]
    if own or others:
        write_lines(path, [*others, *own])
    else:
        path.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    from training import write_bytes

    write_bytes(path, "".join(f"{line}\n" for line in lines).encode(), "Free the place, or choose another")


def _rest_of(failures: Path, queue: Queue, options: argparse.Namespace) -> list[str]:
    """The lines in the file of failures that stay there: none where the queue was read from it, and each of
    them has been run.
    """
    return [] if options.grid is None and _same(failures, options.params) else others_in(failures, queue)


def others_in(failures: Path, queue: Queue) -> list[str]:
    """The lines of a file of failures, each under its comments, whose jobs have not ended in this queue."""
    ended = {queue.jobs[number].words for number in queue.outcomes}
    kept, comments = [], []
    text = foreign_text(failures, most=LIST, errors="backslashreplace") if failures.exists() else ""
    for line in text.removesuffix("\n").split("\n") if text else []:
        comments.append(line)
        if line.strip() and not line.lstrip().startswith("#"):
            if _job_of(line) not in ended:
                kept.append("\n".join(comments))
            comments = []
    return kept


def _job_of(line: str) -> tuple[str, ...]:
    try:
        script, own = script_of(shlex.split(line))
    except ValueError:  # no command, nor any job's
        return ()
    return script, *own


def summary(queue: Queue, seconds: float) -> str:
    """What became of the jobs."""
    finished, skipped = queue.count("finished", bases=False), queue.count("skipped", bases=False)
    runs = sum(not job.is_base for job in queue.jobs)
    rate = f", {60 * finished / seconds:.1f} runs a minute" if finished else ""
    warned = sum(bool(outcome.warnings) for outcome in queue.outcomes.values())
    doubts = f"; {warned} with a warning (column `warning` of python mlruns_parser.py)" if warned else ""
    failed = queue.count("failed", bases=False)
    return f"{runs} runs: {finished} finished, {skipped} were before, {failed} failed{doubts}; {seconds:.1f} s{rate}"
