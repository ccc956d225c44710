"""A search by Optuna that several processes share, and that a killed one leaves as it was.

Every draw is seeded by the study's seed and the number of trials before it, not by the state of a random
number generator, which would be lost with the process. So in one process a search that was killed and started
again draws the same trials as one that ran through.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.system.foreign_files import reason_of
from lethe.tracking.alive import OWNER, Claim, has_died
from lethe.training.file_lock import locked
from lethe.tuning.objective import Failed, TrialResult
from lethe.tuning.space import Range, settings_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

RANDOM_TRIALS = 6  # before the first draw by TPE, the default settings among them
NUMBER = "number"  # of a trial among those that count; Optuna's own number counts the lost ones too
SETTINGS, METRICS, SECONDS, REASON = "settings", "metrics", "seconds", "reason"
FEWEST = 5  # trials that tell anything about a flag's importance
NEEDS = (
    "lethe tune needs Optuna, and it is not installed. Install it: pip install 'lethe-unlearning[tune]', or "
    "pip install -r requirements-tune.txt"
)


@dataclass(frozen=True)
class Tried:
    """A trial that has ended. losses: as `TrialResult`, {} for a failed one; reason: why it failed, or ""."""

    number: int
    settings: dict[str, Any]
    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Limit:
    """When a search ends: after so many trials, or so many seconds of unlearning."""

    trials: int
    seconds: float | None = None

    def reached(self, tried: int, seconds: float) -> bool:
        return tried >= self.trials or (self.seconds is not None and seconds >= self.seconds)


class Search:
    """A search in the file `path`, which it makes. objectives: names of what is minimised.

    Raises ValueError for a damaged file, and if Optuna is not installed.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        ranges: Sequence[Range],
        defaults: Mapping[str, Any],
        objectives: Sequence[str],
        seed: int,
    ) -> None:
        self.path, self.ranges, self.defaults = path, ranges, defaults
        self.objectives, self.seed = tuple(objectives), seed
        self.study = _study(path, name, len(objectives))

    def run(
        self,
        value_of: Callable[[int, dict[str, Any]], TrialResult],
        limit: Limit,
        ended: Callable[[Tried], None],
    ) -> None:
        """Try settings until the limit is reached. Trials that other processes are running count as tried.

        value_of: of a trial's number and settings. ended: is called after each trial of this process.
        """
        claim = Claim()
        try:
            while (trial := self._next(limit, claim.owner)) is not None:
                number, settings = trial.user_attrs[NUMBER], trial.user_attrs[SETTINGS]
                try:
                    result = value_of(number, settings)
                except Failed as failed:
                    trial.set_user_attr(REASON, str(failed))
                    self._tell(trial, None)
                else:
                    trial.set_user_attr(METRICS, result.metrics)
                    trial.set_user_attr(SECONDS, result.seconds)
                    self._tell(trial, [result.losses[name] for name in self.objectives])
                ended(next(one for one in self.tried() if one.number == number))
        finally:
            claim.release(ended=True)

    def tried(self) -> list[Tried]:
        """Return the trials that have ended, by number."""
        ended = [trial for trial in self._counted() if trial.state.is_finished()]
        return sorted(map(self._as_tried, ended), key=lambda tried: tried.number)

    def running(self) -> int:
        """Return how many trials other processes are running."""
        return sum(not trial.state.is_finished() for trial in self._counted())

    def best(self) -> list[Tried]:
        """Return the trial with the least loss, the first of equals; for several objectives the Pareto front.

        [] if no trial has a value.
        """
        with_value = [one for one in self.tried() if one.losses]
        if len(self.objectives) == 1:
            (name,) = self.objectives
            return [min(with_value, key=lambda one: one.losses[name])] if with_value else []
        return [one for one in with_value if not any(_dominates(other, one) for other in with_value)]

    def importances(self) -> dict[str, float]:
        """Return the share of each flag in the variance of the first objective (fANOVA), by Optuna.

        {} for fewer than two flags, or than five trials with a value.
        """
        import optuna

        complete = [trial for trial in self._counted() if trial.values is not None]
        names = [one.name for one in self.ranges]
        drawn = [trial for trial in complete if set(names) <= trial.params.keys()]
        if len(names) < 2 or len(drawn) < FEWEST or len({trial.values[0] for trial in drawn}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        with _quiet():
            found = optuna.importance.get_param_importances(
                self.study, evaluator=evaluator, params=names, target=lambda trial: trial.values[0]
            )
        return dict(found)

    def _next(self, limit: Limit, owner: str) -> Trial | None:
        """Draw the next trial, and mark it as this process's; None if the limit is reached."""
        with locked(self.path):
            self._bury()
            counted = self._counted()
            spent = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in counted)
            if limit.reached(len(counted), spent):
                return None
            number = len(counted)
            self.study.sampler = _sampler(f"{self.seed} {number}")
            with _quiet():
                if number == 0 and not self._waits():
                    self.study.enqueue_trial(self._encoded_defaults())
                trial = self.study.ask()
                settings = {} if number == 0 else settings_of(self.ranges, trial)
                if number == 0:
                    self._suggest_defaults(trial)
            trial.set_user_attr(OWNER, owner)
            trial.set_user_attr(SETTINGS, settings)
            trial.set_user_attr(NUMBER, number)  # the last: a trial without it does not count
            return trial

    def _encoded_defaults(self) -> dict[str, Any]:
        found = {one.name: one.encoded(self.defaults.get(one.name)) for one in self.ranges}
        return {name: value for name, value in found.items() if value is not None}

    def _suggest_defaults(self, trial: Trial) -> None:
        """Tell Optuna the defaults; one that the model decides, or out of the range, has no place in it."""
        known = self._encoded_defaults()
        for one in self.ranges:
            if one.name in known:
                one.suggested(trial)

    def _waits(self) -> bool:
        """Whether an earlier process put the defaults in the queue, and was killed before it took them."""
        return any(trial.state.name == "WAITING" for trial in self.study.trials)

    def _bury(self) -> None:
        """End the trials of processes that have died: as failed without a reason, which do not count."""
        import optuna

        for trial in self.study.trials:
            if trial.state.name == "RUNNING" and has_died(trial.user_attrs.get(OWNER, "")):
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def _counted(self) -> list[FrozenTrial]:
        return [
            trial for trial in self.study.trials if NUMBER in trial.user_attrs and trial.state.name != "FAIL"
        ]

    def _tell(self, trial: Trial, values: Sequence[float] | None) -> None:
        """End a trial. For TPE one without values, `PRUNED`, is worse than all that have some."""
        import optuna

        with _quiet():
            state = None if values is not None else optuna.trial.TrialState.PRUNED
            self.study.tell(trial, values, state=state)

    def _as_tried(self, trial: FrozenTrial) -> Tried:
        kept = trial.user_attrs
        values = trial.values if trial.values is not None else ()
        return Tried(
            number=kept[NUMBER],
            settings=dict(kept[SETTINGS]),
            losses=dict(zip(self.objectives, values, strict=False)),
            metrics=dict(kept.get(METRICS, {})),
            seconds=kept.get(SECONDS, 0.0),
            reason=kept.get(REASON, ""),
        )


def identity_of(parts: Mapping[str, Any]) -> str:
    """Return the digest of all that makes a search another one."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _dominates(one: Tried, other: Tried) -> bool:
    pairs = [(one.losses[name], other.losses[name]) for name in one.losses]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _study(path: Path, name: str, objectives: int) -> Study:
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage
    except ImportError as error:
        raise ValueError(NEEDS) from error
    with locked(path), _quiet():
        try:
            _end_last_line(path)
            storage = JournalStorage(JournalFileBackend(str(path)))
            return optuna.create_study(
                storage=storage, study_name=name, directions=["minimize"] * objectives, load_if_exists=True
            )
        except OSError as error:
            raise ValueError(
                f"{path}: expected a file of the search that can be written, got one that can't "
                f"({reason_of(error)}). Make it and its folder writable, or move it away"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{path}: expected Optuna's journal of this search, got a damaged file ({error}). Move it "
                "away, to search anew"
            ) from error


def _end_last_line(path: Path) -> None:
    """Remove a last line without an end, which a full disk or a power cut leaves: Optuna would append to it.

    Its trial, if it had not ended, is drawn again.
    """
    from optuna.storages.journal import JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    finally:
        lock.release()


def _sampler(words: str) -> Any:
    """Return a TPE sampler that is seeded by these words."""
    import optuna

    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs each trial, and warns of what is experimental."""
    import warnings

    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
