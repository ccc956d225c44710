"""Time MIMU: a pass of its graph network, features of many images, cached requests, many graphs at once.

    python benchmarks/mimu_speed.py
    python benchmarks/mimu_speed.py --parts passes --shape 64x128

Medians, all in one process; `counted` is of how many. Weights and graph features are random: no number here
depends on them.

passes    Forward and backward of the network on one graph of m x n vertices: by the closed form, and by
          messages along the list of edges. The floor is the dense products of the three rounds, forward and
          backward, into allocated arrays. The closed form computes rounds one and two as one: the stricter
          floor counts the products of two rounds. Extra MiB: the most that torch's allocator holds at a time
          during a pass, beyond what it held before (the list of edges included, see the heading).
features  h, a and delta of images of digits in batches (`factors_of`), beside all four features per weight
          (h_j, a_i, W_ij, dL/dW_ij) of one image after another, by a hook and the gradient of the whole
          model, a bias-free MLP 64 -> n -> m -> 10. Floats an image: the memory that is kept of one.
requests  unlearn("MIMU", ...) for each class but the first, which trains the network into the cache: copying
          and splitting the model, hashing it, reading the cache, ranking, writing the zeros. Not included:
          dividing the images into forget and retain set; hashing the training images, which the first request
          of a process does for all. The model is that MLP; on MNIST only if its files are in --data.
defaults  The same by MIMU's defaults, kappa 0.1 and auto, nothing left out but what is left out there, on a
          model that was trained for two epochs. The first request takes the answers for all classes, and the
          inputs of the layer, into the cache in memory. Beside the milliseconds those of the processor, which
          other work on the machine does not lengthen, and the slowest request's.
graphs    Forward and backward on --graphs graphs of the largest shape at once, compiled by torch.compile
          (first: the pass that compiles) and not. The memory floor is one copy of one round's activations,
          (graphs, m, n, 32) floats read and written.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

Row = dict[str, Any]
PARTS, MIB = ("passes", "features", "requests", "defaults", "graphs"), 2**20


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each part, and write the same numbers with --json."""
    options = options_of(argv)
    shapes = [shape_of(text) for text in options.shape]

    from benchmarks.machine import describe, write_json
    from benchmarks.meter import Meter
    from lethe.system.device import device_named

    meter = Meter(device_named(options.device), options.repeats, options.seconds)
    measured = {part: TABLES[part](options, shapes, meter) for part in dict.fromkeys(options.parts)}
    print(describe())
    write_json(options.json, __file__, argv, **measured)
    return 0


def options_of(argv: Sequence[str] | None) -> Namespace:
    parser = BenchmarkParser(__doc__)
    shapes = ["64x128", "128x512"]
    shape_help = "rows and columns of the layer (default: 64x128 128x512)"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--shape", nargs="+", default=shapes, metavar="MxN", help=shape_help)
    parser.add_number("repeats", 20, "counted calls of each, at most")
    parser.add_number("seconds", 10.0, "no call is added after that long; 0 counts one call of each", least=0)
    parser.add_number("images", 2048, "images whose features are taken")
    graphs_help = "graphs at once (default: 64 on a GPU, else that part is left out)"
    parser.add_argument("--graphs", type=int, metavar="N", help=graphs_help)
    parser.add_place("data", "device")
    options = parser.options(argv)
    if options.graphs is not None and options.graphs < 1:
        raise ValueError(f"--graphs: expected at least 1, got {options.graphs}. Correct the number")
    return options


def shape_of(text: str) -> tuple[int, int]:
    shape = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if shape is None:
        raise ValueError(f"--shape: expected MxN, got {text!r}. Write e.g. --shape 64x128")
    return int(shape[1]), int(shape[2])


def passes(options: Namespace, shapes: list[tuple[int, int]], meter: Any) -> list[Row]:
    from benchmarks.gcn_passes import CLOSED, FLOOR, one_graph

    columns = {
        "way": "way",
        "milliseconds": "milliseconds",
        "of_closed": "times closed form",
        "of_floor": "times floor",
    }
    columns |= {"extra_mib": "extra MiB", "extra_of_closed": "times closed form", "passes": "counted"}
    every = []
    for m, n in shapes:
        rows = one_graph(m, n, meter)
        closed, floor = (
            next(row for row in rows if row["way"] == way) for way in (CLOSED, FLOOR)
        )  # both are always there
        for row in rows:
            row["of_closed"], row["of_floor"] = (
                row["milliseconds"] / one["milliseconds"] for one in (closed, floor)
            )
            row["extra_mib"], row["extra_of_closed"] = (
                row["extra_bytes"] / MIB,
                row["extra_bytes"] / max(closed["extra_bytes"], 1),
            )
        edges = m * n * (m + n - 2)
        print_table(
            f"layer {m} x {n}, {edges} directed edges ({16 * edges / MIB:.0f} MiB), one graph, forward and "
            "backward",
            columns,
            rows,
        )
        every += rows
    return every


def features(options: Namespace, shapes: list[tuple[int, int]], meter: Any) -> list[Row]:
    from benchmarks import mimu_requests

    rows = or_a_line(
        "features",
        lambda: [row for m, n in shapes for row in mimu_requests.features(m, n, options.images, meter)],
    )
    for row in rows:
        batches = next(one for one in rows if (one["m"], one["n"]) == (row["m"], row["n"]))
        row["of_batches"] = row["milliseconds"] / batches["milliseconds"]
        row |= {
            "layer": f"{row['m']} x {row['n']}",
            "n + 2m": row["n"] + 2 * row["m"],
            "4mn": 4 * row["m"] * row["n"],
        }
    columns = {
        "layer": "layer",
        "way": "way",
        "milliseconds": "milliseconds",
        "of_batches": "times the batches",
    }
    columns |= {"floats_an_image": "floats an image", "n + 2m": "n + 2m", "4mn": "4mn", "passes": "counted"}
    print_table(f"features of {options.images} images", columns, rows)
    return rows


def requests(options: Namespace, shapes: list[tuple[int, int]], meter: Any) -> list[Row]:
    from benchmarks.mimu_requests import second_class

    folder = Path(options.data)
    rows = []
    for dataset in datasets_in(folder):

        def measured(dataset: str = dataset) -> list[dict]:
            return [row for m, n in shapes for row in second_class(dataset, folder, m, n, meter)]

        rows += or_a_line(dataset, measured)
    for row in rows:
        row["layer"] = f"{row['m']} x {row['n']}"
    columns = {
        "dataset": "dataset",
        "layer": "layer",
        "cache": "cache",
        "milliseconds": "milliseconds",
        "slowest_ms": "slowest",
    }
    columns |= {"images": "training images", "requests": "requests", "from_cache": "from the cache"}
    print_table("one class more on a cached network", columns, rows)
    return rows


def defaults(options: Namespace, shapes: list[tuple[int, int]], meter: Any) -> list[Row]:
    from benchmarks import mimu_requests

    folder = Path(options.data)
    rows: list[Row] = []
    for dataset in datasets_in(folder):
        for m, n in shapes:

            def measured(dataset: str = dataset, m: int = m, n: int = n) -> list[Row]:
                return mimu_requests.defaults(dataset, folder, m, n, meter)

            rows += or_a_line(dataset, measured)
    for row in rows:
        row["layer"] = f"{row['m']} x {row['n']}"
    columns = {"dataset": "dataset", "layer": "layer", "request": "request", "milliseconds": "milliseconds"}
    columns |= {"processor_ms": "of the processor", "slowest_ms": "slowest", "requests": "requests"}
    print_table("a request by the defaults, each class once", columns | {"images": "training images"}, rows)
    return rows


def datasets_in(folder: Path) -> list[str]:
    return ["digits"] + ["MNIST"] * (folder / "MNIST" / "raw").is_dir()


def graphs(options: Namespace, shapes: list[tuple[int, int]], meter: Any) -> list[Row]:
    if options.graphs is None and meter.device.type == "cpu":
        print("many graphs at once: not measured, no GPU is used here (--graphs N measures it on the CPU)\n")
        return []
    from benchmarks.gcn_passes import many_graphs

    count = options.graphs or 64
    m, n = max(shapes, key=lambda shape: shape[0] * shape[1])
    rows = or_a_line("many graphs at once", lambda: many_graphs(count, m, n, meter))
    for row in rows:
        row["extra_mib"] = row["extra_bytes"] / MIB
    columns = {
        "way": "way",
        "milliseconds_a_graph": "milliseconds a graph",
        "fraction_of_floor": "floor / way",
        "extra_mib": "extra MiB",
    }
    title = f"{count} graphs of {m} x {n} at once, forward and backward, {meter.device.type}"
    print_table(title, columns | {"first_ms": "first, ms", "passes": "counted"}, rows)
    return rows


TABLES: dict[str, Callable[[Namespace, list[tuple[int, int]], Any], list[Row]]]
TABLES = {
    "passes": passes,
    "features": features,
    "requests": requests,
    "defaults": defaults,
    "graphs": graphs,
}


def or_a_line(what: str, measured: Callable[[], list[Row]]) -> list[Row]:
    """The rows; none and a line that says why, where a library or a file is missing."""
    try:
        return measured()
    except (ModuleNotFoundError, FileNotFoundError) as missing:
        print(f"{what}: not measured, {missing}")
        return []


def print_table(title: str, columns: dict[str, str], rows: list[Row]) -> None:
    """A column for each key; nothing at all without a row."""
    from lethe.report.text_table import text_table

    if rows:
        print(title)
        print(
            text_table(list(columns.values()), [[cell(row[key]) for key in columns] for row in rows]) + "\n"
        )


def cell(value: Any) -> str:
    """Whole numbers and words as they are, other numbers with four digits or three decimals."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
