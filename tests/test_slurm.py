"""The sbatch file: it is shell, submits both arrays, and its tasks run every line once."""

import os
import subprocess
from pathlib import Path

import pytest

import array_param_file

pytestmark = pytest.mark.slow

SBATCH = """#!/bin/bash
# Runs the tasks of an array one after the other, as SLURM would by and by.
echo "$@" >> sbatch_calls.txt
for word in "$@"; do
    case "$word" in
        --array=*) last=${word#--array=1-}; last=${last%%%*} ;;
        --export=*) for pair in $(echo "${word#--export=ALL,}" | tr , ' '); do export "${pair?}"; done ;;
    esac
done
script=${!#}
for ((SLURM_ARRAY_TASK_ID = 1; SLURM_ARRAY_TASK_ID <= last; SLURM_ARRAY_TASK_ID++)); do
    SLURM_ARRAY_TASK_ID=$SLURM_ARRAY_TASK_ID bash "$script" >> tasks.txt || exit 1
done
echo "17;cluster"
"""
PYTHON = '#!/bin/bash\necho "$@" >> ran.txt\n'


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, with a blank in its name, whose `sbatch` runs tasks and whose `python` notes what it was
    asked for.
    """
    inside = tmp_path / "a folder"
    inside.mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.setenv("PATH", f"{inside}/bin:{os.environ['PATH']}")
    executable(inside / "bin" / "sbatch", SBATCH)
    executable(inside / "bin" / "python", PYTHON)
    monkeypatch.setattr("sys.executable", str(inside / "bin" / "python"))
    (inside / "grid.yml").write_text("seed: [1, 2]\nmethods: {default: , random_mask: {kappa: [10%, 0.2]}}\n")
    return inside


def submit(*flags):
    assert array_param_file.main(["--grid", "grid.yml", "--slurm", *flags]) == 0
    return subprocess.run(["bash", "sweep.sbatch"], capture_output=True, text=True, timeout=60)


def test_every_line_runs_once_and_the_base_models_first(folder):
    assert subprocess.run(["bash", "-n", "sweep.sbatch"], timeout=60).returncode != 0  # not written yet
    done = submit("--slurm_concurrency", "3", "--slurm_gpus", "1", "--slurm_cpus", "4")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert subprocess.run(["bash", "-n", "sweep.sbatch"], timeout=60).returncode == 0
    bases, runs = ((folder / name).read_text().splitlines() for name in ("base_params.txt", "params.txt"))
    expected = [line.removeprefix("python ") for line in bases] + [
        f"{line.removeprefix('python ')} --skip_finished" for line in runs
    ]
    assert (folder / "ran.txt").read_text().splitlines() == expected
    calls = (folder / "sbatch_calls.txt").read_text().splitlines()
    assert calls == [
        "--parsable --array=1-4%3 --export=ALL,SWEEP_LINES=base_params.txt,SWEEP_TASKS=4,SWEEP_MORE= "
        "sweep.sbatch",
        "--array=1-6%3 --dependency=afterok:17 --kill-on-invalid-dep=yes "
        "--export=ALL,SWEEP_LINES=params.txt,SWEEP_TASKS=6,SWEEP_MORE=--skip_finished sweep.sbatch",
    ]
    script = (folder / "sweep.sbatch").read_text()
    assert "#SBATCH --gres=gpu:1\n" in script
    assert "#SBATCH --cpus-per-task=4\n" in script
    assert "#SBATCH --output=sweep_logs/%x-%A_%a.out\n" in script


def test_more_lines_than_an_array_may_have(folder, monkeypatch):
    monkeypatch.setattr("lethe.sweeps.slurm.LARGEST_ARRAY", 4)
    assert submit().returncode == 0
    ran = (folder / "ran.txt").read_text().splitlines()
    assert sorted(line.removesuffix(" --skip_finished") for line in ran[4:]) == sorted(
        line.removeprefix("python ") for line in (folder / "params.txt").read_text().splitlines()
    )


def test_a_task_with_a_line_that_fails_fails_after_the_others(folder, monkeypatch):
    monkeypatch.setattr("lethe.sweeps.slurm.LARGEST_ARRAY", 1)
    executable(folder / "bin" / "python", PYTHON + '[[ "$*" != *main_baseline.py*"--seed 1"* ]]\n')
    done = submit()
    assert done.returncode != 0
    assert len((folder / "ran.txt").read_text().splitlines()) == 4  # all base models, and no run


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--slurm_concurrency", "0"], "--slurm_concurrency: expected an integer >= 1, got 0"),
        (["--slurm_gpus", "-1"], "--slurm_gpus: expected an integer >= 0, got -1"),
        (["--params", "my params.txt"], "without commas and blanks"),
        (
            ["--slurm_logs", "logs\ntouch PWNED #"],
            r"expected a name of one line, which a line of a script is to have, got 'logs\ntouch PWNED #'",
        ),
        (["--slurm", "a\ntouch PWNED\n#.sbatch"], "expected a name of one line"),
    ],
)
def test_a_mistake_writes_nothing(folder, capsys, flags, says):
    before = sorted(folder.iterdir())
    assert array_param_file.main(["--grid", "grid.yml", "--slurm", *flags]) == 2
    assert says in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
