"""The speed benchmark: its meter is exact, its parts print rows and write them, and no test here asserts a
time.
"""

import json
import sys

import pytest
import torch

from benchmarks import gcn_passes, meter, mimu_requests
from benchmarks.mimu_speed import main
from lethe.data import ImageSet, Normalisation
from lethe.models import build, split_at
from lethe.unlearn.mimu.graph import factors_of

CPU = torch.device("cpu")
METER = meter.Meter(CPU, repeats=2, seconds=60)
QUICK = ("--shape", "4x6", "--repeats", "1", "--images", "5", "--data", "nowhere")


def test_the_most_bytes_held_at_a_time_and_nothing_that_was_there_before():
    before = torch.zeros(5000, dtype=torch.uint8)

    def step():
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(4000, dtype=torch.uint8)
        del first
        third = torch.empty(2000, dtype=torch.uint8)  # with the second: the peak, 6000
        del second
        return third, torch.empty(500, dtype=torch.uint8), before.add_(1)

    assert METER.extra_bytes(step) == 6000


def test_a_backward_pass_holds_what_forward_saved_and_the_gradient_that_it_makes():
    weight = torch.zeros(1000, requires_grad=True)

    def step():
        # 4000 bytes saved, 4 of the sum, 4 of its gradient (expanded, not copied), 4000 of weight.grad
        weight.exp().sum().backward()

    assert METER.extra_bytes(step) == 2 * 4000 + 2 * 4


def test_a_call_that_asks_for_nothing():
    assert METER.extra_bytes(lambda: None) == 0


def test_no_call_begins_after_the_time_is_spent_and_one_always_does():
    calls = []

    assert meter.Meter(CPU, repeats=20, seconds=0).timed(lambda: calls.append(1))["passes"] == 1
    assert METER.timed(lambda: calls.append(1))["passes"] == 2
    assert len(calls) == 3


def test_every_pass_of_the_network_asks_for_the_same_memory():
    step = gcn_passes.closed_form(4, 6, CPU)

    assert METER.extra_bytes(step) == METER.extra_bytes(step) > 0


def test_the_floor_asks_for_no_memory():
    assert METER.extra_bytes(gcn_passes.products(4, 6, 2, CPU)) == 0


def test_features_by_autograd_are_those_of_the_factors():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 1, 4, 4), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.tensor([0, 2, 1]), torch.arange(3), Normalisation((0.0,), (1.0,)))
    model = build("mlp", (1, 4, 4), 3, seed=1, options={"hidden": (6, 4)})
    x = images.normalisation(pixels)
    layer = split_at(model, "-2", x)

    written_out = torch.stack(
        [
            mimu_requests.features_by_autograd(model, layer.layer, x[i : i + 1], images.labels[i : i + 1])
            for i in range(3)
        ]
    )

    kept = factors_of(layer, images, "cross_entropy", CPU)
    h, a, weight, gradient = written_out.unbind(-1)
    torch.testing.assert_close(h, kept.h[:, None, :].expand(3, 4, 6))
    torch.testing.assert_close(a, kept.a[:, :, None].expand(3, 4, 6))
    assert torch.equal(weight, layer.weight.expand(3, 4, 6))
    torch.testing.assert_close(gradient, kept.delta[:, :, None] * kept.h[:, None, :])


def test_floats_are_counted_by_the_memory_behind_them():
    assert mimu_requests.floats_in(torch.zeros(7), torch.zeros(10, 3)[:1]) == 7 + 30


def test_passes_print_a_row_each_and_json_holds_them(capsys, tmp_path):
    assert main([*QUICK, "--parts", "passes", "--json", str(tmp_path / "speed.json")]) == 0

    printed = capsys.readouterr().out
    assert "layer 4 x 6, 192 directed edges" in printed
    rows = json.loads((tmp_path / "speed.json").read_text())["passes"]
    assert [row["way"] for row in rows] == [
        gcn_passes.CLOSED,
        gcn_passes.EDGES,
        gcn_passes.FLOOR,
        gcn_passes.FUSED,
    ]
    assert all(row["way"] in printed and row["milliseconds"] > 0 for row in rows)


def test_features_and_requests_print_a_row_each_and_json_holds_them(capsys, tmp_path):
    assert main([*QUICK, "--parts", "features", "requests", "--json", str(tmp_path / "speed.json")]) == 0

    content = json.loads((tmp_path / "speed.json").read_text())
    assert [(row["way"], row["floats_an_image"]) for row in content["features"]] == [
        ("in batches", 6 + 2 * 4),
        ("one at a time", 4 * 4 * 6),
    ]
    kinds = [
        (row["dataset"], row["cache"], row["requests"], row["from_cache"]) for row in content["requests"]
    ]
    assert kinds == [("digits", "memory", 9, 9), ("digits", "disk", 9, 9)]
    assert capsys.readouterr().out.count("4 x 6") == 4


def test_requests_by_the_defaults_print_a_row_a_kind(capsys, tmp_path):
    flags = ["--parts", "defaults", "--shape", "8x10", "--json", str(tmp_path / "speed.json")]
    assert main([*QUICK, *flags]) == 0

    rows = json.loads((tmp_path / "speed.json").read_text())["defaults"]
    assert [row["request"] for row in rows[:3]] == [
        "kappa 0.1, the first",
        "kappa 0.1",
        "kappa auto, the first",
    ]
    assert sum(row["requests"] for row in rows) == 20
    assert all(row["request"] in capsys.readouterr().out for row in rows[:1])


@pytest.fixture
def uncompiled(monkeypatch):
    """torch.compile takes half a minute; here it gives back the network."""
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)


@pytest.mark.usefixtures("uncompiled")
def test_many_graphs_are_measured_on_a_cpu_where_their_number_is_given(capsys, tmp_path):
    shapes = ("--shape", "2x3", "4x6", "3x3")
    assert (
        main(
            [
                *shapes,
                *"--repeats 1 --parts graphs --graphs 3 --device cpu --json".split(),
                str(tmp_path / "s.json"),
            ]
        )
        == 0
    )

    rows = json.loads((tmp_path / "s.json").read_text())["graphs"]
    assert [(row["way"], row["graphs"], row["m"], row["n"]) for row in rows] == [
        (way, 3, 4, 6) for way in (gcn_passes.COPY, "compiled", "not compiled")
    ]
    assert all(row["milliseconds_a_graph"] == row["milliseconds"] / 3 for row in rows)
    assert "3 graphs of 4 x 6 at once" in capsys.readouterr().out


def test_without_a_compiler_a_line_says_so_and_the_rest_is_measured(capsys, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)

    assert [row["way"] for row in gcn_passes.many_graphs(1, 2, 3, METER)] == [gcn_passes.COPY, "not compiled"]
    assert capsys.readouterr().out == "compiled: not measured (RuntimeError: No working C++ compiler found)\n"


def test_many_graphs_need_a_gpu_unless_asked_for(capsys):
    assert main([*QUICK, "--parts", "graphs", "--device", "cpu"]) == 0

    assert capsys.readouterr().out.startswith("many graphs at once: not measured, no GPU is used here")


def test_a_library_that_is_missing_costs_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setattr("lethe.data.digits.find_spec", lambda name: None)  # the file beside it is not there
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    monkeypatch.delitem(sys.modules, "tests.message_passing", raising=False)

    assert main([*QUICK, "--parts", "passes", "features", "requests"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if "not measured" in line] == [
        gcn_passes.EDGES,
        "features",
        "digits",
    ]
    assert any(line.startswith(gcn_passes.CLOSED) for line in lines)


@pytest.mark.parametrize(
    "flags",
    [
        ["--shape", "64"],
        ["--shape", "64x128", "0x5"],
        ["--repeats", "0"],
        ["--seconds", "nan"],
        ["--images", "0"],
        ["--graphs", "0"],
        ["--parts", "speed"],
        ["--device", "abacus"],
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(flags, capsys):
    assert main(flags) == 2

    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ") and flags[0] in error and error.count("\n") == 1
