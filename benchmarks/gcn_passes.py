"""Forward and backward passes of the graph network: one graph each way, and many graphs at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.meter import Meter, Step
from lethe.unlearn.mimu.gcn import FEATURES, WIDTH, MaskingGCN

Row = dict[str, Any]
CLOSED, EDGES, FLOOR, FUSED = (
    "closed form",
    "edge list",
    "floor: products of three rounds",
    "floor: products of two rounds",
)
COPY = "memory floor: one copy"


def one_graph(m: int, n: int, meter: Meter) -> list[Row]:
    """A row for each way. The edge list is named and left out where its library or its memory is not here."""

    def row(way: str, step: Step) -> Row:
        extra = meter.extra_bytes(step)  # also the pass that warms up
        return {"m": m, "n": n, "way": way, **meter.timed(step), "extra_bytes": extra}

    rows = [row(CLOSED, closed_form(m, n, meter.device))]
    try:
        rows.append(row(EDGES, edge_list(m, n, meter.device)))
    except (ModuleNotFoundError, torch.OutOfMemoryError) as error:
        print(f"{EDGES}: not measured ({reason_of(error)})")
    return [*rows, row(FLOOR, products(m, n, 2, meter.device)), row(FUSED, products(m, n, 1, meter.device))]


def network_and_features(graphs: int, m: int, n: int, device: torch.device) -> tuple[MaskingGCN, Tensor]:
    torch.manual_seed(0)
    return MaskingGCN().to(device), torch.randn(graphs, m, n, FEATURES, device=device)


def a_pass(gcn: torch.nn.Module, logits: Callable[[], Tensor]) -> Step:
    """Forward and backward; the gradients go at its end, so that every pass begins with the same memory."""

    def step() -> None:
        logits().square().mean().backward()
        gcn.zero_grad()

    return step


def closed_form(m: int, n: int, device: torch.device) -> Step:
    gcn, x = network_and_features(1, m, n, device)
    return a_pass(gcn, lambda: gcn(x))


def edge_list(m: int, n: int, device: torch.device) -> Step:
    from tests.message_passing import logits_by_messages, rook_edges

    gcn, x = network_and_features(1, m, n, device)
    vertices, edges = x[0].flatten(0, 1), rook_edges(m, n).to(device)
    return a_pass(gcn, lambda: logits_by_messages(gcn, vertices, edges))


def products(m: int, n: int, square_rounds: int, device: torch.device) -> Step:
    """The dense products alone, into allocated arrays: a round 4 -> 32, `square_rounds` 32 -> 32."""
    shapes = (m * n, FEATURES), (m * n, WIDTH), (FEATURES, WIDTH), (WIDTH, WIDTH)
    narrow, wide, up, square = (torch.randn(shape, device=device) for shape in shapes)
    out, of_up, of_square = torch.empty_like(wide), torch.empty_like(up), torch.empty_like(square)

    def step() -> None:
        torch.mm(narrow, up, out=out)
        torch.mm(narrow.T, wide, out=of_up)
        for _ in range(square_rounds):
            torch.mm(wide, square, out=out)  # forward
            torch.mm(wide, square, out=out)  # gradient of the input
            torch.mm(wide.T, out, out=of_square)  # gradient of the map

    return step


def many_graphs(graphs: int, m: int, n: int, meter: Meter) -> list[Row]:
    """Return a row for the compiled network, the plain one, and the memory floor."""
    gcn, x = network_and_features(graphs, m, n, meter.device)
    compiled = torch.compile(gcn, dynamic=False)
    activations = torch.randn(graphs, m, n, WIDTH, device=meter.device)
    copied = torch.empty_like(activations)
    ways: dict[str, Step] = {
        COPY: lambda: copied.copy_(activations),
        "compiled": a_pass(gcn, lambda: compiled(x)),
        "not compiled": a_pass(gcn, lambda: gcn(x)),
    }
    rows: dict[str, Row] = {}
    for way, step in ways.items():
        try:
            cost = {"first_ms": meter.once(step), "extra_bytes": meter.extra_bytes(step), **meter.timed(step)}
        except RuntimeError as error:  # no compiler here, too little memory
            print(f"{way}: not measured ({reason_of(error)})")
            continue
        fraction = rows.get(COPY, cost)["milliseconds"] / cost["milliseconds"]
        each = {"milliseconds_a_graph": cost["milliseconds"] / graphs, "fraction_of_floor": fraction}
        rows[way] = {"graphs": graphs, "m": m, "n": n, "way": way, **cost, **each}
    return list(rows.values())


def reason_of(error: Exception) -> str:
    """An exception as one line: its kind, and the first line that it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
