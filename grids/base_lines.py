"""Which base models a list of runs needs, each once: the commands that train them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

SHOWS = ("list", "help", "h")  # flags that show something, and run nothing
REQUEST = ("class_to_replace", "num_indexes_to_replace", "forget_indexes")
PYTHON = ["python", "-u"]
JOB, INITIAL, IDEAL = "mlflow_forget.py", "main_baseline.py", "main_ideal.py"

Flags = dict[str, list[str]]


@dataclass
class Needed:
    """The commands, as words after `python -u`, initial models first; and for each run the positions of those that it needs."""

    commands: list[list[str]] = field(default_factory=list)
    of_run: list[set[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    """A base model: what is to be trained with which flags, the seed left out; and the seed, None where the flags name none."""

    script: str
    flags: tuple[tuple[str, ...], ...]
    seed: int | None
    oracle: bool = False

    @property
    def number(self) -> int:
        return 1 if self.seed is None else self.seed


def base_models_of(runs: Sequence[Sequence[str]]) -> Needed:
    """What the runs, each given as the words after mlflow_forget.py that have been checked, start from and are judged by.

    The ideal model is one of them unless a run says `--ideal skip`; oracles where its method asks for some, those of
    neighbouring seeds by one command.
    """
    wanted = [list(models_of(run)) for run in runs]
    commands: dict[Model, str] = {}
    for script in (INITIAL, IDEAL):
        models = list(dict.fromkeys(model for own in wanted for model in own if model.script == script))
        commands |= _oracles(models)
        commands |= {model: shlex.join([script, *_words(model, model.seed)]) for model in models if model not in commands}
    numbers = {command: number for number, command in enumerate(dict.fromkeys(commands.values()))}
    return Needed([shlex.split(command) for command in numbers], [{numbers[commands[model]] for model in own} for own in wanted])


def models_of(run: Sequence[str]) -> Iterable[Model]:
    """The base models of one run."""
    from unlearn import METHODS

    flags = flags_of(run)
    method = METHODS[flags["unlearn"][-1]]
    common = {name: words for name, words in flags.items() if name not in (*of_the_job(), *method.hyperparameters, "seed")}
    retained = tuple((f"--{name}", *words) for name, words in common.items())
    everything = tuple(flag for flag in retained if flag[0][2:] not in REQUEST)
    seed = int(flags["seed"][0]) if "seed" in flags else None
    yield Model(INITIAL, everything, seed)
    if flags.get("ideal") != ["skip"]:
        yield Model(IDEAL, retained, seed)
    for oracle in oracle_seeds(run, method):
        yield Model(IDEAL, retained, oracle, oracle=True)


@cache
def of_the_job() -> frozenset[str]:
    """The flags that mlflow_forget.py has and the commands for base models have not."""
    import command_line
    import run_flags
    from models import ARCHITECTURES

    of_base_models = command_line.OneLineParser("")
    command_line.add_shared_flags(of_base_models)
    architecture = ARCHITECTURES["mlp"]
    names = [{action.dest for action in parser._actions} for parser in (run_flags.flags(None, architecture), of_base_models)]
    return frozenset(names[0] - names[1] - set(architecture.hyperparameters))


@cache
def plain_flags() -> frozenset[str]:
    """The flags of mlflow_forget.py that are no hyperparameters of anything: none is no value of them."""
    import run_flags
    from models import ARCHITECTURES
    from training.recipe import FLAGS

    architecture = ARCHITECTURES["mlp"]
    parser = run_flags.flags(None, architecture)
    names = {flag.removeprefix("--") for action in parser._actions for flag in action.option_strings}
    return frozenset(names - set(architecture.hyperparameters) - set(FLAGS.hyperparameters))


def flags_of(words: Sequence[str]) -> Flags:
    """The values of each flag, by its name. Words before the first flag are nobody's."""
    found: Flags = {}
    current: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = [value] if equals else []
            current = found[name]
        else:
            current.append(word)
    return found


def oracle_seeds(run: Sequence[str], method: Any) -> list[int]:
    """The seeds of the oracles that a method asks for, which it does when its settings are resolved: here, beside images of no account."""
    import torch
    from torch import nn

    import command_line
    import run_flags
    from unlearn import ForgetData, Oracles, resolved

    if "oracles" not in method.facts.needs:
        return []
    options, _, _ = run_flags.options_of(run)
    (seed,) = options.seed
    asked: list[int] = []
    given = command_line.several_settings_from(options, method)
    settings = {name: values[0] for name, values in given.items()}
    oracles = Oracles(lambda seeds: asked.extend(seeds) or (), judges=(seed,))  # type: ignore[func-returns-value]
    labels = torch.arange(4) % 2
    data = ForgetData.of_tensors(torch.zeros(4, 1, 2, 2), labels, labels == 0, seed=seed, oracles=oracles)
    resolved(method, nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), data, settings)
    return asked


def _oracles(models: Sequence[Model]) -> dict[Model, str]:
    """One command for neighbouring seeds of ideal models where some of them are oracles; it makes the ideal models among them too."""
    commands: dict[Model, str] = {}
    for flags in dict.fromkeys(model.flags for model in models if model.oracle):
        alike = [model for model in models if model.flags == flags]
        for span in _spans(sorted({model.number for model in alike})):
            own = [model for model in alike if model.number in span]
            if any(model.oracle for model in own):
                command = shlex.join([IDEAL, "--oracles", str(len(span)), *_words(own[0], span[0])])
                commands |= dict.fromkeys(own, command)
    return commands


def _spans(numbers: Sequence[int]) -> list[range]:
    spans: list[range] = []
    for number in numbers:
        if spans and number == spans[-1].stop:
            spans[-1] = range(spans[-1].start, number + 1)
        else:
            spans.append(range(number, number + 1))
    return spans


def _words(model: Model, seed: int | None) -> list[str]:
    words = [word for flag in model.flags for word in flag]
    return words if seed is None else [*words, "--seed", str(seed)]
