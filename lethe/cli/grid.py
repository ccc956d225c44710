"""A grid of settings -> base_params.txt and params.txt, one command a line; and all of them run.

    python array_param_file.py --grid grid.yml                       # writes both files
    sh -e base_params.txt && sh params.txt    # or: tr '\\n' '\\0' < params.txt | xargs -0 -n1 -P2 sh -c
    python array_param_file.py run --grid grid.yml --workers 2       # runs them; --help lists its flags
    python array_param_file.py --grid grid.yml --slurm && bash sweep.sbatch

base_params.txt trains every initial and ideal model, and the oracles that methods ask for, once; params.txt
unlearns. Each line runs as it stands. A grid is YAML, or a Python file with the same as a dict GRID:

    dataset: digits                       # a value or a list of values for each of the shared flags
    class_to_replace: [0, 1, [3, 5]]      # a list in the list is one value of several words
    seed: [1, 2, 3]
    models:                               # a list of mappings, under any name: flags that go together
      - {arch: mlp, hidden: ["128,64", "64,32"]}
      - {arch: mlp, epochs: 50}
    methods:
      MIMU: {topk: 50, kappa: [0.05, 0.1]}
      SFT: {sft_mode: finetune_retain, seed: 1}      # a shared flag here counts instead of the one above
      default:
    exclude:                              # no run that has all of these values (of a list: one of them)
      - {unlearn: MIMU, class_to_replace: 1, kappa: 0.1}
    include:                              # more runs; the shared flags hold where nothing else is said
      - {unlearn: SSD, seed: 9}
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lethe import command_line
from lethe.commands import as_started, started
from lethe.flag_words import command_line_of


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Read and check the grid, and write both files; with `run`, run the lines."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["run"]:
        from lethe.sweeps.run import run

        return run(words[1:])
    summary, _, details = as_started(__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip("\n"))
    parser.add_argument(
        "--grid", metavar="FILE", help="a YAML or Python grid (default: the small grid inside)"
    )
    parser.add_argument(
        "--base_params", default="base_params.txt", metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--params", default="params.txt", metavar="FILE", help="default: %(default)s")
    add_slurm_flags(parser)
    options = command_line.parsed(parser, words)

    from lethe.sweeps.run import write_lines

    base, jobs = commands(options.grid)
    script = None if options.slurm is None else slurm_script(options, len(base), len(jobs))
    write_lines(Path(options.base_params), base)
    write_lines(Path(options.params), jobs)
    print(f"{len(base)} base models -> {options.base_params}, {len(jobs)} runs -> {options.params}")
    if script is None:
        grid = "" if options.grid is None else f" --grid {shlex.quote(options.grid)}"
        queue = started("run") + grid
        print(f"run them:  {queue}      or:  sh -e {options.base_params} && sh {options.params}")
        return 0
    write_lines(Path(options.slurm), script.splitlines())
    print(f"submit them:  bash {options.slurm}")
    return 0


def add_slurm_flags(parser: command_line.OneLineParser) -> None:
    group = parser.add_argument_group("SLURM")
    group.add_argument(
        "--slurm",
        nargs="?",
        const="sweep.sbatch",
        metavar="FILE",
        help="write job arrays too (without a name: %(const)s)",
    )
    group.add_argument(
        "--slurm_concurrency",
        type=int,
        default=8,
        metavar="N",
        help="tasks of an array at once (default: %(default)s)",
    )
    group.add_argument(
        "--slurm_gpus", type=int, default=0, metavar="N", help="GPUs of each task (default: %(default)s)"
    )
    group.add_argument(
        "--slurm_cpus", type=int, default=1, metavar="N", help="cores of each task (default: %(default)s)"
    )
    group.add_argument(
        "--slurm_logs",
        default="sweep_logs",
        metavar="FOLDER",
        help="what the tasks print (default: ./%(default)s)",
    )


def slurm_script(options: Any, bases: int, runs: int) -> str:
    from lethe.sweeps.slurm import Arrays, script

    arrays = Arrays(
        folder=Path.cwd(),
        base_params=Path(options.base_params),
        params=Path(options.params),
        bases=bases,
        runs=runs,
        concurrency=options.slurm_concurrency,
        gpus=options.slurm_gpus,
        cpus=options.slurm_cpus,
        logs=Path(options.slurm_logs),
        python=Path(sys.executable).parent,
    )
    return script(arrays, Path(options.slurm))


def commands(grid: str | None) -> tuple[list[str], list[str]]:
    """Return the commands that train the base models of a grid's file, each once, and those of its runs.

    Raises ValueError as `grid.runs_of`.
    """
    from lethe.sweeps.base_model_jobs import jobs_of
    from lethe.sweeps.grid import runs_in

    jobs = jobs_of(runs_in(grid))
    bases = [command_line_of(job.words) for job in jobs if job.is_base]
    runs = [command_line_of(job.words) for job in jobs if not job.is_base]
    return bases, runs
