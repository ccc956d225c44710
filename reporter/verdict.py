"""What the numbers of a run allow to be said of it, in words: each claim with its evidence, and nothing that
was not measured.

The rules stand in docs/reports.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from evaluation.impl import is_undecided, reasons_of
from evaluation.over_images import auc_interval, exact_interval
from reporter.run_warning import RunWarning

Mark = Literal["good", "bad", "open"]
Numbers = Mapping[str, float]
RELEARNED_SOON = 0.5  # relearning in under half of the ideal model's steps


@dataclass(frozen=True)
class Finding:
    """One thing that was found: whether it speaks for the unlearned model, against it, or leaves a question
    open; and why.

    command: what would answer the open question. telling: False for a test that finds the initial model,
    which saw everything, like the
    ideal one, which did not: that the unlearned model is like it too is no evidence.
    """

    mark: Mark
    claim: str
    evidence: str
    command: str = ""
    telling: bool = True


@dataclass(frozen=True)
class Verdict:
    headline: str
    mark: Mark
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Measurements:
    """What a verdict is made from.

    what: the forget set in words ("class 0", "130 images"); whole: whether it is made of whole classes.
    models: metrics by the name of the model (initial, unlearned, and where there is one, ideal) and of the
    metric, in the metrics' units. images: how many there are in forget, retain, test, and where whole classes
    went, test_forget and test_retain. warnings: the run's own. undecided: why the attack on the confidence
    has no value, by the name of the model. commands: the command that measures everything ("all"), runs
    several seeds ("seeds"), makes the ideal model ("ideal").
    """

    what: str
    whole: bool
    classes: int
    models: Mapping[str, Numbers]
    images: Mapping[str, int]
    warnings: Sequence[RunWarning] = ()
    masked: str = ""
    undecided: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)

    @property
    def ideal(self) -> Numbers | None:
        return self.models.get("ideal") or None

    def command(self, need: str) -> str:
        """The command that makes what is missing; empty where none is known."""
        return self.commands.get(need, "")

    def value(self, model: str, metric: str) -> float | None:
        return self.models.get(model, {}).get(metric)


def undecided_models(undefined: Mapping[str, str]) -> dict[str, str]:
    """Why mia is undecided, by model; of a model where it has a value, or was not measured, nothing.
    undefined: by the metric's name.
    """
    reasons = {model: reasons_of(model, undefined) for model in ("unlearned", "initial", "ideal")}
    return {model: own["mia"] for model, own in reasons.items() if is_undecided("mia", own)}


def verdict(run: Measurements) -> Verdict:
    """The rules applied: forgetting, utility, attacks, what is left inside, and what these numbers can't say."""
    overriding = [
        Finding("bad" if own.overrides else "open", own.text, "The run's own warning.")
        for own in run.warnings
    ]
    attack, utility = list(_attack(run)), list(_utility(run))
    telling = [finding for finding in attack if finding.telling]
    heard = telling or attack
    forgetting = _forgetting(run, telling)
    inside = list(_inside(run))
    stops = [warning.text for warning in run.warnings if warning.overrides]
    said = [*forgetting, *utility, *heard[:1], *(f for f in (*heard[1:], *inside) if f.mark == "bad")]
    headline = "; ".join(stops) or "; ".join(finding.claim for finding in said)
    marks = {finding.mark for finding in (*overriding, *forgetting, *utility, *attack, *inside)}
    mark: Mark = (
        "bad" if "bad" in marks else "open" if "open" in {f.mark for f in (*forgetting, *heard)} else "good"
    )
    return Verdict(
        _sentence(headline), mark, (*overriding, *forgetting, *utility, *attack, *inside, *_limits(run))
    )


# Forgetting


def _forgetting(run: Measurements, attack: Sequence[Finding]) -> list[Finding]:
    """attack: what the attacks that can tell find, or that none was run."""
    value = run.value("unlearned", "forget_score")
    if value is None:
        return [
            Finding(
                "open",
                f"whether {run.what} is forgotten was not measured",
                "forget_score was not asked for.",
                run.command("all"),
            )
        ]
    return [_whole(run, value, attack) if run.whole else _part(run, value, attack)]


def _whole(run: Measurements, value: float, attack: Sequence[Finding]) -> Finding:
    """Where whole classes go, the ideal model's score is the aim: nearly always 0."""
    sets = [
        name
        for name in ("forget", "test_forget")
        if run.value("unlearned", f"{name}_score") is not None and run.images.get(name)
    ]
    found = {name: run.models["unlearned"][f"{name}_score"] for name in sets}
    evidence = " and ".join(_right(run, name, "unlearned") for name in sets) + " are predicted right."
    if run.ideal is None or any(f"{name}_score" not in run.ideal for name in sets):
        evidence += " Without an ideal model there is nothing to hold this against."
        if not any(found.values()) and all(run.value("initial", f"{name}_score") == 0 for name in sets):
            told = " Nor did the initial model predict it, before anything was forgotten: this can't show forgetting."
            return Finding(
                "open",
                f"never predicts {run.what}, nor does the initial model",
                evidence + told,
                run.command("ideal"),
            )
        if not any(found.values()):
            return Finding(
                "open",
                f"no longer predicts {run.what}; whether that is complete is not known",
                evidence,
                run.command("ideal"),
            )
        return Finding(*_how_far(run, value, max(found.values())), evidence, run.command("ideal"))
    aims = {name: run.ideal[f"{name}_score"] for name in sets}
    uppers = {name: exact_interval(aims[name], run.images[name])[1] for name in sets}
    evidence += (
        " The ideal model, never shown them: "
        + " and ".join(_right(run, name, "ideal", short=True) for name in sets)
        + "."
    )
    before = [run.value("initial", f"{name}_score") for name in sets]
    never_known = all(
        score is not None and score <= uppers[name] for name, score in zip(sets, before, strict=True)
    )
    if all(found[name] <= uppers[name] for name in sets) and never_known and not _attack_sees_initial(run):
        told = f" So did the initial model, before anything was forgotten, and {_unseen(run)}: these tests can't show forgetting."
        return Finding(
            "open",
            f"predicts {run.what} as the ideal model does, and so does the initial model",
            evidence + told,
        )
    if all(found[name] <= aims[name] for name in sets):
        if attack and all(finding.mark == "good" for finding in attack):
            told = " Every attack that can tell agrees, below."
            return Finding(
                "good", f"forgets {run.what} completely, as far as predictions show", evidence + told
            )
        claim = f"predicts {run.what} no more often than the ideal model"
        told = " The attacks tell it from the ideal model, say nothing here, are undecided, or were not run: see below."
        return Finding("open", claim, evidence + told)
    if all(found[name] <= uppers[name] for name in sets):
        limits = " and ".join(f"{uppers[name]:.2f} %" for name in sets)
        return Finding(
            "good",
            f"forgets {run.what} nearly completely",
            f"{evidence} Within its 95 % interval, which ends at {limits}.",
        )
    return Finding(*_how_far(run, value, max(found.values())), evidence)


def _how_far(run: Measurements, value: float, worst: float) -> tuple[Mark, str]:
    """value: the forget score; worst: the largest of the forget and the test_forget score, percent."""
    before = run.value("initial", "forget_score")
    if before is not None and value >= exact_interval(before, run.images["forget"])[0]:
        return "bad", f"does not forget {run.what}"
    if worst <= 100 / run.classes:
        return "bad", f"forgets {run.what} only to the level of chance"
    return "bad", f"forgets {run.what} only in part"


def _part(run: Measurements, value: float, attack: Sequence[Finding]) -> Finding:
    """Where the class stays, the ideal model still gets most of the forgotten images right: being like it is
    the aim, not 0.
    """
    evidence = _right(run, "forget", "unlearned") + " are predicted right."
    if run.ideal is None or "forget_score" not in run.ideal:
        why = " A model that never saw them predicts most of them right too: without an ideal model this says nothing."
        return Finding(
            "open", f"whether {run.what} are forgotten is not known", evidence + why, run.command("ideal")
        )
    low, high = exact_interval(run.ideal["forget_score"], run.images["forget"])
    evidence += f" The ideal model, never shown them: {_right(run, 'forget', 'ideal', short=True)}, 95 % interval {low:.1f} to {high:.1f} %."
    before = run.value("initial", "forget_score")
    if value > high:
        return Finding("bad", f"still knows {run.what} better than the ideal model", evidence)
    if value < low:
        told = " Being worse than a model that never saw them gives them away as well."
        return Finding("bad", f"is worse on {run.what} than the ideal model", evidence + told)
    if any(finding.mark != "good" for finding in attack):
        told = " An attack tells them apart, or none was run: see below."
        return Finding("open", f"predicts {run.what} as the ideal model does", evidence + told)
    if before is not None and low <= before <= high and not _attack_sees_initial(run):
        told = f" But so does the initial model, before anything was forgotten, and {_unseen(run)}: these tests are too weak here."
        return Finding(
            "open",
            f"can't be told from the ideal model on {run.what}, nor can the initial model",
            evidence + told,
        )
    if not attack:
        told = " No attack that was run is evidence here: see below."
        return Finding("open", f"predicts {run.what} as the ideal model does", evidence + told)
    return Finding(
        "good", f"can't be told from the ideal model on {run.what}", evidence + " An interval, not a proof."
    )


def _attack_sees_initial(run: Measurements) -> bool:
    return any(finding.mark == "bad" for finding in _attack(run, of="initial"))


def _unseen(run: Measurements) -> str:
    """What is said of the initial model where no attack sees it."""
    asked = "initial" in run.undecided or any(
        run.value("initial", name) is not None for name in ("mia", "mia_auc")
    )
    return "no attack that is decided tells that apart" if asked else "no attack was run"


def _right(run: Measurements, name: str, model: str, *, short: bool = False) -> str:
    """ "3 of 128 forgotten training images (2.34 %)"."""
    share, images = run.models[model][f"{name}_score"], run.images[name]
    hits = f"{round(share * images / 100):,} of {images:,}"
    where = "" if short else " test images of it" if name == "test_forget" else " forgotten training images"
    return f"{hits}{where} ({share:.2f} %)" if share else f"{hits}{where}"


# Utility


def _utility(run: Measurements) -> Iterator[Finding]:
    """Not below the 95 % interval of the ideal model, or where there is none, of the initial one."""
    on_test = "test_retain" if run.whole else "test"
    told, claims, below = [], [], []
    for name, words in (
        ("retain", "retain accuracy"),
        (on_test, "accuracy on test images" + (" of the other classes" if run.whole else "")),
    ):
        before, after = run.value("initial", f"{name}_score"), run.value("unlearned", f"{name}_score")
        if before is None or after is None or not run.images.get(name):
            continue
        reference = run.value("ideal", f"{name}_score")
        low = exact_interval(before if reference is None else reference, run.images[name])[0]
        change = f"{words} {_moved(before, after)}"
        claims.append(change)
        if after < low:
            below.append(
                change
                if reference is None or before >= low
                else f"{change}{_still_below(before, after, reference)}"
            )
        beside = "" if reference is None else f"; ideal {reference:.2f} %"
        told.append(f"{change}: {before:.2f} to {after:.2f} %{beside}")
    if not claims:
        yield Finding(
            "open", "what it cost was not measured", "retain_score was not asked for.", run.command("all")
        )
        return
    limit = "the ideal model's 95 % interval" if run.ideal else "the initial model's 95 % interval"
    inside = f"Below {limit}." if below else f"Not below {limit}."
    claim = " and ".join(below) or claims[0]
    yield Finding("bad" if below else "good", claim, f"{_sentence('; '.join(told))} {inside}")


def _still_below(before: float, after: float, ideal: float) -> str:
    """Where the initial model was below the ideal one already, what changed is not what is bad."""
    return f"{' and' if after < before else ' but'} is {ideal - after:.1f} points below the ideal model's"


def _moved(before: float, after: float) -> str:
    points = abs(after - before)
    if after == before:
        return "is what it was"
    amount = f"{points:.1f} points" if points >= 0.05 else "less than 0.1 points"
    return f"{'fell' if after < before else 'rose'} {amount}"


# Attacks


def _attack(run: Measurements, of: str = "unlearned") -> Iterator[Finding]:
    """Inside the 95 % intervals of the same attacks on the ideal model, which saw none of the forget images,
    and the initial model not.
    """
    share, area = run.value(of, "mia"), run.value(of, "mia_auc")
    undecided = [model for model in (of, "ideal") if model in run.undecided]
    if share is None and area is None and not undecided:
        yield Finding(
            "open", "no attack was run", "Neither mia nor mia_auc was measured.", run.command("all")
        )
        return
    by_loss = None if area is None else _threshold(run, area)
    if undecided:
        yield _undecided(run, undecided[0])
    elif share is not None:
        yield _per_example(run, 100 - share)
    if by_loss is not None:
        yield by_loss


def _undecided(run: Measurements, model: str) -> Finding:
    """Where the attack's answer hangs on the images that it was trained on, it is evidence of nothing."""
    evidence = f"The attack on the confidence of the {model} model: {run.undecided[model]}."
    return Finding("open", "a per-example attack is undecided", evidence, telling=False)


def _per_example(run: Measurements, found: float) -> Finding:
    claim = f"a per-example attack {f'still finds {_percent(found)}' if found else 'finds none'} of the forget images"
    evidence = f"An attack on the confidence takes {found:.2f} % of the {run.images['forget']:,} forget images for training images (100 - mia)."
    other = run.value("ideal", "mia")
    if other is None:
        unknown = " How many of them are false alarms only an ideal model can tell."
        return Finding("open", claim, evidence + unknown, run.command("ideal"))
    alarms = 100 - other
    low, high = exact_interval(alarms, run.images["forget"])
    evidence += f" Of the ideal model, which saw none of them: {alarms:.2f} %, 95 % interval {low:.1f} to {high:.1f} %."
    if found > high:
        return Finding("bad", f"{claim} ({_percent(alarms)} with the ideal model)", evidence)
    if found < low:
        return Finding(
            "bad",
            f"a per-example attack finds fewer of the forget images ({_percent(found)}) than with the ideal "
            "model",
            evidence,
        )
    before = run.value("initial", "mia")
    if before is not None and low <= 100 - before <= high:
        shares = [_percent(share) for share in (100 - before, found, alarms)]
        return _says_nothing(
            "a per-example attack", "takes {} of the forget images for training images", shares, evidence
        )
    if "initial" in run.undecided:  # nothing shows that it could have told
        return _undecided(run, "initial")
    return Finding(
        "good",
        f"a per-example attack finds no more than with the ideal model ({_percent(found)})"
        if found
        else claim,
        evidence,
    )


def _threshold(run: Measurements, area: float) -> Finding:
    evidence = f"A threshold on the loss, forget images against all test images: AUC {area:.3f}"
    other = run.value("ideal", "mia_auc")
    if other is None:
        return Finding(
            "open",
            f"a loss attack has an AUC of {area:.2f}",
            evidence + "; 0.5 is chance, and what an ideal model has is not known.",
        )
    low, high = auc_interval(other, run.images["forget"], run.images["test"])
    evidence += f", of the ideal model {other:.3f}, 95 % interval {low:.3f} to {high:.3f}."
    if area > high:
        return Finding(
            "bad",
            f"a loss attack tells the forget images better than with the ideal model (AUC {area:.2f}, not "
            f"{other:.2f})",
            evidence,
        )
    if area < low:
        told = " Losses larger than those of a model that never saw the images give them away as well."
        return Finding(
            "bad",
            f"the forget images have unusually large losses (AUC {area:.2f}, with the ideal model "
            f"{other:.2f})",
            evidence + told,
        )
    before = run.value("initial", "mia_auc")
    if before is not None and low <= before <= high:
        return _says_nothing(
            "a loss attack", "has an AUC of {}", [f"{each:.2f}" for each in (before, area, other)], evidence
        )
    return Finding("good", f"a loss attack does as it does with the ideal model (AUC {area:.2f})", evidence)


def _says_nothing(test: str, what: str, numbers: Sequence[str], evidence: str) -> Finding:
    """Of a test that the initial model passes as the ideal one does. what: "takes {} of"; numbers: the
    initial's, unlearned's, ideal's.
    """
    before, found, other = numbers
    each = f"the initial, {found} with the unlearned and {other} with the ideal model"
    if before == found == other:
        each = "the initial, the unlearned and the ideal model alike"
    told = " Not even the initial model, before anything was forgotten, is told from the ideal one: this test is no evidence here."
    return Finding(
        "open",
        f"{test} says nothing here: it {what.format(before)} with {each}",
        evidence + told,
        telling=False,
    )


# Inside


def _inside(run: Measurements) -> Iterator[Finding]:
    """What the features still hold, whatever the predictions are."""
    probe, steps = run.value("unlearned", "probe_score"), run.value("unlearned", "relearn_steps")
    if probe is not None:
        yield _probe(run, probe)
    if steps is not None:
        yield _relearning(run, steps)
    if probe is None and steps is None:
        why = "Predictions may hide what the features keep. Neither a linear probe nor relearning was tried."
        yield Finding("open", "what is left inside was not measured", why, run.command("all"))


def _probe(run: Measurements, found: float) -> Finding:
    evidence = f"A linear probe on the features tells {found:.2f} % of held-out forget images"
    other = run.value("ideal", "probe_score")
    if other is None:
        return Finding(
            "open",
            f"a probe finds {_percent(found)} inside",
            f"{evidence}; what it finds in an ideal model is not known.",
        )
    held_out = max(1, run.images["forget"] // 2)
    low, high = exact_interval(other, held_out)
    evidence += f"; in the ideal model {other:.2f} %, 95 % interval {low:.1f} to {high:.1f} %."
    if found > high:
        return Finding(
            "bad",
            f"inside it still knows: a probe finds {_percent(found)} ({_percent(other)} in the ideal model)",
            evidence,
        )
    before = run.value("initial", "probe_score")
    if before is not None and before <= high:
        return _says_nothing(
            "a probe", "finds {}", [_percent(share) for share in (before, found, other)], evidence
        )
    return Finding(
        "good", f"a probe finds no more inside than in the ideal model ({_percent(found)})", evidence
    )


def _relearning(run: Measurements, steps: float) -> Finding:
    other, capped = run.value("ideal", "relearn_steps"), run.value("unlearned", "relearn_censored")
    more = "more than " if capped else ""
    evidence = f"It knows the forget set again after {more}{steps:.0f} steps of training on it"
    if other is None:
        return Finding(
            "open",
            f"relearns in {more}{steps:.0f} steps",
            f"{evidence}; what an ideal model needs is not known.",
        )
    ideal_capped = run.value("ideal", "relearn_censored")
    ideal_more = "more than " if ideal_capped else ""
    evidence += f"; the ideal model needs {ideal_more}{other:.0f}."
    if not other:
        return Finding(
            "open",
            "relearning says nothing here",
            evidence + " It knows as much of the forget set without ever having seen it.",
        )
    if steps < RELEARNED_SOON * other:
        return Finding(
            "bad",
            f"relearns in {steps:.0f} steps what takes the ideal model {ideal_more}{other:.0f}",
            evidence,
        )
    if ideal_capped and not capped:
        claim = f"relearns in {steps:.0f} steps, the ideal model in {ideal_more}{other:.0f}"
        return Finding("open", claim, evidence + " How many more, and so whether half of them, is not known.")
    return Finding(
        "good",
        f"relearns no sooner than half of the ideal model's steps ({more}{steps:.0f} of "
        f"{ideal_more}{other:.0f})",
        evidence,
    )


def _limits(run: Measurements) -> Iterator[Finding]:
    if run.masked:
        told = "They are hidden, not erased: who has the initial checkpoint has what was forgotten. The layers before are as they were."
        yield Finding("open", run.masked, told)
    told = "The intervals are those of the number of images. How much another seed would change is another question."
    yield Finding("open", "one run, one seed", told, run.command("seeds"))


def _percent(share: float) -> str:
    return (
        f"{share:.0f} %"
        if share in (0, 100) or 1 <= share <= 99
        else f"{share:.1f} %"
        if 0.05 <= share <= 99.95
        else f"{share:.2g} %"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
