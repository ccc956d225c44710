"""What one pass of the graph network costs: closed form, edge list, and the matrix products that neither can do without.

    python benchmarks/mimu_speed.py --shape 64x128

Forward and backward of the whole network on one graph, medians of several passes in one process. The floor is the dense products
of the three rounds, forward and backward, written into arrays that are there already.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import command_line


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one table, and write the same numbers with --json."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip())
    parser.add_argument("--shape", default="64x128", metavar="MxN", help="rows and columns of the layer (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="counted passes of each (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    options = command_line.parsed(parser, argv)
    shape = re.fullmatch(r"(\d+)x(\d+)", options.shape)
    if shape is None or options.repeats < 1:
        raise ValueError(f"expected --shape MxN and --repeats >= 1, got {options.shape} and {options.repeats}. Write e.g. --shape 64x128")

    from benchmarks.machine import describe, write_json
    from reporter.text_table import number, text_table

    m, n = int(shape[1]), int(shape[2])
    seconds = {name: median_seconds(step, options.repeats) for name, step in passes(m, n).items()}
    closed = seconds["closed form"]
    rows = [[name, number(1000 * value, 3), number(value / closed, 1)] for name, value in seconds.items()]
    print(f"layer {m} x {n}, {m * n * (m + n - 2)} directed edges, one graph, forward and backward")
    print(text_table(["way", "milliseconds", "times the closed form"], rows))
    print(describe())
    write_json(options.json, {"m": m, "n": n, "seconds": seconds})
    return 0


def passes(m: int, n: int) -> dict[str, Callable[[], object]]:
    """One forward and backward pass each way, on the same random features."""
    import torch

    from unlearn.mimu.gcn import FEATURES, WIDTH, MaskingGCN
    from unlearn.mimu.message_passing import logits_by_messages, rook_edges

    torch.manual_seed(0)
    gcn = MaskingGCN()
    x = torch.randn(1, m, n, FEATURES)
    edges = rook_edges(m, n)
    narrow, wide, out = x.view(-1, FEATURES), torch.randn(m * n, WIDTH), torch.empty(m * n, WIDTH)
    up, square = torch.randn(FEATURES, WIDTH), torch.randn(WIDTH, WIDTH)

    def closed_form() -> None:
        gcn.zero_grad()
        gcn(x).square().mean().backward()

    def edge_list() -> None:
        gcn.zero_grad()
        logits_by_messages(gcn, x[0].flatten(0, 1), edges).square().mean().backward()

    def floor() -> None:
        with torch.no_grad():
            torch.mm(narrow, up, out=out)
            narrow.T @ wide
            for _ in range(2):  # forward, gradient of the input, gradient of the map
                torch.mm(wide, square, out=out)
                torch.mm(wide, square, out=out)
                wide.T @ out

    return {"closed form": closed_form, "edge list": edge_list, "floor: the products alone": floor}


def median_seconds(step: Callable[[], object], repeats: int) -> float:
    """The median of `repeats` passes after two that do not count."""
    from statistics import median

    for _ in range(2):
        step()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


if __name__ == "__main__":
    sys.exit(main())
