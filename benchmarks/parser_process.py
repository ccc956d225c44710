"""Read a store once in a process of its own: prints seconds and peak memory as JSON.

    python -m benchmarks.parser_process WHO URI OUTPUT

WHO is table, history, or mlflow for mlflow.search_runs(...).to_csv.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path


def main() -> int:
    who, uri, output = sys.argv[1:]
    read = with_mlflow if who == "mlflow" else with_parser
    seconds, of_cpu = read(uri, output, who)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": of_cpu,
                "peak_mib": peak_mib(),
                "bytes": Path(output).stat().st_size,
            }
        )
    )
    return 0


def with_parser(uri: str, output: str, who: str) -> tuple[float, float]:
    import mlruns_parser

    started = time.perf_counter(), cpu_seconds()
    with contextlib.redirect_stdout(sys.stderr):
        status = mlruns_parser.main(
            ["--tracking_uri", uri, "--output", output, "--history" if who == "history" else "--all"]
        )
    if status:
        raise SystemExit(status)
    return time.perf_counter() - started[0], cpu_seconds() - started[1]


def with_mlflow(uri: str, output: str, _: str) -> tuple[float, float]:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow
    import pandas  # noqa: F401  # which mlflow imports when it is first asked: no part of the reading

    mlflow.set_tracking_uri(uri)
    started = time.perf_counter(), cpu_seconds()
    mlflow.search_runs(search_all_experiments=True, max_results=10**9).to_csv(output, index=False)
    return time.perf_counter() - started[0], cpu_seconds() - started[1]


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    own, others = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def peak_mib() -> float:
    """Of this process since it began, and of the largest of those that it started."""
    return own_peak_mib() + in_mib(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def in_mib(maxrss: int) -> float:
    """What getrusage counts in KiB, on macOS in bytes."""
    return maxrss / (2**20 if sys.platform == "darwin" else 1024)


def own_peak_mib() -> float:
    """Linux's getrusage also counts what its parent held when it started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return in_mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    sys.exit(main())
