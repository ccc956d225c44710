"""The methods' benchmark: its tables, what it says of a method without numbers, and how it counts and times
passes.
"""

import json
import re
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from benchmarks import method_cells, method_passes, methods
from benchmarks.meter import Meter
from lethe.data import load_splits
from lethe.models import build
from lethe.unlearn import METHODS
from lethe.unlearn.impl import register

SMALL = ["--datasets", "digits", "--seeds", "1", "--epochs", "1", "--device", "cpu"]
QUICK = [*SMALL, "--requests", "class0", "--timing", "skip"]
CELL = {"UA": 1.0, "RA": 99.0, "TA": 97.0, "MIA": 5.0, "seconds": 0.1, "changed": 3}


def row(label, avg_gap=1.0, seed=1, **others):
    about = {"dataset": "digits", "label": label, "method": label, "settings": {}, "seed": seed}
    return about | CELL | {"avg_gap": avg_gap, "avg_gap_without_mia": avg_gap} | others


def failed(label, reason, seed=1):
    return {
        "dataset": "digits",
        "label": label,
        "method": label,
        "settings": {},
        "seed": seed,
        "failed": reason,
    }


def names_in(table):
    return [line.split("  ")[0] for line in table.splitlines()[2:]]


def test_the_nearest_to_the_ideal_comes_first():
    table = methods.quality_table([row("far", 9.0), row("near", 0.5), row("between", 2.0)], [])

    assert names_in(table) == ["near", "between", "far"]


def test_several_seeds_are_a_mean_with_its_deviation():
    assert "2.00 ± 1.41" in methods.quality_table([row("FT", 1.0), row("FT", 3.0, seed=2)], [])


def test_a_seed_whose_attack_is_undecided_is_no_number():
    undecided = {"MIA": None, "avg_gap": None, "avg_gap_without_mia": 7.0}
    rows = [
        row("FT", 1.0),
        row("FT", seed=2) | undecided,
        row("RL") | undecided,
        row("RL", seed=2) | undecided,
        row("far", 9.0),
        row("far", 9.0, seed=2),
    ]
    table = methods.quality_table(rows, [])

    assert names_in(table) == ["FT", "RL", "far"]
    assert "1.00 (1 of 2)" in table.splitlines()[2]
    assert table.splitlines()[3].split().count("undecided") == 2


def test_a_method_without_numbers_is_a_line_with_its_reason():
    table = methods.quality_table([row("FT"), failed("UNSIR", "refused: whole classes only")], [])

    assert names_in(table) == ["FT", "UNSIR: refused: whole classes only"]


def test_a_method_that_failed_for_one_seed_says_so_twice():
    table = methods.quality_table([row("GA"), failed("GA", "diverged: inf", seed=2)], [])

    assert names_in(table) == ["GA (1 of 2 seeds)", "GA, seed 2: diverged: inf"]


def test_a_method_that_changes_no_prediction_is_marked():
    table = methods.quality_table([row("nothing", changed=0), row("something", 2.0)], [])

    assert names_in(table) == [
        "nothing =",
        "something",
        "= no image is predicted differently than by the initial model",
    ]


def test_the_passes_of_a_method_stand_beside_its_numbers():
    timing = {
        "dataset": "digits",
        "method": "FT",
        "addon": None,
        "x_passes": 1.234,
        "needs": 1.0,
        "slow": False,
    }

    assert "1.23 of 1" in methods.quality_table([row("FT")], [timing])
    assert "1.23 of 1 !" in methods.quality_table([row("FT")], [timing | {"slow": True}])
    assert "1.23" not in methods.quality_table([row("FT")], [timing | {"dataset": "MNIST"}])


def test_joint_names_are_pairs_and_every_pair_is_there():
    tables = methods.trials_of(methods.options_of([]))

    alone, pairs = (
        [trial.label for trial in tables[name]] for name in (methods.METHODS_TABLE, methods.ADD_ONS_TABLE)
    )
    assert {"retrain", "default", "FT", "NGPlus", "MIMU"} <= set(alone)
    assert not {"NGradMask", "VarGrad", "SRSalUn"} & set(alone)
    assert {"NGPlus", "NGPlus + OPT", "SRL + ANDMask", "default"} <= set(pairs)
    assert len(set(alone)) == len(alone)


def test_values_to_try_are_a_line_each():
    flags = ["--methods", "ft", "--set", "unlearn_lr=0.1,0.2", "--set", "momentum=0", "--addons", "skip"]
    (trials,) = methods.trials_of(methods.options_of(flags)).values()

    assert [trial.label for trial in trials] == [
        "retrain",
        "default",
        "FT unlearn_lr=0.1 momentum=0.0",
        "FT unlearn_lr=0.2 momentum=0.0",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "MIMO"], "Did you mean 'MIMU'?"),
        (["--methods", "FT", "--set", "unlearn_rl=1"], "Did you mean 'unlearn_lr'?"),
        (["--methods", "FT", "--set", "unlearn_lr"], "--set: expected NAME=VALUE, got 'unlearn_lr'"),
        (["--methods", "FT", "--set", "unlearn_lr=much"], "--unlearn_lr: expected a number > 0, got 'much'"),
        (["--set", "unlearn_lr=1"], "--set: expected --methods too"),
        (["--requests", "class1"], "invalid choice: 'class1'"),
        (["--datasets", "digit"], "Did you mean 'digits'?"),
        (["--datasets", "MNIST", "--data", "nowhere"], "nowhere"),
        (["--repeats", "0"], "--repeats: expected at least 1"),
        (["--json", "/proc/nowhere/rows.json"], "Choose another --json"),
        (["--method", "FT"], "--methods"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_trained(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert methods.main([*QUICK, *flags]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_finished_cells_are_used_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [*QUICK, "--methods", "default", "NegGrad", "CT", "--json", "rows.json"]

    assert methods.main(command) == 0
    first = capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [one["label"] for one in rows] == ["retrain", "default", "NegGrad", "CT"]
    assert (rows[0]["avg_gap_without_mia"], rows[1]["changed"]) == (0, 0)
    assert all(0 <= rows[2][column] <= 100 for column in ("UA", "RA", "TA"))
    assert "\nCT: refused: " in first
    assert "\ndefault =" in first

    monkeypatch.setattr(method_cells, "unlearn", None)
    assert methods.main(command) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[:-2] == first.splitlines()[:-2]
    assert "4 cells were measured before" in again


def test_other_images_are_other_cells(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in ("test", "validation"):
        assert methods.main([*QUICK, "--methods", "default", "--part", part]) == 0
        shown = capsys.readouterr().out
        assert f"{part} images" in shown
        assert "measured now" in shown


@pytest.fixture
def diverging():
    """Registered for one test: one that diverges, one whose weights are not finite, one that the machine is
    too small for.
    """

    def diverges(model, data):
        raise FloatingPointError("the loss\nis nan")

    def breaks(model, data):
        student = method_passes.copy_of(model)
        with torch.no_grad():
            next(student.parameters()).fill_(
                torch.finfo(torch.float32).max
            )  # finite, but no logit of them is
        return student

    def fills_memory(model, data):
        raise RuntimeError("out of memory")

    made = {"diverges": diverges, "breaks": breaks, "fills_memory": fills_memory}
    for name, function in made.items():
        register(name)(function)
    yield list(made)
    for name in made:
        del METHODS._entries[name], METHODS._names[name]


def test_what_goes_wrong_is_a_line_of_its_own(diverging, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    for kept in ("measured now", "4 cells were"):  # all but the one that the machine failed
        assert methods.main([*QUICK, "--methods", *diverging]) == 0
        shown = capsys.readouterr().out
        assert "\ndiverges: diverged: the loss is nan\n" in shown
        assert "\nbreaks: can't be evaluated: expected logits with a finite maximum" in shown
        assert "\nfills_memory: failed: RuntimeError: out of memory\n" in shown
        assert kept in shown


def test_timing_tells_a_step_and_why_there_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [*SMALL, *"--timing --timing_epochs 1 --repeats 1 --methods NGPlus CT SSD default".split()]

    assert methods.main([*command, "--addons", "skip", "--json", "rows.json"]) == 0
    timings = {one["method"]: one for one in json.loads((tmp_path / "rows.json").read_text())["timings"]}
    assert not list(tmp_path.rglob("*.safetensors"))  # an untrained model will do
    assert "\nCT: not timed: " in capsys.readouterr().out
    assert timings["SSD"]["run_ratio"] > 0
    assert "step_ms" not in timings["default"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        return self.inner(x.flatten(1))


def watched_net():
    return Net(), torch.zeros(3, 1, 2, 2)


def test_forwards_of_a_copy_are_counted_and_those_of_its_parts_are_not():
    model, x = watched_net()

    with method_passes.watched(model, 4, torch.device("cpu")) as watch:
        student = method_passes.copy_of(model)
        student(x)
        with torch.no_grad():
            model(x[:2])
    model(x)  # left alone by now

    assert watch.forwards == [(3, True), (2, False)]


def test_images_behind_vmap_are_counted_too():
    model, x = watched_net()

    def loss(parameters, image):
        return functional_call(model, parameters, (image[None],)).sum()

    with method_passes.watched(model, 4, torch.device("cpu")) as watch:
        vmap(grad(loss), in_dims=(None, 0))({name: p.detach() for name, p in model.named_parameters()}, x)

    assert watch.forwards == [(3, True)]


def test_steps_are_told_apart_by_their_batches():
    model, x = watched_net()

    with method_passes.watched(model, 4, torch.device("cpu")) as watch:
        student = method_passes.copy_of(model)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        for images in (x, x, x, x[:1]):
            student(images).sum().backward()
            optimizer.step()
        optimizer.step()  # of nothing

    assert {step: len(seconds) for step, seconds in watch.steps.items()} == {((3, True),): 2, ((1, True),): 1}


def untrained():
    splits = load_splits("digits", "")
    return splits, build("mlp", splits.train.image_shape, splits.classes, seed=1)


def test_a_method_of_two_gradients_makes_two_passes_a_step():
    splits, model = untrained()
    cost = method_passes.cost("NGPlus", "GradMask", model, splits, Meter(torch.device("cpu"), 1, 0), epochs=3)

    assert cost["passes_made"] == cost["needs"] == 2
    assert cost["x_passes"] == pytest.approx(cost["step_ms"] / cost["pass_ms"])


@pytest.mark.parametrize(
    ("method", "addon", "passes"),
    [
        ("FT", None, 1),
        ("NGPlus", "OPT", 2),
        ("NGPlus", "SalUn", 2 + 2 / 3),
        ("SCRUB", None, 1),
        ("SCRUB", "OPT", 2),
        ("SCRUB", "SalUn", 2 + 2 / 3),
    ],
)
def test_what_a_formula_needs(method, addon, passes):
    assert method_passes.needed(method, addon) == pytest.approx(passes)


def test_an_undeclared_need_is_none():
    assert method_passes.needed("somebody's", None) is None


@pytest.mark.parametrize(
    ("measured", "slow"),
    [
        ({"x_passes": 3.1, "x_training_steps": 3.2, "needs": 2.0}, True),
        (
            {"x_passes": 3.1, "x_training_steps": 2.9, "needs": 2.0},
            False,
        ),  # a model so small that the optimiser dominates
        ({"x_passes": 9.0, "x_training_steps": 9.0, "needs": None}, False),
        ({"run_ratio": 10.6, "needs": 7.0}, True),  # a run without steps
        ({"run_ratio": 10.4, "needs": 7.0}, False),
    ],
)
def test_slow_is_half_as_much_again_as_the_formula_needs(measured, slow):
    assert method_passes._slow(measured) is slow


def test_every_declared_need_is_of_a_method_by_its_own_name():
    known = {entry.name for entry in METHODS}

    assert {"FT", "NGPlus", "SRL", *method_passes.STEPLESS} <= known
    assert all(METHODS[name].name == name for name in method_passes.NEEDS if name in METHODS)


@pytest.mark.parametrize(
    ("method", "addon", "flag"),
    [("FT", None, "unlearn_epochs"), ("SCRUB", None, "unlearn_epochs"), ("UNSIR", None, "impair_epochs")],
)
def test_a_timed_run_has_few_epochs_also_where_the_method_decides_how_many(method, addon, flag):
    splits, model = untrained()
    few = method_passes._few_epochs(
        method, {}, model, method_passes.timing_data(splits, torch.device("cpu")), 1
    )
    assert few[flag] == 1


def test_without_steps_what_is_needed_is_in_the_unit_of_the_run():
    cost = method_passes.cost(
        "fisher_new", None, *untrained()[::-1], Meter(torch.device("cpu"), 1, 0), epochs=1
    )
    assert (
        cost["needs"] > (1 + 2 * 10) / 3 * 0.9
    )  # a forward pass and ten backward ones, but for the batch that is left over
    assert cost["slow"] is bool(cost["run_ratio"] > 1.5 * cost["needs"])


def test_a_method_of_a_file_is_measured_anew_when_the_file_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_file.py"
    command = [*QUICK, "--methods", f"{file}:halve"]
    found = []
    for divisor in ("2", "2", "-1"):
        file.write_text(
            "from lethe.unlearn import ForgetData, Unlearned, copy_of\nfrom torch import nn\n\n\n"
            f"def halve(model: nn.Module, data: ForgetData) -> Unlearned:\n    student = copy_of(model)\n"
            f"    list(student.parameters())[-2].data /= {divisor}\n    return Unlearned(student)\n"
        )
        for module in [name for name in sys.modules if "own_file" in name]:
            del sys.modules[module]
        assert methods.main(command) == 0
        found.append(next(line for line in capsys.readouterr().out.splitlines() if "halve" in line))
    assert found[0].split()[:-1] == found[1].split()[:-1]
    assert found[2].split()[-5:-1] != found[0].split()[-5:-1]


def test_a_machine_without_enough_memory_does_not_end_the_timing_of_the_others(tmp_path, monkeypatch, capsys):
    plain = method_passes.cost

    monkeypatch.chdir(tmp_path)

    def too_large(method, *rest):
        if method == "FT":
            raise RuntimeError("out of memory")
        return plain(method, *rest)

    monkeypatch.setattr(method_passes, "cost", too_large)
    command = [*SMALL, "--timing", "--timing_epochs", "1", "--repeats", "1", "--methods", "FT", "CFk"]
    assert methods.main([*command, "--addons", "skip"]) == 0
    shown = capsys.readouterr().out
    assert "FT: failed: RuntimeError: out of memory" in shown
    assert re.search(r"^CFk .*\d", shown, re.MULTILINE)
