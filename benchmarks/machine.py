"""Describe the machine of a benchmark, and write its numbers."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lethe.system.device import accelerator
from lethe.training import library_versions, write_bytes


def machine() -> dict[str, Any]:
    """Return processor, cores, threads, GPU and versions."""
    found = accelerator()
    gpu = "none" if found is None else torch.get_device_module(found).get_device_name()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        **library_versions(),
    }


def describe() -> str:
    return ", ".join(f"{name} {value}" for name, value in machine().items())


def write_json(path: str | None, script: str, argv: Sequence[str] | None, **numbers: Any) -> None:
    """Write the numbers, with the machine and the command line of the script; nothing if path is None."""
    if path is not None:
        words = shlex.join(sys.argv[1:] if argv is None else argv)
        content = {"machine": machine(), "command": f"benchmarks/{Path(script).name} {words}", **numbers}
        write_bytes(Path(path), json.dumps(content, indent=2).encode())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
