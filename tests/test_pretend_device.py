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

import pytest

from tests.warm_processes import ROOT, ended, fixture_begin, fixture_warm  # noqa: F401


def run_by_pytest(file):
    os.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    imported = "ignore:Module already imported so cannot be rewritten"  # plugins of pytest
    return int(pytest.main(["-p", "no:cacheprovider", "-W", imported, file]))


@pytest.mark.slow
def test_a_device_that_is_not_the_cpu(begin, tmp_path):
    code = ended(begin(run_by_pytest, "tests/on_pretend_device.py", folder=tmp_path), 600)
    assert code == 0, (tmp_path / "out").read_text() + (tmp_path / "err").read_text()
