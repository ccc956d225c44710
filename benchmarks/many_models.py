"""Time of a model: K trained at once, one after another in one process, and in a process each.

    python benchmarks/many_models.py
    python benchmarks/many_models.py --dataset MNIST --epochs 1 --models 1 4 16

at once             `fit_many`, K models of seeds 1 to K on all of train: seconds of training over K.
loop                `fit`, --loop models one after another in one process, with torch's default threads.
loop, one thread    the same with one thread, which is faster for small layers.
processes           main_baseline.py, --processes times one after another, start and reading included.

Everything is done --repeats times, in turn; the table has the medians, and the range of what was measured.
CPU seconds, of all cores together, say what was computed where other processes were at work. Each measurement
runs in a process of its own, which tells the most memory that training took beyond what was there before
(GPU: that torch gave out). Kept one by one: interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.experiment import shared_flags

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE, LOOP, ONE_THREAD, PROCESSES = "at once", "loop", "loop, one thread", "processes"
COLUMNS = ["way", "models", "s a model", "least", "most", "cpu s", "loop / way", "processes / way", "MiB"]
COLUMNS += ["measured"]

Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write the same numbers with --json."""
    parser = BenchmarkParser(__doc__)
    models_help = "models at once (default: 1 4 16 64)"
    parser.add_argument(
        "--models", type=int, nargs="+", default=[1, 4, 16, 64], metavar="K", help=models_help
    )
    parser.add_number("loop", 3, "models of the loop, 0 leaves it out", least=0)
    parser.add_number("processes", 1, "runs of main_baseline.py, 0 leaves them out", least=0)
    parser.add_number("repeats", 3, "of everything")
    architecture = parser.add_experiment(argv)
    options = parser.options(argv)
    if min(options.models) < 1:
        raise ValueError(f"--models: expected at least 1, got {options.models}. Correct the number")

    from benchmarks.machine import describe, write_json
    from lethe.report.text_table import text_table

    base, rows, note = measured(options, shared_flags.base_config(options, architecture, options.seed))
    print(
        f"{base.splits.dataset}, {base.architecture.name}, {base.epochs} epochs, {len(base.splits.train)} "
        f"images, {base.device}"
    )
    print(text_table(COLUMNS, [_shown(row, rows) for row in rows]))
    print(f"{describe()}\n{note}")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def measured(options: Namespace, config: Any) -> tuple[Any, list[Row], str]:
    """The base models, a row for each way and number of models, and where the numbers come from."""
    from benchmarks.cells import Cells
    from lethe.experiment.base_models import BaseModels

    base = BaseModels(config)
    code = ("lethe/training", "models", "lethe/data", "lethe/experiment/base_models.py")
    cells = Cells(base.save_dir / "benchmarks" / "many_models.jsonl", __file__, code=code)
    ways = [(AT_ONCE, count) for count in options.models]
    ways += [
        (way, count)
        for way, count in ((LOOP, options.loop), (ONE_THREAD, options.loop), (PROCESSES, options.processes))
        if count
    ]
    about = {
        "split": base.splits.digest,
        "arch": base.architecture.identity,
        "options": base.options,
        "device": str(base.device),
    }
    found: dict[tuple[str, int], list[Row]] = {way: [] for way in ways}
    for repeat in range(options.repeats):
        for way, count in command_line.progress_bar(ways, f"repeat {repeat + 1}/{options.repeats}"):
            key = {
                **about,
                "recipe": str(base.recipe),
                "seed": config.seed,
                "way": way,
                "models": count,
                "repeat": repeat,
            }
            found[way, count].append(cells.measured(key, lambda w=way, c=count: in_a_process(w, c, config)))  # type: ignore[misc]
    return base, [_row(way, count, values) for (way, count), values in found.items()], cells.note()


def in_a_process(way: str, count: int, config: Any) -> Row:
    """One measurement, in a new process."""
    if way == PROCESSES:
        return _processes(count, config)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_trained, way, count, config).result()


def _trained(way: str, count: int, config: Any) -> Row:
    """Return seconds and bytes of training `count` models, after a step that loads the libraries."""
    import torch

    from lethe.experiment.base_models import BaseModels
    from lethe.system.device import synchronize
    from lethe.training import fit, fit_many, generator_for

    if way == ONE_THREAD:
        torch.set_num_threads(1)
    base = BaseModels(config)
    train, device = base.splits.train, base.device
    few = train.subset(torch.arange(min(len(train), 2 * base.recipe.batch_size)))
    fit(base.untrained(), few, replace(base.recipe, epochs=1), generator=generator_for(0), device=device)
    seeds = range(config.seed, config.seed + count)
    models, generators = (
        [base.built(seed) for seed in seeds],
        [generator_for(seed, "train") for seed in seeds],
    )
    before = _memory(device)
    started, worked = time.perf_counter(), time.process_time()
    if way == AT_ONCE:
        fit_many(
            models,
            train,
            [torch.arange(len(train))] * count,
            base.recipe,
            generators=generators,
            device=device,
        )
    else:
        for model, generator in zip(models, generators, strict=True):
            fit(model, train, base.recipe, generator=generator, device=device)
    synchronize(device)
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - worked}
    return seconds | {"bytes": _memory(device) - before}


def _memory(device: Any) -> int:
    """The most bytes that this process has held so far; on a GPU, that torch has given out there."""
    import resource

    import torch

    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _processes(count: int, config: Any) -> Row:
    import resource

    from lethe.experiment.base_config import base_flags_of
    from lethe.flag_words import words_of

    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(config.seed, config.seed + count):
            flags = words_of(base_flags_of(replace(config, seed=seed, save_dir=Path(folder), mask=None)))
            command = [sys.executable, "-u", str(ROOT / "main_baseline.py"), *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - started, "cpu_seconds": worked, "bytes": None}


def _row(way: str, count: int, values: list[Row]) -> Row:
    each = [value["seconds"] / count for value in values]
    held = [value["bytes"] for value in values if value["bytes"] is not None]
    row: Row = {
        "way": way,
        "models": count,
        "seconds_a_model": median(each),
        "least": min(each),
        "most": max(each),
        "measured": len(each),
    }
    return row | {
        "cpu_seconds": median(value["cpu_seconds"] / count for value in values),
        "bytes": median(held) if held else None,
    }


def _shown(row: Row, rows: list[Row]) -> list[str]:
    seconds = {one["way"]: one["seconds_a_model"] for one in rows}
    ratios = [
        f"{seconds[way] / row['seconds_a_model']:.1f}" if way in seconds else "" for way in (LOOP, PROCESSES)
    ]
    memory = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.0f}"
    times = [f"{row[name]:.3f}" for name in ("seconds_a_model", "least", "most", "cpu_seconds")]
    return [row["way"], str(row["models"]), *times, *ratios, memory, str(row["measured"])]


if __name__ == "__main__":
    sys.exit(main())
