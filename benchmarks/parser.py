"""Time mlruns_parser.py on large stores, compare it with mlflow.search_runs(...).to_csv cell by cell.

    python benchmarks/parser.py
    python benchmarks/parser.py --stores sqlite files --runs 5000

The comparison: a sqlite store and a file store, read by both in turn, medians; ratio is MLflow's seconds over
the parser's, neither with its imports: by the clock, and of the CPU, which other jobs on the machine disturb
less. Each reads once before that, uncounted: what is compared is reading files that the system has in memory,
not the disk, which is the same for both. Cells are compared one by one: status, name, times, every param and
every metric of every run. MLflow's sqlite gives infinities as the largest float and its CSV has NaN as an
empty cell; the parser gives what was logged, and these are counted apart.

The scale: a row per run (table) and a row per logged value (history), from sqlite and PostgreSQL with --runs,
from a file store and a server with --slow_runs. Peak memory is that of the reading process and of the largest
that helps it.

Stores are written in bulk, kept in --folder and used again; finished readings are kept too: an interrupted
run goes on where it stopped. PostgreSQL is started from its installed binaries, or is the --postgres that you
name.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line

ROOT = Path(__file__).resolve().parent.parent
STORES = ("sqlite", "postgres", "files", "server")
COMPARED = ("sqlite", "files")
SLOW = ("files", "server")
MEASURED = ("seconds", "cpu_seconds", "peak_mib")
CODE = ("lethe/cli/parse.py", "lethe/tracking", "lethe/report/table_files.py")

Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables; the same numbers with --json."""
    options = options_of(argv)

    from benchmarks import cells, machine, parser_process, parser_stores

    folder = Path(options.folder)
    kept = cells.Cells(folder / "cells.jsonl", parser_stores.__file__, parser_process.__file__, code=CODE)
    both = [kind for kind in COMPARED if kind in options.stores and options.compare_runs]
    compared = [comparison(kind, options, kept) for kind in both]
    if compared:
        print(comparison_table(compared), end="\n\n")
    scaled = [row for kind in STORES if kind in options.stores for row in readings(kind, options, kept)]
    if scaled:
        print(scale_table(scaled), end="\n\n")
    print(kept.note(), machine.describe(), sep="\n")
    machine.write_json(options.json, __file__, argv, compared=compared, scaled=scaled)
    return 0


def options_of(argv: Sequence[str] | None) -> Any:
    parser = BenchmarkParser(__doc__)
    add, number = parser.add_argument, parser.add_number
    add("--stores", nargs="+", choices=STORES, default=list(STORES), help="default: all")
    number("compare_runs", 5000, "of the comparison; 0 leaves it out", least=0)
    number("repeats", 3, "of the comparison, medians are shown")
    number("runs", 100_000, "of sqlite and PostgreSQL; 0 leaves the scale out", least=0)
    number("slow_runs", 5000, "of the file store and the server", least=0)
    number("params", 20, "a run", least=0)
    number("metrics", 20, "a run")
    number("points", 5, "a metric")
    folder = "where stores and readings are kept (default: %(default)s)"
    add("--folder", default="results/benchmarks/parser", help=folder)
    server = "a server in which databases may be made (default: one that is started here)"
    add("--postgres", metavar="URI", help=server)
    return parser.options(argv)


def size_of(options: Any, runs: int) -> Any:
    from benchmarks.parser_stores import Size

    return Size(runs, options.params, options.metrics, options.points)


def comparison(kind: str, options: Any, kept: Any) -> Row:
    """A line of the first table."""
    size = size_of(options, options.compare_runs)

    def make() -> Row:
        folder = Path(options.folder)
        outputs = {who: folder / f"{kind}_{who}.csv" for who in ("table", "mlflow")}
        with store(kind, size, options) as uri:
            for who, output in outputs.items():  # the first reading waits for the disk
                reading(who, uri, output)
            taken: dict[str, list[Row]] = {who: [] for who in outputs}
            for repeat in range(options.repeats):
                for who in reversed(outputs) if repeat % 2 == 0 else outputs:
                    taken[who].append(reading(who, uri, outputs[who]))
        numbers = {
            f"{who}_{name}": median(row[name] for row in rows)
            for who, rows in taken.items()
            for name in MEASURED
        }
        return numbers | compared_cells(outputs["table"], outputs["mlflow"])

    return {"store": kind, "runs": size.runs} | kept.measured(
        {"what": "comparison", "store": kind, "size": size.name, "repeats": options.repeats}, make
    )


def readings(kind: str, options: Any, kept: Any) -> list[Row]:
    """Return a store's lines of the second table; none for no runs, or a store that is not available here."""
    size = size_of(options, options.slow_runs if kind in SLOW else options.runs)
    if not size.runs:
        return []

    def make(what: str) -> Row:
        output = Path(options.folder) / f"{kind}_{what}.csv"
        with store(kind, size, options) as uri:
            numbers = reading(what, uri, output)
        lines = line_ends(output)
        output.unlink()
        return numbers | {"rows": lines - 1}

    rows = []
    for what in ("table", "history"):
        try:
            found = kept.measured(
                {"what": what, "store": kind, "size": size.name}, lambda what=what: make(what)
            )
        except ValueError as error:
            print(f"{kind}: not measured ({error})")
            break
        rows.append({"store": kind, "what": what, "runs": size.runs} | found)
    return rows


def line_ends(path: Path, chunk: int = 2**20) -> int:
    """How many rows, the header included, a CSV file has: a line end inside a cell is not \\r\\n here."""
    number, last = 0, b""
    with path.open("rb") as file:
        while some := file.read(chunk):
            number += (last + some).count(b"\r\n")
            last = some[-1:]
    return number


def reading(who: str, uri: str, output: Path) -> Row:
    """Seconds and memory of one process that reads the store."""
    command = [sys.executable, "-m", "benchmarks.parser_process", who, uri, str(output.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{who} failed: {' '.join(done.stderr.split())[-300:]}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


@contextlib.contextmanager
def store(kind: str, size: Any, options: Any) -> Iterator[str]:
    """The URI of a store of that kind and size, made if it is not kept, while the context is open."""
    from benchmarks import parser_stores
    from benchmarks.postgres_cluster import postgres

    folder = Path(options.folder).resolve()
    if kind == "files":
        yield parser_stores.file_store(folder, size)
    elif kind == "sqlite":
        yield parser_stores.sqlite_store(folder, size)
    elif kind == "server":
        with mlflow_server(parser_stores.sqlite_store(folder, size), folder) as uri:
            yield uri
    elif options.postgres:
        yield parser_stores.postgres_store(options.postgres, size)
    else:
        with postgres(folder / "postgres") as server:
            yield parser_stores.postgres_store(server, size)


@contextlib.contextmanager
def mlflow_server(backend: str, folder: Path) -> Iterator[str]:
    """Start `mlflow server` on the store, on a free port. ValueError if it is silent for a minute."""
    import requests

    from benchmarks.postgres_cluster import free_port

    uri = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        backend,
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment) as server,
    ):
        try:
            for _ in range(240):
                with contextlib.suppress(requests.RequestException):
                    if requests.get(f"{uri}/health", timeout=5).ok:
                        break
                time.sleep(0.25)
            else:
                raise ValueError(
                    f"expected an answer of mlflow server, got none in a minute: see {folder / 'server.log'}"
                )
            yield uri
        finally:
            server.terminate()


def compared_cells(ours: Path, mlflows: Path) -> Row:
    """Return the numbers of compared, differing and inexpressible cells (NaN, infinities of sqlite)."""
    import pandas

    from lethe.tracking.stored_run import infinity_restored

    read = {"dtype": str, "keep_default_na": False}
    parsed, theirs = (
        pandas.read_csv(path, **read).set_index("run_id").sort_index() for path in (ours, mlflows)
    )
    if list(parsed.index) != list(theirs.index):
        raise ValueError(f"expected the same runs in {ours} and {mlflows}, got others")
    cells = differing = special = 0
    for column in theirs.columns:
        kind, _, name = column.partition(".")
        if kind not in ("params", "metrics"):
            continue
        for own, other in zip(parsed[name], theirs[column], strict=True):
            cells += 1
            if own == other:
                continue
            if kind == "metrics" and (
                (own == "nan" and other == "")
                or (own in ("inf", "-inf") and infinity_restored(float(other)) == float(own))
            ):
                special += 1
            elif kind == "params" or other == "" or float(own) != float(other):
                differing += 1
    same = {
        "status": "status",
        "run_name": "tags.mlflow.runName",
        "start_time": "start_time",
        "end_time": "end_time",
    }
    for own_column, other_column in same.items():
        own, other = parsed[own_column], theirs[other_column]
        if own_column.endswith("_time"):
            own, other = (pandas.to_datetime(times, utc=True, format="ISO8601") for times in (own, other))
        cells += len(own)
        differing += int((own.to_numpy() != other.to_numpy()).sum())
    return {"cells": cells, "differing": differing, "special": special}


def comparison_table(rows: Sequence[Row]) -> str:
    from lethe.report.text_table import number, text_table

    header = [
        "store",
        "runs",
        "parser s",
        "mlflow s",
        "ratio",
        "parser CPU s",
        "mlflow CPU s",
        "ratio",
        "parser MiB",
        "mlflow MiB",
        "cells",
        "differing",
        "NaN and inf",
    ]
    numbers = [
        (f"{who}{name}", digits)
        for name, digits in (("_seconds", 2), ("_cpu_seconds", 2))
        for who in ("table", "mlflow", "ratio")
    ]
    numbers += [("table_peak_mib", 0), ("mlflow_peak_mib", 0)]
    counts = ("cells", "differing", "special")
    lines = []
    for row in rows:
        with_ratio = row | {
            f"ratio{name}": row[f"mlflow{name}"] / row[f"table{name}"]
            for name in ("_seconds", "_cpu_seconds")
        }
        shown = [number(with_ratio[name], digits) for name, digits in numbers]
        lines.append([row["store"], str(row["runs"]), *shown, *(str(row[name]) for name in counts)])
    return "beside mlflow.search_runs(...).to_csv\n" + text_table(header, lines)


def scale_table(rows: Sequence[Row]) -> str:
    from lethe.report.text_table import number, text_table

    header = ["store", "what", "runs", "rows", "seconds", "peak MiB", "MiB written"]
    numbers = (("seconds", 1), ("peak_mib", 0), ("mib_written", 0))
    lines = []
    for row in rows:
        with_mib = row | {"mib_written": row["bytes"] / 2**20}
        shown = [number(with_mib[name], digits) for name, digits in numbers]
        lines.append([row["store"], row["what"], str(row["runs"]), str(row["rows"]), *shown])
    return "scale\n" + text_table(header, lines)


if __name__ == "__main__":
    sys.exit(main())
