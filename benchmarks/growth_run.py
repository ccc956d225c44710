"""One run of benchmarks/growth.py, in a process of its own: its memory is its own too."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

DATASET = """
from pathlib import Path
import torch
from lethe.data import RawDataset
from lethe.data.image_file import ImageFile

def images(folder):
    def part(name, count):
        return ImageFile(Path({folder!r}) / f"{{name}}.u8", (count, 1, 8, 8)), torch.arange(count) % {classes}
    return RawDataset(part("train", {train}), part("test", {test}), tuple(map(str, range({classes}))))
"""


def main() -> int:
    from benchmarks.growth import STAGES, TEST
    from lethe.experiment.base_config import BaseConfig
    from lethe.experiment.pipeline import Pipeline, PipelineConfig

    size: dict[str, Any] = json.loads(sys.argv[1])
    outputs, inputs = map(int, size["layer"].split("x"))
    counts = {"train": size["images"], "test": size["images"] // TEST, "classes": size["classes"]}
    Path("grown.py").write_text(DATASET.format(folder=str(Path.cwd()), **counts))
    base = BaseConfig(
        {"hidden": (inputs, outputs)}, dataset="grown.py:images", arch="mlp", epochs=1, save_dir=Path("kept")
    )
    result = Pipeline(PipelineConfig(sys.argv[2], base=base, ideal="skip")).run()
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    seconds = {stage: result.stages[stage] for stage in STAGES}
    print(json.dumps({**seconds, "total": result.stages["total"], "MiB": peak}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
