"""The U-LiRA audit: a per-image attack on unlearned shadow models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lethe.audits.many_models import (
    AuditResult,
    Notice,
    StartingModel,
    announce_cost,
    audit_run,
    job_of,
    loaded,
    log_kept,
    log_margins,
    log_result,
    origin,
    params_of,
    unlearned,
)
from lethe.data import ImageSet, forward_batch
from lethe.evaluation import NO_COMMANDS, Missing, Shadows, evaluate, outputs_of
from lethe.evaluation.memorisation import Memorisation
from lethe.evaluation.strata import STRATA, shadows_of
from lethe.evaluation.ulira import LEAST_SIDE, too_few
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.memorised import MEMORISATION_FILE, memorisation_at_hand, memorisation_csv
from lethe.experiment.model_sets import Kind, ModelSpec, command, specs_of, train_set
from lethe.system.timed import timed
from lethe.training import Progress, fit, generator_for, model_digest, silent
from lethe.unlearn import ForgetData

Out = Literal["unlearned", "retrained"]
MARGINS, MEMBER = "shadow_margins.npy", "member.npy"
AT_CHANCE, CAUGHT, BELOW = "at chance", "above chance: caught", "below chance"
INCONCLUSIVE = "inconclusive: too few shadow models"
BESIDE: tuple[Kind, Kind] = ("initial models", "oracles")
FEWEST = 4 * LEAST_SIDE  # half of them have an image, and half of those are attacked


@dataclass(frozen=True)
class UliraConfig:
    """A method, the number of shadow models (half of them a side), and the models that never saw an image.

    out: "unlearned", shadow models of random halves of the training set, each of which unlearns those forget
    images that it was trained on; or "retrained", oracles, beside as many models that were trained on
    everything and unlearned the forget set, as public code does.
    """

    unlearn: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: BaseConfig = field(default_factory=BaseConfig)
    shadows: int = 128
    out: Out = "unlearned"
    experiment: str | None = None


class UliraAudit:
    """Half of the models fit the Gaussians, every second one (or pair of halves) is attacked.

    Raises ValueError or FileNotFoundError for a user's mistake, before anything is trained.
    """

    def __init__(
        self, config: UliraConfig, *, progress: Progress = silent, notice: Notice = lambda line: None
    ) -> None:
        if config.shadows < FEWEST or config.shadows % 4:
            raise ValueError(
                f"--shadows: expected a multiple of 4 of at least {FEWEST}, got {config.shadows}. "
                "Ask for 128: half of them have an image, and half of those are attacked"
            )
        if config.out not in ("unlearned", "retrained"):
            raise ValueError(f"--ulira_out: expected unlearned or retrained, got {config.out!r}. Choose one")
        self.config = config
        self.notice = notice
        seeds = range(config.base.seed, config.base.seed + config.shadows // 2)
        judges = seeds if config.out == "retrained" else None
        self.job = job_of(config.unlearn, config.settings, config.base, config.experiment, progress, judges)
        if config.out == "unlearned":
            self._check_halves()
        else:
            for kind in BESIDE:
                specs_of(self.job.base, kind, config.shadows // 2)
        self.stages: dict[str, float] = {}

    @property
    def name(self) -> str:
        given = "".join(f" {name}={value}" for name, value in self.config.settings.items())
        of = "" if self.config.out == "unlearned" else " out=retrained"
        who = f"{self.job.method.name} {self.job.base.request_slug} {self.config.shadows} shadows"
        return f"U-LiRA {who}{of} seed{self.config.base.seed}{given}"

    def run(self) -> AuditResult:
        """Run the audit in one MLflow run."""
        started = time.perf_counter()
        self.stages = {}
        own = {"shadows": self.config.shadows, "ulira_out": self.config.out}
        with audit_run(self.job, "ulira", self.name, params_of(self.job, **own)) as run:
            rows: list[dict[str, Any]] = []
            of_halves = self.config.out == "unlearned"
            shadows = self._of_halves(rows) if of_halves else self._beside_retrained(rows)
            with timed(self.stages, "evaluate"):
                memorised = self._memorisation()
                makes = {"memorisation": command(self.job.base, "shadows", self.config.shadows)}
                values, undefined, intervals = evaluated(shadows, memorised, makes)
                beside = sizes_of(shadows)
            rows = [row | {"attacked": bool(own)} for row, own in zip(rows, shadows.attacked, strict=True)]
            arrays = {MARGINS: shadows.margins.numpy(), MEMBER: shadows.member.numpy()}
            log_margins(run, self.job.base, {"forget": self.job.data.forget}, rows, arrays)
            if memorised is not None:
                names = self.job.base.splits.class_names
                content = memorisation_csv(memorised, self.job.data.forget, names)
                log_kept(run, {MEMORISATION_FILE: content.encode()})
            self.stages["total"] = time.perf_counter() - started
            result = AuditResult(
                run.run_id, self.name, values, beside, undefined, [self._note()], self.stages, intervals, rows
            )
            log_result(run, result)
        return result

    def _memorisation(self) -> Memorisation | None:
        """Return the memorisation of the forget images, if the shadow models of halves are there.

        Computed without the models that are attacked: images that are chosen by them would look more, or
        less, memorised than they are.
        """
        count = self.config.shadows
        chosen = ~attacked_halves(count) if self.config.out == "unlearned" else None
        return memorisation_at_hand(self.job.base, self.job.data.forget, count, chosen)

    def _of_halves(self, rows: list[dict[str, Any]]) -> Shadows:
        """Train shadow models on halves; each unlearns its part of the forget images."""
        with timed(self.stages, "first"):
            first = train_set(self.job.base, "shadows", 2).specs[0]
            start = StartingModel("shadow model 1", partial(self._start, first, 1))
            announce_cost(self.job, start, self.config.shadows, self.notice)
        with timed(self.stages, "shadows"):
            members = train_set(self.job.base, "shadows", self.config.shadows).specs
        starts = [
            StartingModel(f"shadow model {number}", partial(self._start, shadow, number))
            for number, shadow in enumerate(members, 1)
        ]
        with timed(self.stages, "unlearn"):
            margins = torch.stack(list(self._margins_after(starts, members, rows)))
        return Shadows(margins, self._member(members), attacked_halves(len(members)))

    def _beside_retrained(self, rows: list[dict[str, Any]]) -> Shadows:
        """Unlearn the forget set from models of the whole training set, and compare with oracles."""
        half = self.config.shadows // 2
        base = self.job.base
        with timed(self.stages, "first"):
            first = train_set(base, "initial models", 1).specs[0]
            announce_cost(self.job, self._trained_on_all(first), half, self.notice)
        with timed(self.stages, "shadows"):
            initial, oracles = (train_set(base, kind, half).specs for kind in BESIDE)
        starts = list(map(self._trained_on_all, initial))
        with timed(self.stages, "unlearn"):
            margins = [
                *self._margins_after(starts, initial, rows),
                *(self._seen(loaded(self.job, m), m, rows) for m in oracles),
            ]
        member = (torch.arange(2 * half) < half).unsqueeze(1).expand(-1, len(self.job.data.forget))
        return Shadows(torch.stack(margins), member, torch.arange(2 * half) % 2 == 1)

    def _trained_on_all(self, member: ModelSpec) -> StartingModel:
        return StartingModel(f"the model of seed {member.seed}", partial(self._start_of_all, member))

    def _start_of_all(self, member: ModelSpec) -> tuple[nn.Module, ForgetData]:
        """Load a model trained on everything, with an ideal model, if needed, that is no oracle."""
        other = generator_for(member.seed, "ulira", "ideal").initial_seed()
        ideal = partial(self._retrained, self.job.data.retain, other)
        data = replace(self.job.data, seed=member.seed, progress=silent, ideal=ideal)
        return loaded(self.job, member), data

    def _start(self, shadow: ModelSpec, number: int) -> tuple[nn.Module, ForgetData]:
        """Load a shadow model, with its own training images as data."""
        base = self.job.base
        own = base.splits.train.subset(shadow.rows)
        forgotten = torch.isin(own.indexes, self.job.data.forget.indexes)
        seed = generator_for(shadow.seed, "shadow", number, "unlearn").initial_seed()
        retain = own.subset(~forgotten)
        sets: dict[str, Any] = {"forget": own.subset(forgotten), "retain": retain, "whole": own}
        ideal = partial(self._retrained, retain, seed)
        data = replace(self.job.data, **sets, seed=seed, progress=silent, ideal=ideal)
        return loaded(self.job, shadow), data

    def _member(self, shadows: Sequence[ModelSpec]) -> Tensor:
        """Return (K, n) bool: the forget images that each shadow model is trained on."""
        train, forget = self.job.base.splits.train.indexes, self.job.data.forget.indexes
        return torch.stack([torch.isin(forget, train[shadow.rows]) for shadow in shadows])

    def _check_halves(self) -> None:
        """Raise ValueError if a shadow model has nothing to forget, or an image has too few models of a kind.

        The latter is chance: each pair of halves leaves out one of an odd number of training images.
        """
        count = self.config.shadows
        wrong = self._wrong_with(count)
        if wrong:
            larger = range(count + 4, 2 * count + 1, 4)
            enough = next((number for number in larger if not self._wrong_with(number)), None)
            way_out = f"Ask for --shadows {enough}" if enough else "Forget more images"
            raise ValueError(f"{wrong}. {way_out}, or audit with --ulira_out retrained")

    def _wrong_with(self, count: int) -> str:
        """Return the problem with a number of shadow models; "" if there is none."""
        shadows = specs_of(self.job.base, "shadows", count)
        member = self._member(shadows)
        for number, (shadow, forgotten) in enumerate(zip(shadows, member.sum(1).tolist(), strict=True), 1):
            if forgotten in (0, len(shadow.rows)):
                return (
                    f"expected forget images among those that shadow model {number} is trained on, and "
                    f"others, got {forgotten} of {len(shadow.rows)}"
                )
        short = too_few(member, attacked_halves(count))
        return short and f"--shadows: {short} of {count}"

    def _retrained(self, retain: ImageSet, seed: int) -> nn.Module:
        """Train the ideal model of a shadow model on its retain set, from new weights."""
        base = self.job.base
        model = base.built(seed)
        fit(model, retain, base.recipe, generator=generator_for(seed, "train"), device=base.device)
        return model

    def _margins_after(
        self, starts: list[StartingModel], members: list[ModelSpec], rows: list[dict[str, Any]]
    ) -> Iterator[Tensor]:
        for member, model in zip(members, unlearned(self.job, starts), strict=True):
            yield self._seen(model, member, rows)

    def _seen(self, model: nn.Module, member: ModelSpec, rows: list[dict[str, Any]]) -> Tensor:
        """Return a model's margins on the forget set, and add its row to the table of models."""
        forget, device = self.job.data.forget, self.job.base.device
        rows.append({"trained_on": member.trained_on, **origin(member), "digest": model_digest(model)})
        return outputs_of(model, forget.batches(forward_batch(device), device=device)).margins.float()

    def _note(self) -> str:
        half = self.config.shadows // 2
        unlearned_others = f"{half} that were not, and unlearned other images"
        others = unlearned_others if self.config.out == "unlearned" else f"{half} oracles"
        return (
            f"for each image {half} models that were trained on it and unlearned it, beside {others}; half "
            "of them fit the Gaussians, half are attacked"
        )


def evaluated(
    shadows: Shadows, memorised: Memorisation | None, commands: Mapping[str, str] = NO_COMMANDS
) -> tuple[dict[str, float], dict[str, Missing], dict[str, tuple[float, float]]]:
    """Return the rates of the attack, the reasons of missing ones, and their 95 % intervals, by metric name.

    memorised: of the forget images; the AUC of each third of them is a rate too. commands: as of `evaluate`.
    """
    intervals = {f"ulira_{name}": ends for name, ends in shadows.intervals.items()}
    if memorised is None:
        return *evaluate(shadows=shadows, commands=commands), intervals
    values, undefined = evaluate(shadows=shadows, memorisation=memorised)
    for stratum in STRATA:
        name = f"ulira_auc_memorised_{stratum}"
        if name in values:
            intervals[name] = shadows_of(stratum, shadows, memorised).intervals["auc"]
    return values, undefined, intervals


def attacked_halves(count: int) -> Tensor:
    """Return (K,) bool: the attacked shadow models, every second pair of halves."""
    return torch.arange(count) // 2 % 2 == 1


def interval_message(name: str, ends: tuple[float, float]) -> str:
    """Return the meaning of the 95 % interval of an attack's rate.

    An interval around chance is a pass only if it ends below the middle between chance and 1 (an AUC of
    0.75); a wider one is inconclusive.
    """
    low, high = ends
    chance = 0.01 if name == "ulira_tpr_at_1_fpr" else 0.5
    if low > chance:
        return CAUGHT
    if high < chance:
        return BELOW
    return INCONCLUSIVE if high > (1 + chance) / 2 else AT_CHANCE


def sizes_of(shadows: Shadows) -> dict[str, float]:
    """Return the number of models a side (the least of all images) and of attacked models."""
    member = shadows.member.sum(0)
    fewest = torch.minimum(member, len(shadows.member) - member).min()
    return {"ulira_shadows": float(fewest), "ulira_attacked": float(shadows.attacked.sum())}
