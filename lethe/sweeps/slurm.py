"""A grid as SLURM job arrays."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from lethe.flag_error import FlagError
from lethe.sweeps.source_lines import control_character

LARGEST_ARRAY = 1000  # SLURM's default MaxArraySize is 1001: beyond it a task runs several lines

SCRIPT = """\
#!/bin/bash
# {runs} runs as a job array, after {bases} base models as another. Submit both:  bash {name}
# Every line is run once: what is finished is skipped, so that the same command again runs what is missing.
#SBATCH --job-name={job}
#SBATCH --output={logs}/%x-%A_%a.out
#SBATCH --cpus-per-task={cpus}
{gpus}set -euo pipefail

if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then
    cd {folder}
    mkdir -p {logs}
    base=$(sbatch --parsable --array=1-{base_tasks}%{concurrency} \\
        --export=ALL,SWEEP_LINES={base_params},SWEEP_TASKS={base_tasks},SWEEP_MORE= {name})
    sbatch --array=1-{tasks}%{concurrency} --dependency=afterok:"${{base%%;*}}" --kill-on-invalid-dep=yes \\
        --export=ALL,SWEEP_LINES={params},SWEEP_TASKS={tasks},SWEEP_MORE=--skip_finished {name}
    exit
fi

cd {folder}
export PATH={python}:"$PATH"
status=0
for ((number = SLURM_ARRAY_TASK_ID; number <= $(wc -l < "$SWEEP_LINES"); number += SWEEP_TASKS)); do
    line=$(sed -n "${{number}}p" "$SWEEP_LINES")
    echo "$line"
    eval "$line ${{SWEEP_MORE:-}}" || status=$?
done
exit "$status"
"""


@dataclass(frozen=True)
class Arrays:
    """The two files of lines of the job arrays, and the resources of each task.

    concurrency: tasks at once. python: the folder of the interpreter that runs the lines.
    """

    folder: Path
    base_params: Path
    params: Path
    bases: int
    runs: int
    concurrency: int
    gpus: int
    cpus: int
    logs: Path
    python: Path


def script(arrays: Arrays, name: Path) -> str:
    """Return the sbatch file. Raises ValueError for wrong numbers and for paths that sbatch refuses."""
    least = {"concurrency": 1, "gpus": 0, "cpus": 1}
    for flag, smallest in least.items():
        number = getattr(arrays, flag)
        if number < smallest:
            expected = f"expected an integer >= {smallest}, got {number}"
            raise FlagError(f"slurm_{flag}", f"{expected}. Correct the number")
    for path in (name, arrays.logs, arrays.base_params, arrays.params, arrays.folder):
        if control_character(str(path)) is not None:
            expected = "expected a name of one line, which a line of a script is to have"
            raise ValueError(f"{expected}, got {str(path)!r}. Choose another")
    for path in (arrays.base_params, arrays.params):
        if "," in str(path) or " " in str(path):
            expected = "expected a file name without commas and blanks, which sbatch --export divides at"
            raise ValueError(f"{expected}, got {path}. Choose another")
    return SCRIPT.format(
        name=shlex.quote(str(name)),
        job="lethe",
        runs=arrays.runs,
        bases=arrays.bases,
        logs=shlex.quote(str(arrays.logs)),
        cpus=arrays.cpus,
        gpus=f"#SBATCH --gres=gpu:{arrays.gpus}\n" if arrays.gpus else "",
        folder=shlex.quote(str(arrays.folder)),
        base_params=shlex.quote(str(arrays.base_params)),
        params=shlex.quote(str(arrays.params)),
        base_tasks=min(arrays.bases, LARGEST_ARRAY),
        tasks=min(arrays.runs, LARGEST_ARRAY),
        concurrency=arrays.concurrency,
        python=shlex.quote(str(arrays.python)),
    )
