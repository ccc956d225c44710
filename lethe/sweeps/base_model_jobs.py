"""The jobs of a list of runs: the base models that they need, each trained once, and the runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from lethe import command_line
from lethe.commands import SCRIPTS
from lethe.experiment import run_flags
from lethe.experiment.forget_flags import CHOICE
from lethe.experiment.run_flags import flags_of_the_run
from lethe.flag_error import FlagError
from lethe.flag_words import Flags, words_of
from lethe.sweeps.job_queue import RUN, Job

if TYPE_CHECKING:
    from lethe.experiment.base_config import BaseConfig
    from lethe.experiment.run_config import PipelineConfig

SHOWS = ("list", "help", "h")  # flags that print something instead of a run
LISTED = "forget_indexes"
REQUEST = ("class_to_replace", "num_indexes_to_replace", LISTED, *CHOICE)
MADE_BY = {"initial": SCRIPTS["baseline"], "ideal": SCRIPTS["ideal"]}
Words = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A run of mlflow_forget.py: its config, and its words and flags as a person wrote them."""

    words: Words
    flags: Flags
    config: PipelineConfig


@dataclass(frozen=True)
class Model:
    """A base model. `flags`: those that it is trained with, as written, without the seed. `seed`: None if the
    flags have none.
    """

    which: Literal["initial", "ideal"]
    flags: tuple[tuple[str, Words], ...]
    seed: int | None
    config: BaseConfig = field(compare=False)
    oracle: bool = False

    def job(self, oracles: int | None = None) -> Job:
        """Return the job that trains this model, or the oracles of as many seeds from its own on."""
        from lethe.experiment.base_model_command import Training

        flags: Flags = {} if oracles is None else {"oracles": [str(oracles)]}
        flags |= {name: list(words) for name, words in self.flags}
        if self.seed is not None:
            flags["seed"] = [str(self.seed)]
        words = (MADE_BY[self.which], *words_of(flags))
        return Job(words, Training(self.which, self.config, {} if oracles is None else {"oracles": oracles}))


def jobs_of(runs: Sequence[Run]) -> list[Job]:
    """Return the jobs of the base models that checked runs need, then the jobs of the runs.

    Initial models come first, then ideal ones, which runs with `--ideal skip` do not need. Where a method
    needs oracles, one job trains those of neighbouring seeds.
    """
    needed = [list(models_of(run)) for run in runs]
    models = list(dict.fromkeys(model for own in needed for model in own))
    job_of = {model: model.job() for model in models if model.which == "initial"}
    ideal = [model for model in models if model.which == "ideal"]
    job_of |= _oracle_jobs(ideal)
    job_of |= {model: model.job() for model in ideal if model not in job_of}

    bases = {job.words: job for job in job_of.values()}
    place = {words: number for number, words in enumerate(bases)}
    jobs = list(bases.values())
    for run, own in zip(runs, needed, strict=True):
        places = frozenset(place[job_of[model].words] for model in own)
        jobs.append(Job((RUN, *run.words), run.config, places))
    return jobs


def models_of(run: Run) -> Iterable[Model]:
    """Yield the base models of one run."""
    from lethe.data import ForgetRequest
    from lethe.unlearn import METHODS

    method = METHODS[run.config.unlearn].choosing(run.config.settings)
    left_out = (*flags_of_the_run(), *method.hyperparameters, "seed")
    flags = tuple((name, tuple(words)) for name, words in run.flags.items() if name not in left_out)
    without_request = tuple((name, words) for name, words in flags if name not in REQUEST)
    base = run.config.base
    seed = base.seed if "seed" in run.flags else None
    yield Model("initial", without_request, seed, replace(base, request=ForgetRequest()))
    if run.config.ideal != "skip":
        yield Model("ideal", flags, seed, base)
    for oracle in oracle_seeds(run.config):
        yield Model("ideal", flags, oracle, replace(base, seed=oracle), oracle=True)


def one_config(words: Sequence[str], place: Literal["grid", "line"]) -> PipelineConfig:
    """Return the config of one run. Raises ValueError for wrong flags, flags that only print, a --config, and
    several runs.
    """
    shows = next((name for name in SHOWS if {f"-{name}", f"--{name}"} & set(words)), None)
    if shows is not None:
        raise FlagError(shows, f"--{shows} shows what there is, and runs nothing. Leave it out", named=False)
    if command_line.first_pass(words, {"config": None})["config"] is not None:
        raise FlagError(
            "config", f"expected the flags themselves, got a file of them. Write them into the {place}"
        )
    options, method, architecture = run_flags.options_of(words)
    configs = run_flags.configs_from(options, method, architecture)
    if len(configs) > 1:
        several = [
            name for name in ("seed", *method.hyperparameters) if len(getattr(options, name) or ()) > 1
        ]
        message = "expected one run, got several values of one flag. Give one value for each flag of a run"
        raise FlagError(several[0], message, named=False)
    return configs[0]


def oracle_seeds(config: PipelineConfig) -> list[int]:
    """Return the seeds of the oracles that the method asks for. Raises ValueError for oracles it can't have.

    The method resolves its settings on four made-up images, with oracles that only note the seeds.
    """
    import torch
    from torch import nn

    from lethe.unlearn import METHODS, ForgetData, Oracles, resolved

    method = METHODS[config.unlearn]
    if "oracles" not in method.facts.needs:
        return []
    seed = config.base.seed
    asked: list[int] = []
    oracles = Oracles(lambda seeds: asked.extend(seeds) or (), judges=(seed,))  # type: ignore[func-returns-value]
    labels = torch.arange(4) % 2
    data = ForgetData.of_tensors(torch.zeros(4, 1, 2, 2), labels, labels == 0, seed=seed, oracles=oracles)
    resolved(method, nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), data, config.settings)
    return asked


def _oracle_jobs(models: Sequence[Model]) -> dict[Model, Job]:
    """Return one job for each span of neighbouring seeds with an oracle, ideal models included."""
    jobs: dict[Model, Job] = {}
    for flags in dict.fromkeys(model.flags for model in models if model.oracle):
        alike = sorted((model for model in models if model.flags == flags), key=lambda one: one.config.seed)
        for span in _spans(sorted({model.config.seed for model in alike})):
            own = [model for model in alike if model.config.seed in span]
            if any(model.oracle for model in own):
                first = replace(own[0], seed=own[0].config.seed)
                jobs |= dict.fromkeys(own, first.job(oracles=len(span)))
    return jobs


def _spans(numbers: Sequence[int]) -> list[range]:
    """Return the ranges of neighbours in sorted numbers."""
    spans: list[range] = []
    for number in numbers:
        if spans and number == spans[-1].stop:
            spans[-1] = range(spans[-1].start, number + 1)
        else:
            spans.append(range(number, number + 1))
    return spans
