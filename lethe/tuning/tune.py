"""Search a method's hyperparameters, and leave the best ones, all trials and a report in one MLflow run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lethe.evaluation import names_in
from lethe.experiment.run_config import PipelineConfig, flags_of
from lethe.flag_error import FlagError
from lethe.flag_words import command, text_of
from lethe.report.svg_file import svg_file
from lethe.report.tuning_page import Point, SearchFacts, tuning_page, tuning_pictures
from lethe.system.temporary_files import replaced
from lethe.tracking.run import TrackedRun, tracked_run
from lethe.tracking.store_uri import database_of, tracking_uri
from lethe.training import Progress, silent
from lethe.tuning.objective import Objective, TrialResult
from lethe.tuning.space import Range, space_of
from lethe.tuning.study import Limit, Search, Tried, identity_of
from lethe.version import __version__

TUNING_SEEDS = (101, 102)
FOLDER = "tuning"  # of Optuna's files, beside the store
DEFAULT_TRIALS = 20
METHOD = "tuned_method"  # param of trials and searches; runs with the param `unlearn` are compared by seed


@dataclass(frozen=True)
class TuneConfig:
    """A search. run: the method with its fixed settings, base models and forget request, of any seed.

    trials: how many settings to try, the default ones first. budget: end after so many times the seconds that
    training the ideal models took; None is without limit. ranges: a YAML file that narrows the ranges.
    tuning_seeds: of the base models. objectives: metrics, of which several give a Pareto front. search_seed:
    of the draws.
    """

    run: PipelineConfig
    trials: int = DEFAULT_TRIALS
    budget: float | None = None
    ranges: Path | None = None
    tuning_seeds: tuple[int, ...] = TUNING_SEEDS
    objectives: tuple[str, ...] = ("avg_gap",)
    search_seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise FlagError("trials", f"expected an integer >= 1, got {self.trials}. Give e.g. 20")
        if self.budget is not None and not (math.isfinite(self.budget) and self.budget > 0):
            raise FlagError("budget", f"expected a number > 0, got {self.budget:g}x. Give e.g. 10x")
        twice = len(set(self.tuning_seeds)) < len(self.tuning_seeds)
        if twice or not self.tuning_seeds:
            got = " ".join(map(str, self.tuning_seeds)) or "none"
            raise FlagError("tuning_seeds", f"expected one or more seeds, each once, got {got}")
        if self.run.base.mask:
            raise FlagError("mask", "expected none, as a search has models of several seeds. Leave it out")
        if not self.objectives:
            raise FlagError("objective", "expected the name of a metric, got none. Give e.g. avg_gap")


@dataclass(frozen=True)
class Tuned:
    """What a search found. best: the trials to use, one but for several objectives. others: trials that other
    processes were still running. settings: fixed and best ones, of the first of `best`.
    """

    tried: list[Tried]
    best: list[Tried]
    ranges: list[Range]
    importances: dict[str, float]
    notes: list[str]
    warnings: list[str]
    run_id: str
    settings: dict[str, Any] = field(default_factory=dict)
    others: int = 0
    best_file: Path | None = None


def tune(config: TuneConfig, *, progress: Progress = silent, notice: Callable[[str], None] = print) -> Tuned:
    """Search, resuming what an earlier process began. Every trial is a child of one MLflow run.

    Looks at forget, retain and validation images of the tuning seeds; never at a test image. Several
    processes with the same config share the trials. Raises ValueError or FileNotFoundError for mistakes in
    the config, before anything is trained.
    """
    objective = Objective(config.run, config.tuning_seeds, config.objectives, progress)
    method = objective.method
    ranges = space_of(method, config.run.settings, config.ranges)
    undecided = objective.settle()
    config = replace(config, objectives=objective.words)
    search = Search(
        _file(config, objective, ranges),
        "tune",
        ranges,
        {name: one.default for name, one in method.hyperparameters.items()},
        objective.names,
        config.search_seed,
    )
    notes = [*_notes(config, objective, ranges), *undecided]
    for note in notes:
        notice(note)
    limit = _limit(config, objective, ranges)
    name = f"tune {method.name} {objective.slug}"
    with tracked_run(_experiment(objective), name, tags={"sweep": "parent"}) as parent:
        parent.params(_params(config, ranges))

        def value_of(number: int, settings: dict[str, Any]) -> TrialResult:
            return _trial(objective, number, settings)

        def ended(one: Tried) -> None:
            notice(_line(one, search))

        search.run(value_of, limit, ended)
        tuned = _found(search, ranges, notes, parent.run_id)
        if tuned.others or not tuned.best:
            return tuned
        settings = {**config.run.settings, **tuned.best[0].settings}
        return _logged(parent, config, objective, replace(tuned, settings=settings))


def _experiment(objective: Objective) -> str:
    return f"{objective.experiment}-tuning"


def _trial(objective: Objective, number: int, settings: dict[str, Any]) -> TrialResult:
    """Run a trial in a run of its own, which ends as FAILED if it has no value."""
    name = f"trial {number}"
    with tracked_run(_experiment(objective), name, nested=True, columns=names_in("overview")) as run:
        given = {**objective.config.settings, **settings}
        run.params({METHOD: objective.method.name, "trial": number, **given})
        result = objective.value_of(settings)
        run.metrics({f"objective_{name}": value for name, value in result.losses.items()})
        run.metrics({**result.metrics, "unlearn_seconds": result.seconds})
        return result


def _limit(config: TuneConfig, objective: Objective, ranges: Sequence[Range]) -> Limit:
    if not ranges:
        return Limit(1)
    if config.budget is None:
        return Limit(config.trials)
    return Limit(config.trials, config.budget * objective.ideal_seconds())


def _file(config: TuneConfig, objective: Objective, ranges: Sequence[Range]) -> Path:
    """Return the file of the search, beside the store: another for all that would change a trial."""
    store = database_of(tracking_uri())
    folder = Path(FOLDER) if store is None else store.parent / FOLDER
    digest = identity_of(
        {
            "flags": flags_of(config.run),
            "method": objective.method.identity,
            **objective.made_of,
            "ranges": {one.name: one.words for one in ranges},
            "objectives": config.objectives,
            "seeds": config.tuning_seeds,
            "search_seed": config.search_seed,
            "version": __version__,
        }
    )
    return folder / f"{objective.method.name}_{objective.slug}_{digest[:12]}.journal"


def _notes(config: TuneConfig, objective: Objective, ranges: Sequence[Range]) -> list[str]:
    seeds = " ".join(map(str, config.tuning_seeds))
    searched = "; ".join(f"{one.name} ({one.words})" for one in ranges)
    fixed = ", ".join(f"{name} {text_of(value)}" for name, value in config.run.settings.items())
    return [
        f"to forget: {objective.forgotten}",
        f"tuning seeds {seeds}; forget, retain and validation images",
        f"minimised: {', '.join(map(objective.in_words, objective.names))}",
        f"searched: {searched or 'nothing, as no hyperparameter is free: one trial of the default settings'}",
        *([f"fixed: {fixed}"] if fixed else []),
    ]


def _params(config: TuneConfig, ranges: Sequence[Range]) -> dict[str, Any]:
    flags = {name: " ".join(words) for name, words in flags_of(config.run).items() if name != "seed"}
    return (
        {METHOD: flags.pop("unlearn")}
        | flags
        | {
            "trials": config.trials,
            "budget": config.budget,
            "tuning_seeds": " ".join(map(str, config.tuning_seeds)),
            "objective": ",".join(config.objectives),
            "search_seed": config.search_seed,
            **{f"range_{one.name}": one.words for one in ranges},
        }
    )


def _line(one: Tried, search: Search) -> str:
    settings = " ".join(f"{name}={_short(value)}" for name, value in one.settings.items()) or "default"
    values = ", ".join(f"{name} {value:.4g}" for name, value in one.losses.items())
    return f"trial {one.number}: {values or f'failed ({one.reason})'}   {settings}   {one.seconds:.2f} s"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)


def _found(search: Search, ranges: list[Range], notes: list[str], run_id: str) -> Tuned:
    best = search.best()
    return Tuned(
        tried=search.tried(),
        best=best,
        ranges=ranges,
        importances=search.importances(),
        notes=notes,
        warnings=_warnings(best, ranges),
        run_id=run_id,
        others=search.running(),
    )


def _warnings(best: Sequence[Tried], ranges: Sequence[Range]) -> list[str]:
    if not best:
        return ["no trial has a value. The lines of the trials say why"]
    if len(best) == 1 and best[0].number == 0 and ranges:
        return ["no trial is better than the default settings"]
    found = []
    for one in ranges:
        ends = {one.end_of(trial.settings.get(one.name)) for trial in best if trial.settings} - {""}
        for end in sorted(ends):
            more = "lower" if end == "low" else "higher"
            found.append(
                f"the best {one.name} lies at the {end} end of its range ({one.words}): a {more} value may "
                "be better. Widen the range with --ranges"
            )
    return found


def _logged(parent: TrackedRun, config: TuneConfig, objective: Objective, tuned: Tuned) -> Tuned:
    """Log the table of the trials, the best settings and the report, and write best.yml."""
    best = replace(config.run, settings=tuned.settings)
    text = best_yml(best, config, tuned)
    file = Path(f"best_{objective.method.name}_{objective.slug}.yml")
    with replaced(file) as partial:
        partial.write_text(text, encoding="utf-8")
    parent.text(text, "best.yml")
    parent.text(trials_csv(tuned), "trials.csv")
    facts = facts_of(config, objective, tuned)
    parent.text(tuning_page(facts), "report.html")
    for picture in tuning_pictures(facts):
        parent.text(svg_file(picture, facts.title), f"pictures/{picture.name}.svg")
    parent.metrics({f"best_{name}": value for name, value in tuned.best[0].losses.items()})
    default = next((one for one in tuned.tried if one.number == 0), None)
    if default is not None:
        parent.metrics({f"default_{name}": value for name, value in default.losses.items()})
    if tuned.warnings:
        parent.tags({"warning": "; ".join(tuned.warnings)})
    return replace(tuned, best_file=file)


def best_yml(best: PipelineConfig, config: TuneConfig, tuned: Tuned) -> str:
    """Return the best settings as a file for --config, with what they were found by as comments."""
    import yaml

    flags = {name: words for name, words in flags_of(best).items() if name not in ("seed", "metrics")}
    content = {name: words[0] if len(words) == 1 else list(words) for name, words in flags.items()}
    trial = tuned.best[0]
    losses = ", ".join(f"{name} {value:.6g}" for name, value in trial.losses.items())
    seconds = sum(one.seconds for one in tuned.tried)
    comments = [
        f"trial {trial.number} of {len(tuned.tried)}: {losses}; {seconds:.1f} s of unlearning in all",
        *tuned.notes,
        *(f"warning: {one}" for one in tuned.warnings),
        f"found by lethe {__version__}: {command_of(config)}",
    ]
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    return "\n".join([*lines, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])


def trials_csv(tuned: Tuned) -> str:
    """Return a row per trial: its settings, losses, metrics, seconds, and why it failed."""
    names = list(dict.fromkeys(name for one in tuned.tried for name in one.settings))
    losses = list(dict.fromkeys(name for one in tuned.tried for name in one.losses))
    metrics = list(dict.fromkeys(name for one in tuned.tried for name in one.metrics))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["trial", *names, *(f"objective_{name}" for name in losses), *metrics, "seconds", "failed"]
    )
    for one in tuned.tried:
        row: list[Any] = [one.number]
        for values, columns in ((one.settings, names), (one.losses, losses), (one.metrics, metrics)):
            row += [values.get(name, "") for name in columns]
        writer.writerow([*row, one.seconds, one.reason])
    return file.getvalue()


def facts_of(config: TuneConfig, objective: Objective, tuned: Tuned) -> SearchFacts:
    """Return what the report shows."""
    first = objective.names[0]
    scales = {one.name: one.search.scale for one in tuned.ranges if one.search is not None}
    defaults = {name: one.default for name, one in objective.method.hyperparameters.items()}
    points = [
        Point(
            one.number,
            one.losses[first],
            {name: one.settings.get(name, defaults.get(name)) for name in scales},
        )
        for one in tuned.tried
        if one.losses
    ]
    names = [one.name for one in tuned.ranges]
    header = ["trial", *objective.names, *names, "seconds", "failed"]
    rows = [
        [
            str(one.number),
            *(f"{one.losses[name]:.4g}" if one.losses else "" for name in objective.names),
            *(_short(one.settings[name]) if name in one.settings else "default" for name in names),
            f"{one.seconds:.2f}",
            one.reason,
        ]
        for one in tuned.tried
    ]
    return SearchFacts(
        title=f"{objective.method.name}, {objective.forgotten}",
        objective=first,
        points=points,
        best=[one.number for one in tuned.best],
        scales=scales,
        importances=tuned.importances,
        about=tuned.notes,
        warnings=tuned.warnings,
        header=header,
        rows=rows,
        command=command_of(config),
    )


def command_of(config: TuneConfig) -> str:
    """Return the command that searches again."""
    flags = {name: words for name, words in flags_of(config.run).items() if name != "seed"}
    flags["trials"] = [str(config.trials)]
    if config.budget is not None:
        flags["budget"] = [f"{config.budget:g}x"]
    if config.ranges is not None:
        flags["ranges"] = [str(config.ranges)]
    flags["tuning_seeds"] = [str(seed) for seed in config.tuning_seeds]
    flags["objective"] = [",".join(config.objectives)]
    flags["search_seed"] = [str(config.search_seed)]
    return command("tune", flags)


def reported(results: Mapping[str, Sequence[Mapping[str, float]]], names: Sequence[str]) -> list[list[str]]:
    """Return a row per kind of settings: the mean of each metric over the reported seeds, and its range."""
    rows = []
    for kind, of_seeds in results.items():
        cells = []
        for name in names:
            values = [metrics[name] for metrics in of_seeds if name in metrics]
            cells.append(_mean_and_range(values, len(of_seeds)))
        rows.append([kind, *cells])
    return rows


def _mean_and_range(values: Sequence[float], seeds: int) -> str:
    if not values:
        return "undecided"
    mean = sum(values) / len(values)
    few = "" if len(values) == seeds else f" ({len(values)} of {seeds})"
    return f"{mean:.2f} [{min(values):.2f}, {max(values):.2f}]{few}"
