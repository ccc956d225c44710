"""Which base models a list of runs needs, each once: the commands that train them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import command_line
import run_flags
from flag_error import FlagError
from flag_words import Flags, words_of
from run_flags import flags_of_the_run

if TYPE_CHECKING:
    from run_config import PipelineConfig

SHOWS = ("list", "help", "h")  # flags that show something, and run nothing
REQUEST = ("class_to_replace", "num_indexes_to_replace", "forget_indexes")
PYTHON = ["python", "-u"]
Words = tuple[str, ...]
JOB, INITIAL, IDEAL = "mlflow_forget.py", "main_baseline.py", "main_ideal.py"


@dataclass(frozen=True)
class Run:
    """A run of mlflow_forget.py: the words after it, and what they are: the words of each flag."""

    words: tuple[str, ...]
    flags: Flags


@dataclass
class Needed:
    """The commands, as words after `python -u`, initial models first; and for each run the positions of those
    that it needs.
    """

    commands: list[Words] = field(default_factory=list)
    of_run: list[set[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    """A base model: what is to be trained with which flags, the seed left out; and the seed, None where the
    flags name none.
    """

    script: str
    flags: tuple[tuple[str, Words], ...]
    seed: int | None
    oracle: bool = False

    @property
    def number(self) -> int:
        return 1 if self.seed is None else self.seed


def base_models_of(runs: Sequence[Run]) -> Needed:
    """What the runs, which have been checked, start from and are judged by.

    The ideal model is one of them unless a run says `--ideal skip`; oracles where its method asks for some,
    those of neighbouring seeds by one command.
    """
    wanted = [list(models_of(run)) for run in runs]
    commands: dict[Model, Words] = {}
    for script in (INITIAL, IDEAL):
        models = list(dict.fromkeys(model for own in wanted for model in own if model.script == script))
        commands |= _oracles(models)
        commands |= {model: (script, *_words(model, model.seed)) for model in models if model not in commands}
    numbers = {command: number for number, command in enumerate(dict.fromkeys(commands.values()))}
    return Needed(list(numbers), [{numbers[commands[model]] for model in own} for own in wanted])


def models_of(run: Run) -> Iterable[Model]:
    """The base models of one run."""
    from unlearn import METHODS

    flags = run.flags
    method = METHODS[flags["unlearn"][-1]].choosing(flags)
    left_out = (*flags_of_the_run(), *method.hyperparameters, "seed")
    retained = tuple((name, tuple(words)) for name, words in flags.items() if name not in left_out)
    everything = tuple((name, words) for name, words in retained if name not in REQUEST)
    seed = int(flags["seed"][0]) if "seed" in flags else None
    yield Model(INITIAL, everything, seed)
    if flags.get("ideal") != ["skip"]:
        yield Model(IDEAL, retained, seed)
    for oracle in oracle_seeds(run):
        yield Model(IDEAL, retained, oracle, oracle=True)


def one_config(words: Sequence[str], place: Literal["grid", "line"]) -> PipelineConfig:
    """The config of one run. ValueError for a flag that shows something, for a file of flags, and for several
    runs.
    """
    shows = next((name for name in SHOWS if {f"-{name}", f"--{name}"} & set(words)), None)
    if shows is not None:
        raise FlagError(shows, f"--{shows} shows what there is, and runs nothing. Leave it out", named=False)
    if command_line.first_pass(words, {"config": None})["config"] is not None:
        raise FlagError(
            "config", f"expected the flags themselves, got a file of them. Write them into the {place}"
        )
    configs = run_flags.configs_from(*run_flags.options_of(words))
    if len(configs) > 1:
        raise ValueError(
            "expected one run, got several values of one flag. Give one value for each flag of a run"
        )
    return configs[0]


def oracle_seeds(run: Run) -> list[int]:
    """The seeds of the oracles that the run's method asks for, when its settings are resolved: here, beside
    images of no account.

    ValueError for oracles that it can't have.
    """
    import torch
    from torch import nn

    from unlearn import METHODS, ForgetData, Oracles, resolved

    method = METHODS[run.flags["unlearn"][-1]]
    if "oracles" not in method.facts.needs:
        return []
    (config,) = run_flags.configs_from(*run_flags.options_of(run.words))
    seed = config.base.seed
    asked: list[int] = []
    oracles = Oracles(lambda seeds: asked.extend(seeds) or (), judges=(seed,))  # type: ignore[func-returns-value]
    labels = torch.arange(4) % 2
    data = ForgetData.of_tensors(torch.zeros(4, 1, 2, 2), labels, labels == 0, seed=seed, oracles=oracles)
    resolved(method, nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), data, config.settings)
    return asked


def _oracles(models: Sequence[Model]) -> dict[Model, Words]:
    """One command for neighbouring seeds of ideal models where some of them are oracles; it makes the ideal
    models among them too.
    """
    commands: dict[Model, Words] = {}
    for flags in dict.fromkeys(model.flags for model in models if model.oracle):
        alike = [model for model in models if model.flags == flags]
        for span in _spans(sorted({model.number for model in alike})):
            own = [model for model in alike if model.number in span]
            if any(model.oracle for model in own):
                words = (IDEAL, "--oracles", str(len(span)), *_words(own[0], span[0]))
                commands |= dict.fromkeys(own, words)
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
    own: dict[str, Words] = {} if seed is None else {"seed": (str(seed),)}
    return words_of(dict(model.flags) | own)
