"""How the time and the memory of a main job grow with images, classes and the masked layer.

    python benchmarks/growth.py
    python benchmarks/growth.py --images 1000 10000 --classes 10 --layers 64x128

Each run is a process of its own: an `mlp` of drawn images of 8 x 8, which are read from a file, its base
model trained for one epoch, one class forgotten by --unlearn, default metrics and report. One size grows at a
time; the others are the first of --classes and --layers, and --rest images. MiB: the most that the process
holds, with Python and its libraries.

The exponents are slopes of log y over log x between the two largest sizes: 1 is linear, 0 no growth.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("initial", "unlearn", "evaluate", "report")
SIDE, TEST = 8, 6  # pixels; a sixth of the images are test images
PARTS = (*STAGES, "total", "MiB")
Size = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one table with exponents, and write the same numbers with --json."""
    options = options_of(argv)

    from benchmarks.machine import describe, write_json

    found = [
        {"grows": name, "size": size, **measured(size, options.unlearn)}
        for name, sizes in growing(options).items()
        for size in sizes
    ]
    print(table(found), describe(), sep="\n")
    write_json(options.json, __file__, argv, runs=found)
    return 0


def options_of(argv: Sequence[str] | None) -> Namespace:
    parser = BenchmarkParser(__doc__)
    for flag, default in (("images", [10**3, 10**4, 10**5, 10**6]), ("classes", [10, 100, 1000])):
        words = " ".join(map(str, default))
        parser.add_argument(
            f"--{flag}", type=int, nargs="+", default=default, metavar="N", help=f"(default: {words})"
        )
    layers = ["64x128", "512x512", "2048x1000"]
    parser.add_argument(
        "--layers", nargs="+", default=layers, metavar="NxM", help=f"(default: {' '.join(layers)})"
    )
    parser.add_number("rest", 20_000, "images of the runs whose classes or layers grow", least=1000)
    parser.add_argument("--unlearn", default="SSD", metavar="NAME", help="(default: %(default)s)")
    return parser.options(argv)


def growing(options: Namespace) -> dict[str, list[Size]]:
    """Return the sizes of the runs, by what grows."""
    plain = {"images": options.rest, "classes": options.classes[0], "layer": options.layers[0]}
    return {
        "images": [plain | {"images": count} for count in options.images],
        "classes": [plain | {"classes": count} for count in options.classes],
        "layer": [plain | {"layer": layer} for layer in options.layers],
    }


def measured(size: Size, method: str) -> dict[str, float]:
    """Return the seconds of each part and the most memory (MiB) of a run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), size["images"])
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "benchmarks.growth_run", json.dumps(size), method]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{size}: {done.stderr.strip().splitlines()[-1]}")
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def make_images(folder: Path, count: int) -> None:
    """Write `count` training images and a sixth as many test images, random bytes, part by part."""
    import numpy as np

    draw = np.random.default_rng(0)
    for name, images in (("train", count), ("test", count // TEST)):
        with (folder / f"{name}.u8").open("wb") as file:
            for start in range(0, images, 10_000):
                some = min(10_000, images - start)
                file.write(draw.integers(0, 256, (some, SIDE, SIDE), dtype=np.uint8).tobytes())


def exponent(before: float, after: float, growth: float) -> float:
    """Return the slope of log y over log x; NaN where x does not grow or y is 0."""
    if growth == 1 or min(before, after) <= 0:
        return math.nan
    return math.log(after / before) / math.log(growth)


def amount(run: Mapping[str, Any]) -> int:
    """Return the number that grows: of images, classes, or weights of the layer."""
    value = run["size"][run["grows"]]
    return math.prod(map(int, value.split("x"))) if run["grows"] == "layer" else int(value)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each run, and the exponents after each kind."""
    from lethe.report.text_table import text_table

    rows = []
    for name in dict.fromkeys(run["grows"] for run in found):
        runs = [run for run in found if run["grows"] == name]
        for run in runs:
            rows.append([name, str(run["size"][name]), *(f"{run[part]:.2f}" for part in PARTS)])
        if len(runs) > 1:
            before, after = runs[-2:]
            growth = amount(after) / amount(before)
            slopes = [exponent(before[part], after[part], growth) for part in PARTS]
            rows.append([name, "exponent", *(f"{slope:.2f}" for slope in slopes)])
    return text_table(["grows", "size", *PARTS], rows)


if __name__ == "__main__":
    raise SystemExit(main())
