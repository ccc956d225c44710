"""A checkout's `evaluation` is `lethe.evaluation`, whichever of its modules is imported by the short name."""

import importlib
import sys

import lethe.evaluation


def test_a_module_of_the_short_name_leaves_the_packages_function_in_its_place(monkeypatch):
    function = lethe.evaluation.evaluate
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluation"]:
        monkeypatch.delitem(sys.modules, name)

    module = importlib.import_module("evaluation.evaluate")

    assert lethe.evaluation.evaluate is function is module.evaluate
    assert module.__name__ == "lethe.evaluation.evaluate"
