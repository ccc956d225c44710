"""Run the lines of a grid by warm workers, here or on a Ray cluster.

    python array_param_file.py run                              # the lines of params.txt
    python array_param_file.py run --grid grid.yml --workers 4  # the runs of a grid
    python array_param_file.py run --gpus 0,1 --jobs_per_gpu 2 --filter NegGrad,CIFAR10
    python array_param_file.py run --address ray://head:10001 --workers 64

A run is known by its experiment and config_hash. It is skipped if it is FINISHED in the tracking store, and
run again if it was interrupted or failed. After Ctrl-C or a crash, the same command runs what is missing.
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

from lethe import command_line
from lethe.commands import SCRIPTS, as_started, started
from lethe.experiment import shared_flags
from lethe.flag_words import command_line_of
from lethe.sweeps.job_queue import RUN, Job, Queue, WorkerPool, run_jobs
from lethe.system.foreign_files import LIST, foreign_text

if TYPE_CHECKING:
    from lethe.sweeps.base_model_jobs import Run

MOST_WORKERS = 8
FAILURES = "failed.txt"


def run(words: Sequence[str]) -> int:
    """Run the queue and print its summary. Returns 0, or 1 if jobs failed; Ctrl-C is raised again."""
    from lethe.sweeps.base_model_jobs import jobs_of
    from lethe.tracking.experiment_page import WHERE
    from lethe.tracking.store_uri import ui_command

    options = command_line.parsed(flags(), words)
    check(options)
    jobs = jobs_of(chosen(runs_of(options), options.filter))
    again = " ".join([started("run"), *map(shlex.quote, words)])
    queue, begun = Queue(jobs), time.perf_counter()
    pool = pool_of(options, jobs)
    failures = failures_of(options)
    reads_failures = options.grid is None and _same(failures, options.params)
    screen = Screen(queue, None if reads_failures else failures)
    try:
        run_jobs(queue, pool, screen.show)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # while the workers end their runs as KILLED
        screen.close()
        print(f"stopping: {pool.fate_of_runs}", file=sys.stderr)
        pool.stop()
        print(summary(queue, time.perf_counter() - begun))
        print(f"{queue.left} of {len(jobs)} jobs are left. Go on:  {again}")
        raise
    finally:
        screen.close()
        pool.stop()
    print(summary(queue, time.perf_counter() - begun))
    if queue.failed or failures.exists():
        write_failures(failures, queue, [] if reads_failures else others_in(failures, queue))
    if queue.failed:
        print(f"{len(queue.failed)} of {len(jobs)} jobs failed ({failures} says why). Retry them:  {again}")
        return command_line.FAILED
    print(f"look at them:  {ui_command()} ({WHERE})      as a table:  {started('parse')}")
    return 0


def flags() -> command_line.OneLineParser:
    summary, _, details = as_started(__doc__ or "").partition("\n")
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
        help="only the lines with all of these words, in capitals or not: values (SSD), or flags with a "
        "value (seed=1)",
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
    """Raise ValueError for wrong numbers of workers, and for places that can't be written."""
    from lethe.system.threads import threads_asked

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


def runs_of(options: argparse.Namespace) -> list[Run]:
    """Return the runs of the grid, or of a file's lines without those that train base models.

    Base models that the runs need are trained anyway. Raises ValueError for a line that is no run.
    """
    from lethe.sweeps.grid import runs_in

    if options.grid is not None:
        return runs_in(options.grid)
    path = Path(options.params)
    make_it = f"Make it: {started('grid')}"
    if not path.is_file():
        raise FileNotFoundError(f"--params: expected a file of lines, and there is no file {path}. {make_it}")
    found = []
    text = foreign_text(path, most=LIST, errors="backslashreplace")
    for number, line in enumerate(text.split("\n"), 1):  # as a shell divides it
        if is_command(line) and not trains_base_models(line):
            found.append(run_of(line, f"{path}, line {number}"))
    if not found:
        raise ValueError(f"--params: expected lines to run, and {path} has none. {make_it}")
    return found


def is_command(line: str) -> bool:
    """Return whether a line is neither empty nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def trains_base_models(line: str) -> bool:
    """Return whether a line runs main_baseline.py or main_ideal.py, perhaps by another program."""
    words = line.split()
    scripts = {script_of(words)[0], *(Path(word).name for word in words[:3])}
    return not scripts.isdisjoint((SCRIPTS["baseline"], SCRIPTS["ideal"]))


def run_of(line: str, where: str) -> Run:
    """Return the run of a line. Raises ValueError for other lines, and what mlflow_forget.py refuses."""
    from lethe.experiment import run_flags
    from lethe.sweeps.base_model_jobs import Run, one_config

    try:
        script, words = script_of(shlex.split(line))
        if script != RUN:
            expected = f"expected '{started('forget')} --unlearn ...' and nothing before it"
            raise ValueError(f"{expected}, got {line!r}. Correct the line")
        config = one_config(words, "line")
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Run(tuple(words), run_flags.flags_given(words), config)


def script_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the script that a line runs, "" if it runs something else, and the words after it."""
    rest = list(words)
    if rest and re.fullmatch(r"python[\d.]*", Path(rest[0]).name):
        rest = rest[2 if rest[1:2] in (["-u"], ["-m"]) else 1 :]
    if len(rest) > 1 and Path(rest[0]).name == "lethe":
        return SCRIPTS.get(rest[1], ""), rest[2:]
    return (Path(rest[0]).name, rest[1:]) if rest and rest[0].endswith(".py") else ("", rest)


def chosen(runs: list[Run], words: Sequence[str]) -> list[Run]:
    """Return the runs that have all the words. Raises ValueError if a word, or all together, match none."""
    texts = [_texts_of(run) for run in runs]
    for word in words:
        if not any(word.casefold() in own for own in texts):
            raise ValueError(
                f"--filter: no line has {word!r} as a value, or as flag=value. Look at the lines"
            )
    wanted = {word.casefold() for word in words}
    kept = [run for run, own in zip(runs, texts, strict=True) if wanted <= own]
    if not kept:
        raise ValueError(f"--filter: no line has all of {', '.join(words)}. Leave out some of them")
    return kept


def _texts_of(run: Run) -> set[str]:
    """Return the values of a run's flags, alone and as flag=value, in lower case."""
    values = [(name, value) for name, words in run.flags.items() for value in words]
    values += [(shared_flags.SHORT[name], value) for name, value in values if name in shared_flags.SHORT]
    return {text.casefold() for name, value in values for text in (value, f"{name}={value}")}


def pool_of(options: argparse.Namespace, jobs: Sequence[Job]) -> WorkerPool:
    """Return the workers. Before they start, the tracking store is made and asked for finished runs."""
    from lethe.sweeps.local_pool import LocalPool, places
    from lethe.system.threads import processor_count
    from lethe.tracking.store import check_store

    check_store()
    asked = options.workers or len(options.gpus) * options.jobs_per_gpu
    if options.address is not None:
        return _ray_pool(options, asked, jobs)
    size = min(asked or min(processor_count(), MOST_WORKERS), len(jobs))
    return LocalPool(places(size, options.gpus, Path(options.logs)), finished_in_store(jobs))


def _ray_pool(options: argparse.Namespace, asked: int, jobs: Sequence[Job]) -> WorkerPool:
    """Return as many actors as asked for (0: as the cluster has room for). Warns if there is less room."""
    from lethe.sweeps.ray_pool import RayPool, connected, room
    from lethe.system.threads import processor_count

    gpu_share = 1 / options.jobs_per_gpu if options.gpus else 0
    ray = connected(options.address, min(asked or min(processor_count(), MOST_WORKERS), len(jobs)))
    there = room(ray, gpu_share)
    size = min(asked or max(1, there), len(jobs))
    if there < size:
        warning = f"the cluster has room for {there} of {size} workers; the others begin when it has more"
        print(f"warning: {warning}", file=sys.stderr)
    return RayPool(ray, size, Path(options.logs), finished_in_store(jobs), gpu_share=gpu_share)


def finished_in_store(jobs: Sequence[Job]) -> set[tuple[str, str]]:
    """Return the (experiment, config_hash) of every FINISHED run. Makes the experiments of the jobs."""
    from lethe.evaluation import names_in
    from lethe.experiment.identity import experiment_of
    from lethe.experiment.run_config import PipelineConfig
    from lethe.tracking.finished import finished_keys
    from lethe.tracking.store import open_experiment

    configs = [job.config for job in jobs if isinstance(job.config, PipelineConfig)]
    for experiment in dict.fromkeys(map(experiment_of, configs)):
        open_experiment(experiment, names_in("overview"))
    return finished_keys()


class Screen:
    """A bar with the jobs that are done, running and failed, and a line for each failure.

    failures: the file that gets each failure too; None if the lines are read from it, as it then stays until
    all of them have run.
    """

    def __init__(self, queue: Queue, failures: Path | None) -> None:
        from tqdm import tqdm

        from lethe.system.progress_place import bar_settings

        self.failures = failures
        self.bar: Any = tqdm(
            total=len(queue.jobs),
            desc="jobs",
            unit="job",
            smoothing=0.1,
            **bar_settings(on_a_terminal=0.5),
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
    """Write the other lines, then every failed one under its error. Removes the file if there are none."""
    lines = list(others)
    for number in queue.failed:
        error = " ".join(queue.outcomes[number].error.split())
        lines += [f"# {error}", command_line_of(queue.jobs[number].words)]
    if lines:
        write_lines(path, lines)
    else:
        path.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    from lethe.training import write_bytes

    write_bytes(path, "".join(f"{line}\n" for line in lines).encode(), "Free the place, or choose another")


def others_in(failures: Path, queue: Queue) -> list[str]:
    """Return the lines, with their comments, whose jobs have not ended in this queue."""
    if not failures.exists():
        return []
    ended = {queue.jobs[number].words for number in queue.outcomes}
    kept, block = [], []
    for line in foreign_text(failures, most=LIST, errors="backslashreplace").removesuffix("\n").split("\n"):
        block.append(line)
        if is_command(line):
            if _words_of(line) not in ended:
                kept += block
            block = []
    return kept


def _words_of(line: str) -> tuple[str, ...]:
    """Return the words of a line's job; none if the line is no command that a shell can divide."""
    try:
        script, own = script_of(shlex.split(line))
    except ValueError:
        return ()
    return script, *own


def summary(queue: Queue, seconds: float) -> str:
    """Return the number of runs by outcome, and the seconds, in one line."""
    finished, skipped = queue.count("finished", bases=False), queue.count("skipped", bases=False)
    failed = queue.count("failed", bases=False)
    runs = sum(not job.is_base for job in queue.jobs)
    warned = sum(bool(outcome.warnings) for outcome in queue.outcomes.values())
    counts = f"{runs} runs: {finished} finished, {skipped} were before, {failed} failed"
    if warned:
        counts += f"; {warned} with a warning (column `warning` of {started('parse')})"
    rate = f", {60 * finished / seconds:.1f} runs a minute" if finished else ""
    return f"{counts}; {seconds:.1f} s{rate}"
