"""What a benchmark's numbers were measured on, and where they are written."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from training import library_versions, write_bytes


def machine() -> dict[str, Any]:
    """Processor, cores, threads, GPU and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        **library_versions(),
    }


def describe() -> str:
    return ", ".join(f"{name} {value}" for name, value in machine().items())


def write_json(path: str | None, content: dict[str, Any]) -> None:
    if path is not None:
        write_bytes(Path(path), json.dumps({"machine": machine(), **content}, indent=2).encode())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    models = (
        [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return models[0] if models else platform.processor() or platform.machine()
