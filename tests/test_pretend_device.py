"""Everything on a device that is not the CPU: `on_pretend_device.py`, in a process of its own.

The process is its own because torch never forgets a device: autograd counts the devices at the first backward
pass, and from then on `--device auto` would be that device for every other test.

`tests/pretend_device.py` computes on the CPU and refuses what CUDA refuses. What it can't do is tested
otherwise, or not at all:

    bf16               torch has casts for real devices alone. test_recipe.py computes in bf16 on the CPU
    torch.compile      has no code for it. test_recipe.py compiles on the CPU
    several processes  no backend sends its tensors. test_distributed.py takes gloo on the CPU
    torch.Generator    can't be made for it. Nothing in Lethe makes one: all streams are the CPU's
    resize_            and outputs of another size (`out=`) raise. Nothing in Lethe resizes
    memory             is not counted. Only benchmarks ask
    asynchrony         every operation has ended when it returns. Forgotten waits and races are not found, but
                       each read of the device's numbers, which would wait, is counted
    other kernels      are the CPU's, so the speed and rounding of a real device are not found
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_device_that_is_not_the_cpu():
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_pretend_device.py"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(words, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
