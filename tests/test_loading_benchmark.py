"""What loading costs: the benchmark prints every part, and its numbers are those that it writes."""

import json
from pathlib import Path

import pytest

from benchmarks import loading

PARTS = ["read", "split", "device", "digest", "memory", "file"]


pytestmark = pytest.mark.usefixtures("empty_place")


def test_it_prints_every_part_and_the_memory(capsys):
    assert loading.main(["--dataset", "digits", "--repeats", "1", "--json", "numbers.json"]) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads(Path("numbers.json").read_text())
    assert (out[0], out[1].split()) == ("digits, cpu, medians of 1", ["wall", "[s]", "processor", "[s]"])
    assert [line.split("  ")[0] for line in out[2:9]] == [*PARTS[:3], "files to device", *PARTS[3:]]
    assert list(found["seconds"]) == PARTS and found["bytes"]["images"] == 1797 * 64
    assert out[9].startswith("memory: images 0.1 MB, stays ")


def test_a_number_of_repeats_below_1_is_refused(capsys):
    assert loading.main(["--repeats", "0"]) == 2
    assert "--repeats: expected at least 1, got 0" in capsys.readouterr().err


def test_data_that_is_not_there_is_one_line(capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert loading.main(["--dataset", "CIFAR10", "--data", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: CIFAR10: expected data_batch_1")
