"""The grid: every line runs as printed, base models once, mistakes refused with their line before a line is
written.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import sweep as benchmark
from lethe import command_line
from lethe.cli import forget as mlflow_forget
from lethe.cli import grid as array_param_file
from lethe.cli.grid import commands, main
from lethe.data import impl, torchvision_sets
from lethe.data.impl import read
from lethe.experiment import shared_flags
from lethe.experiment.run_flags import flags, flags_of_the_run
from lethe.models import ARCHITECTURES
from lethe.sweeps import grid
from tests.idx_format import idx

ROOT = Path(__file__).resolve().parent.parent
SMALL = """
dataset: digits
class_to_replace: [0, 3]
seed: [1, 2]
methods:
  random_mask: {kappa: [0.05, 0.1]}
  default:
"""


@pytest.fixture(autouse=True)
def folder(empty_place):
    return empty_place


@pytest.fixture
def lines(folder):
    """The commands of a grid in YAML: of the base models, and of the runs."""

    def of(text):
        (folder / "grid.yml").write_text(text)
        return commands("grid.yml")

    return of


def flags_in(jobs):
    """What follows the method, by line."""
    return [" ".join(shlex.split(line)[3:]) for line in jobs]


def test_one_line_per_combination(lines):
    _, jobs = lines(SMALL)
    assert len(jobs) == 2 * 2 * (2 + 1)
    assert len(set(jobs)) == len(jobs)
    assert (
        "python -u mlflow_forget.py --unlearn random_mask --dataset digits --class_to_replace 3 --seed 2 "
        "--kappa 0.05" in jobs
    )


def test_combinations_follow_the_order_of_the_grid(lines):
    _, jobs = lines("seed: [1, 2]\nmethods:\n  default:\n  random_mask: {kappa: [0.1, 0.2]}\n")
    assert flags_in(jobs) == [
        "--unlearn default --seed 1",
        "--unlearn random_mask --seed 1 --kappa 0.1",
        "--unlearn random_mask --seed 1 --kappa 0.2",
        "--unlearn default --seed 2",
        "--unlearn random_mask --seed 2 --kappa 0.1",
        "--unlearn random_mask --seed 2 --kappa 0.2",
    ]


def test_every_base_model_once_and_the_initial_ones_first(lines):
    base, _ = lines(SMALL)
    assert base == [
        "python -u main_baseline.py --dataset digits --seed 1",
        "python -u main_baseline.py --dataset digits --seed 2",
        "python -u main_ideal.py --dataset digits --class_to_replace 0 --seed 1",
        "python -u main_ideal.py --dataset digits --class_to_replace 0 --seed 2",
        "python -u main_ideal.py --dataset digits --class_to_replace 3 --seed 1",
        "python -u main_ideal.py --dataset digits --class_to_replace 3 --seed 2",
    ]


def test_oracles_are_made_with_the_ideal_models_among_them(lines):
    base, _ = lines("seed: [1, 2, 9]\nmethods:\n  oracle_matching: {oracle_count: 3}\n  default:\n")
    assert [line for line in base if "ideal" in line] == [
        "python -u main_ideal.py --oracles 5 --seed 1",  # 1 judges 2, 3, 4; 2 judges 3, 4, 5
        "python -u main_ideal.py --oracles 4 --seed 9",
    ]


def test_an_oracle_of_another_seed_is_made(lines):
    base, _ = lines("methods:\n  load_an_oracle: {oracle_seed: 7}\n")
    assert base == [
        "python -u main_baseline.py",
        "python -u main_ideal.py --oracles 1 --seed 7",
        "python -u main_ideal.py",
    ]


def test_a_list_in_a_list_is_one_value_of_several_words(lines):
    _, jobs = lines("class_to_replace: [[3, 5], 1]\nmethods: {default: }\n")
    assert flags_in(jobs) == [
        "--unlearn default --class_to_replace 3 5",
        "--unlearn default --class_to_replace 1",
    ]


def test_flags_that_go_together(lines):
    _, jobs = lines(
        "requests:\n- {class_to_replace: [0, 3]}\n- {class_to_replace: -1, num_indexes_to_replace: "
        "9}\nmethods: {default: }\n"
    )
    assert flags_in(jobs) == [
        "--unlearn default --class_to_replace 0",
        "--unlearn default --class_to_replace 3",
        "--unlearn default --class_to_replace -1 --num_indexes_to_replace 9",
    ]


def test_a_method_may_have_its_own_value_of_a_shared_flag(lines):
    _, jobs = lines("seed: [1, 2]\nmethods:\n  default: {seed: 7}\n  SSD:\n")
    assert flags_in(jobs) == [
        "--unlearn default --seed 7",
        "--unlearn SSD --seed 1",
        "--unlearn SSD --seed 2",
    ]


def test_what_is_excluded_and_included(lines):
    _, jobs = lines(
        "seed: [1, 2]\nmethods:\n  random_mask: {kappa: [0.1, 0.2, 0.3]}\n"
        "exclude:\n- {unlearn: Random_Mask, kappa: [0.1, 0.3], seed: 1}\n- {kappa: 0.2}\n"
        "include:\n- {unlearn: SSD}\n- {unlearn: default, seed: [8, 9]}\n"
    )
    assert flags_in(jobs) == [
        "--unlearn random_mask --seed 2 --kappa 0.1",
        "--unlearn random_mask --seed 2 --kappa 0.3",
        "--unlearn SSD --seed 1",
        "--unlearn SSD --seed 2",
        "--unlearn default --seed 8",
        "--unlearn default --seed 9",
    ]


def test_the_job_flags_do_not_reach_the_base_models(lines):
    base, jobs = lines("ideal: train\nexperiment: e\nmetrics: mia\nreport: skip\nmethods: {default: }\n")
    assert base == ["python -u main_baseline.py", "python -u main_ideal.py"]
    of_both = {action.dest for action in flags(None, ARCHITECTURES["mlp"])._actions} - flags_of_the_run()
    parser = command_line.OneLineParser("")
    shared_flags.add_shared_flags(parser)
    assert of_both == {action.dest for action in parser._actions} | set(ARCHITECTURES["mlp"].hyperparameters)
    assert flags_in(jobs) == ["--unlearn default --ideal train --experiment e --metrics mia --report skip"]


def test_without_an_ideal_model_none_is_made(lines):
    assert lines("ideal: skip\nmethods: {default: }\n")[0] == ["python -u main_baseline.py"]


def test_the_default_grid_is_one_the_main_job_takes():
    _, jobs = commands(None)
    for line in jobs:
        mlflow_forget.options_of(shlex.split(line)[3:])


def test_both_files_are_written(folder, capsys):
    assert main([]) == 0
    assert len((folder / "params.txt").read_text().splitlines()) == 48
    assert len((folder / "base_params.txt").read_text().splitlines()) == 8
    assert "48 runs -> params.txt" in capsys.readouterr().out


def command_in(text):
    """The command that runs params.txt by xargs, as a text has it."""
    return re.search(r"tr .*xargs.* sh -c", text)[0]


@pytest.mark.slow
def test_lines_with_quotes_run_under_xargs_as_documented(folder, monkeypatch):
    command = command_in((ROOT / "docs" / "sweeps.md").read_text())
    assert command_in(array_param_file.__doc__) == command
    monkeypatch.setattr(benchmark, "sh", lambda line, _: line == command or pytest.fail(line))
    benchmark.by_xargs(folder, workers=2)
    words = ["it's", "two  blanks", '"', "\\", "$HOME", "%", "a" * 3000]
    program = [sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('\\n'.join(sys.argv[2:]))"]
    lines = [shlex.join([*program, f"{number}.out", *words, str(number)]) for number in range(3)]
    (folder / "params.txt").write_text("".join(f"{line}\n" for line in lines))
    subprocess.run(command, shell=True, check=True, timeout=60)
    assert [(folder / f"{number}.out").read_text().split("\n") for number in range(3)] == [
        [*words, str(number)] for number in range(3)
    ]


def test_null_is_a_flag_left_out_and_a_hyperparameters_none(lines):
    _, jobs = lines(
        "experiment:\nmask: null\nseed: [1, 2]\nrequests:\n- {class-to-replace: 3, num_indexes_to_replace: "
        "[null, 9]}\n"
        "methods:\n  MIMU: {mask_layer: null, kappa: 3}\n"
    )
    assert [line.partition(" --seed 1 ")[2] for line in flags_in(jobs)[:2]] == [
        "--class-to-replace 3 --mask_layer none --kappa 3",
        "--class-to-replace 3 --num_indexes_to_replace 9 --mask_layer none --kappa 3",
    ]
    assert not any("experiment" in line or "--mask " in line for line in jobs)


def test_python_and_yaml_say_the_same(lines, folder):
    (folder / "grid.py").write_text(f"GRID = {yaml.safe_load(SMALL)!r}")
    assert commands("grid.py") == lines(SMALL)


def test_python_may_count(folder):
    (folder / "grid.py").write_text("GRID = {'seed': range(3), 'methods': {'default': None}}")
    assert flags_in(commands("grid.py")[1]) == [f"--unlearn default --seed {seed}" for seed in range(3)]


@pytest.mark.parametrize(
    ("grid", "line", "says"),
    [
        ("methods:\n  MIMO: {}\n", 2, "Did you mean 'MIMU'"),
        ("methods:\n  SSD:\n  SFT: {sft_steps: 3, kappa: 0.1}\n", 3, "unknown flag '--kappa'"),
        (
            "methods:\n  SFT:\n    sft_lr: 0.1\n    sft_steps:\n    - 5\n    - many\n",
            6,
            "--sft_steps: expected an integer >= 1, got",
        ),
        ("seed: 1\ndataset: [digits, digit]\nmethods:\n  SFT: {}\n", 2, "Did you mean 'digits'"),
        ("\nseeds: 1\nmethods:\n  SFT: {}\n", 2, "Did you mean '--seed'"),
        ("dataset: digits\n", None, "expected a mapping with 'methods"),
        ("methods:\n", None, "expected a mapping with 'methods"),
        ("a: [1\nmethods: 3\n", 2, "is not YAML"),
        ("seed: 1\nseed: 2\nmethods: {SFT: }\n", 2, "a second time"),
        ("seed: []\nmethods: {SFT: }\n", 1, "got an empty list"),
        ("methods:\n  SSD: 3\n", 2, "expected flags and their values, got 3"),
        (
            "seed: 1\nclass_to_replace: 10\nmethods: {SSD: }\n",
            2,
            "--class_to_replace: expected a class from 0 to 9, got 10",
        ),
        ("class_to_replace: 3\nforget_indexes: f.txt\nmethods: {SSD: }\n", 2, "Leave out --class_to_replace"),
        ("ideal: skip\nmethods: {retrain: }\n", 1, "needs the ideal model, got skip"),
        ("ideal: skip\ndataset: MNIST\nmethods: {retrain: }\n", 1, "needs the ideal model, got skip"),
        ("methods:\n  random_mask: {kappa: [1, 8193]}\n", 2, "--kappa: expected a count"),
        (
            "methods:\n  random_mask: {kappa: [[1, 2]]}\n",
            2,
            "expected one run, got several values of one flag",
        ),
        ("methods: {SSD: }\n{a: 1}: 2\n", 2, "expected a word as key, got a list or a mapping"),
        ("config: run.yml\nmethods:\n  SSD:\n", 1, "Write them into the grid"),
        ("arch: mlp\nnum-classes: 3\nmethods: {SSD: }\n", 2, "--num_classes: digits has 10 classes, got 3"),
        ("methods:\n  default:\n  FT_l1:\n  SCRUB:\n    addon: OP\n", 5, "--addon: unknown add-on 'OP'"),
        ("seed: 1\nforget_indexes: none.txt\nmethods: {SSD: }\n", 2, "there is no file none.txt"),
        ("help: true\nmethods:\n  SSD:\n", 1, "--help shows what there is, and runs nothing"),
        ("h: true\nmethods:\n  SSD:\n", 1, "--h shows what there is, and runs nothing"),
        ("methods:\n  SSD:\n    list: true\n", 3, "--list shows what there is, and runs nothing"),
        ("methods:\n  SSD:\n    kapa:\n", 3, "unknown flag '--kapa'"),
        (
            "methods:\n  SSD:\nexclude:\n- {unlearn: SSD}\n",
            None,
            "grid.yml: no run is left. Leave out some of `exclude`",
        ),
        (
            "mask: own.safetensors\nseed: [1, 2]\nmethods: {SSD: }\n",
            2,
            "--mask own.safetensors is one model, and several seeds mean several",
        ),
        ("methods:\n  SSD:\nexclude:\n- {seed: 1}\n", 4, "this excludes no run"),
        ("methods:\n  SSD:\nexclude: {seed: 1}\n", 3, "expected a list of mappings"),
        ("methods:\n  SSD:\ninclude:\n- {seed: 1}\n", 4, "Name a method"),
        (None, None, "there is no file"),
    ],
)
def test_a_mistake_in_the_grid_is_one_line_and_writes_nothing(folder, capsys, grid, line, says):
    if grid is not None:
        (folder / "grid.yml").write_text(grid)
    assert main(["--grid", "grid.yml"]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert line is None or f"grid.yml, line {line}" in message, message
    assert {path.name for path in folder.iterdir()} <= {"grid.yml"}


@pytest.fixture
def mnist(folder, monkeypatch):
    """20 images of each of ten classes where MNIST's files are looked for; and how often they were read."""
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            idx(np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8))
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(200, dtype=np.uint8) % 10))
    reads = []
    monkeypatch.setattr(impl, "read", lambda *place: reads.append(place) or read(*place))
    return reads


@pytest.mark.parametrize(
    ("grid", "line", "says"),
    [
        (
            "dataset: MNIST\nclass_to_replace: [3, 12]\nmethods: {SSD: }\n",
            2,
            "--class_to_replace: expected a class from 0 to 9, got 12",
        ),
        ("dataset: MNIST\nmethods:\n  random_mask: {kappa: [1, 99999999]}\n", 3, "--kappa: expected a count"),
        (
            "methods:\n  load_an_oracle:\n    oracle_seed: [7, 2]\nseed: [1, 2]\n",
            2,
            "in --unlearn load_an_oracle --seed 2 --oracle_seed 2",
        ),
    ],
)
def test_what_can_not_be_is_refused_where_images_are_at_hand(folder, mnist, capsys, grid, line, says):
    (folder / "grid.yml").write_text(grid)
    assert main(["--grid", "grid.yml"]) == 2
    message = capsys.readouterr().err
    assert says in message and message.startswith(f"error: grid.yml, line {line}: ")
    assert not (folder / "params.txt").exists()


def test_no_image_is_fetched_to_check_a_grid(lines, monkeypatch):
    monkeypatch.setattr(
        torchvision_sets, "torchvision_module", lambda _: pytest.fail("something is downloaded")
    )
    _, jobs = lines("dataset: KMNIST\nclass_to_replace: [0, 12]\nmethods: {SSD: }\n")
    assert len(jobs) == 2


def test_a_dataset_is_read_once(lines, mnist):
    _, jobs = lines(
        "dataset: [MNIST, KMNIST]\nclass_to_replace: [0, 3]\nsplit_seed: [0, 1]\ndevice: cuda\nmethods: "
        "{SSD: , default: }\n"
    )
    assert len(jobs) == 16
    assert sorted(dataset for dataset, *_ in mnist) == ["KMNIST", "MNIST"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("GRID = {\n  'methods': {\n    'SFT': {'kappa': 1}}}", "grid.py, line 3: unknown flag '--kappa'"),
        ("def f(): pass\nGRIT = {}", "Did you mean 'GRIT'"),
        ("import nothing_of_the_kind", "can't be run (ModuleNotFoundError"),
    ],
)
def test_a_mistake_in_a_python_grid(folder, capsys, content, says):
    (folder / "grid.py").write_text(content)
    assert main(["--grid", "grid.py"]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1


def test_no_module_of_the_grid_takes_part_in_help():
    assert array_param_file.__doc__
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    "sign",
    ["\\n", "\\r", "\\0", "\\x1b", "\\L", "\\N"],
    ids=["line", "return", "zero", "escape", "U+2028", "U+0085"],
)
def test_a_control_character_in_a_value_is_refused_with_its_line(folder, capsys, sign):
    """A line of params.txt is a command: what stands behind a line's end would be one of its own."""
    (folder / "grid.yml").write_text(f'methods:\n  default: {{}}\nexperiment: "x{sign}touch PWNED #"\n')
    assert main(["--grid", "grid.yml"]) == 2
    assert "error: grid.yml, line 3: expected a value of one line, got " in capsys.readouterr().err
    assert not (folder / "params.txt").exists()


@pytest.mark.parametrize("value", ['[a, "b\\nc"]', '[["b\\nc"]]', '{"b\\nc": 1}'])
def test_a_control_character_is_found_wherever_it_stands(folder, capsys, value):
    (folder / "grid.yml").write_text(f"methods:\n  default: {{}}\nmore: {value}\n")
    assert main(["--grid", "grid.yml"]) == 2
    assert "grid.yml, line 3: expected a value of one line" in capsys.readouterr().err


def test_a_python_grid_with_a_control_character_is_refused_too(folder, capsys):
    (folder / "grid.py").write_text("GRID = {'methods': {'default': {}},\n'experiment': 'a\\nb'}\n")
    assert main(["--grid", "grid.py"]) == 2
    assert "grid.py, line 2: expected a value of one line" in capsys.readouterr().err


@pytest.mark.parametrize("ends", ["import sys; sys.exit(3)", "raise SystemExit(3)", "exit(3)"])
def test_a_python_grid_that_exits_is_told(folder, capsys, ends):
    (folder / "grid.py").write_text(f"{ends}\nGRID = {{}}\n")
    assert main(["--grid", "grid.py"]) == 2
    assert (
        "error: --grid: grid.py ends the program (exit code 3) before GRID is read. Leave that out\n"
        in capsys.readouterr().err
    )


def test_a_python_grid_inside_of_itself_is_refused(folder, capsys):
    (folder / "grid.py").write_text("GRID = {'methods': {'default': {}}}\nGRID['seed'] = [GRID]\n")
    assert main(["--grid", "grid.py"]) == 2
    assert "expected at most 100 nested lists and mappings" in capsys.readouterr().err


def test_a_list_in_a_list_for_a_flag_of_one_word_is_its_parts(lines):
    _, jobs = lines("hidden: [[64, 32], [16]]\nmethods: {default: {}}\n")
    assert flags_in(jobs) == ["--unlearn default --hidden 64,32", "--unlearn default --hidden 16"]


def test_a_grid_of_more_runs_than_anybody_waits_for_is_refused_before_they_are_made(folder, capsys):
    seeds = list(range(1000))
    (folder / "grid.yml").write_text(
        yaml.safe_dump({"seed": seeds, "split_seed": seeds, "methods": {"default": {}}})
    )
    assert main(["--grid", "grid.yml"]) == 2
    assert (
        "error: grid.yml: expected at most 100000 runs, got 1000000. Leave out values"
        in capsys.readouterr().err
    )


def test_a_wrong_value_is_found_before_the_runs_without_one(folder, capsys, monkeypatch):
    (folder / "grid.yml").write_text(
        "epochs: [1, 2, 3, x]\nsplit_seed: [1, 2, 3, 4, 5]\nmethods: {default: {}}\n"
    )
    looked_at = []
    of = grid.one_config
    monkeypatch.setattr(grid, "one_config", lambda *given: looked_at.append(given) or of(*given))
    assert main(["--grid", "grid.yml"]) == 2
    assert "grid.yml, line 1: argument --epochs: expected an integer, got 'x'" in capsys.readouterr().err
    assert len(looked_at) <= 8  # four epochs, and five split seeds of which one is among those
