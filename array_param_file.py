"""A grid of settings -> base_params.txt and params.txt, one command a line.

    python array_param_file.py                  # the small grid inside
    python array_param_file.py --grid grid.yml
    sh -e base_params.txt && sh params.txt      # or: xargs -P2 -I{} sh -c '{}' < params.txt

base_params.txt trains every initial and ideal model once; params.txt unlearns. Each line runs as it stands. A grid is YAML:
a value or a list of values for each of the shared flags, and a mapping of methods to their own flags:

    dataset: digits
    class_to_replace: [0, 1]
    seed: [1, 2, 3]
    methods:
      MIMU: {topk: 50, kappa: [0.05, 0.1]}
      SFT: {sft_mode: [randomize_forget, finetune_retain]}
      default: {}
"""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import command_line

DEFAULT_GRID: dict[str, Any] = {
    "dataset": "digits",
    "class_to_replace": [0, 1, 2],
    "seed": [1, 2],
    "methods": {
        "MIMU": {"topk": 50, "kappa": [0.05, 0.1]},
        "SFT": {"sft_mode": ["randomize_forget", "randomize_forget_and_finetune_retain"]},
        "logit_attribution": {"kappa": [0.05, 0.1]},
        "random_mask": {"kappa": 0.1},
        "default": {},
    },
}
METHODS_KEY = "methods"
NOT_BASE = ("ideal", "experiment")

Setting = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the grid, check it against the registry, write both files."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip())
    parser.add_argument("--grid", metavar="FILE", help="a YAML grid (default: the small grid inside)")
    parser.add_argument("--base_params", default="base_params.txt", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--params", default="params.txt", metavar="FILE", help="default: %(default)s")
    options = command_line.parsed(parser, argv)

    base, jobs = commands(DEFAULT_GRID if options.grid is None else read_grid(Path(options.grid)))
    write_lines(Path(options.base_params), base)
    write_lines(Path(options.params), jobs)
    print(f"{len(base)} base models -> {options.base_params}, {len(jobs)} runs -> {options.params}")
    print(f"run them:  sh -e {options.base_params} && sh {options.params}")
    return 0


def read_grid(path: Path) -> dict[str, Any]:
    """The grid in a YAML file. FileNotFoundError, or ValueError for what is no mapping with methods."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"--grid: expected a YAML file, and there is no file {path}. Check the path")
    try:
        grid = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--grid: {path} is not YAML ({' '.join(str(error).split())[:160]}). Correct it") from error
    if not isinstance(grid, dict) or not isinstance(grid.get(METHODS_KEY), dict) or not grid[METHODS_KEY]:
        raise ValueError(f"--grid: expected a mapping with 'methods: {{NAME: {{flag: values}}}}' in {path}. See --help")
    return grid


def commands(grid: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The commands that train base models, each once, and those that unlearn.

    Every command is checked as mlflow_forget.py checks it, but for what needs the data: ValueError for unknown names, flags
    and values.
    """
    shared = {name: value for name, value in grid.items() if name != METHODS_KEY}
    base: dict[str, None] = {}
    jobs: dict[str, None] = {}
    for setting in combinations(shared):
        flags = words(setting)
        initial = words({name: value for name, value in setting.items() if name not in NOT_BASE})
        base[shlex.join(["python", "-u", "main_baseline.py", *without_request(initial)])] = None
        if setting.get("ideal") != "skip":
            base[shlex.join(["python", "-u", "main_ideal.py", *initial])] = None
        for method, own in grid[METHODS_KEY].items():
            for chosen in combinations(own or {}):
                line = ["--unlearn", method, *flags, *words(chosen)]
                check(line)
                jobs[shlex.join(["python", "-u", "mlflow_forget.py", *line])] = None
    return sorted(base, key=lambda line: "main_ideal" in line), list(jobs)


def combinations(values: Mapping[str, Any]) -> Iterator[Setting]:
    """Every combination of the listed values, in the order of the grid. A list in the list is one value of several words."""
    lists = [value if isinstance(value, list) else [value] for value in values.values()]
    for chosen in itertools.product(*lists):
        yield dict(zip(values, chosen, strict=True))


def words(setting: Mapping[str, Any]) -> list[str]:
    return [word for name, value in setting.items() for word in (f"--{name}", *(map(text, value if isinstance(value, list) else [value])))]


def text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def without_request(flags: Sequence[str]) -> list[str]:
    """The same flags but for what is forgotten, which the initial model does not depend on."""
    request = ("--class_to_replace", "--num_indexes_to_replace", "--forget_indexes")
    kept, skipping = [], False
    for word in flags:
        if word.startswith("--"):
            skipping = word in request
        if not skipping:
            kept.append(word)
    return kept


def check(line: Sequence[str]) -> None:
    """ValueError, with the grid's line, for what mlflow_forget.py would refuse."""
    import mlflow_forget

    try:
        mlflow_forget.options_of(line)
    except ValueError as error:
        raise ValueError(f"grid, {shlex.join(line)}: {error}") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    from training import write_bytes

    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    sys.exit(main())
