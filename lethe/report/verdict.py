"""The verdict on a run: claims in words, each with its evidence. docs/reports.md has the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lethe.evaluation.impl import Missing, is_undecided, reasons_of
from lethe.evaluation.over_images import auc_interval, exact_interval
from lethe.report.run_warning import RunWarning

Mark = Literal["good", "bad", "open"]
Numbers = Mapping[str, float]
RELEARNED_SOON = 0.5  # relearning in under half of the ideal model's steps


@dataclass(frozen=True)
class Finding:
    """One claim: whether it speaks for the unlearned model, against it, or leaves a question open; and why.

    command: what would answer the open question. telling: False for a test on which the initial model, which
    saw everything, does as the ideal model does. That the unlearned model does so too is no evidence.
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
    """The numbers of a run that its verdict is made from.

    what: the forget set in words ("class 0", "130 images"). whole: whether it is made of whole classes.
    models: metrics by model (initial, unlearned, and ideal if there is one) and by name, in their units.
    images: the size of forget, retain and test, and for whole classes of test_forget and test_retain.
    warnings: of the run. undecided: why the attack on the confidence has no value, by model. commands: the
    command that measures everything ("all"), runs several seeds ("seeds"), makes the ideal model ("ideal").
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
        """The command that makes what is missing; empty if unknown."""
        return self.commands.get(need, "")

    def value(self, model: str, metric: str) -> float | None:
        return self.models.get(model, {}).get(metric)


def undecided_models(undefined: Mapping[str, Missing]) -> dict[str, str]:
    """Return why mia is undecided, by model. undefined: why metrics have no value, by logged name."""
    reasons = {model: reasons_of(model, undefined) for model in ("unlearned", "initial", "ideal")}
    return {model: str(own["mia"]) for model, own in reasons.items() if is_undecided("mia", own)}


def verdict(run: Measurements) -> Verdict:
    """Apply the rules: forgetting, utility, attacks, knowledge left inside, and limits of these numbers."""
    warned = [_of_warning(warning) for warning in run.warnings]
    attack, utility, inside = list(_attack(run)), list(_utility(run)), list(_inside(run))
    telling = [finding for finding in attack if finding.telling]
    forgetting = _forgetting(run, telling)

    first, *others = telling or attack
    bad = [finding for finding in (*others, *inside) if finding.mark == "bad"]
    claims = [finding.claim for finding in (*forgetting, *utility, first, *bad)]
    stops = [warning.text for warning in run.warnings if warning.overrides]
    findings = (*warned, *forgetting, *utility, *attack, *inside)
    mark: Mark = "good"
    if any(finding.mark == "bad" for finding in findings):
        mark = "bad"
    elif any(finding.mark == "open" for finding in (*forgetting, first, *others)):
        mark = "open"
    return Verdict(_sentence("; ".join(stops or claims)), mark, (*findings, *_limits(run)))


def _of_warning(warning: RunWarning) -> Finding:
    return Finding("bad" if warning.overrides else "open", warning.text, "The run's own warning.")


# Forgetting


def _forgetting(run: Measurements, attack: Sequence[Finding]) -> list[Finding]:
    """attack: the findings of attacks that are evidence, or that no attack was run."""
    value = run.value("unlearned", "forget_score")
    if value is None:
        claim = f"whether {run.what} is forgotten was not measured"
        return [Finding("open", claim, "forget_score was not asked for.", run.command("all"))]
    return [_whole(run, value, attack) if run.whole else _part(run, value, attack)]


def _whole(run: Measurements, value: float, attack: Sequence[Finding]) -> Finding:
    """Whole classes: the aim is the ideal model's score, nearly always 0."""
    sets = [
        name
        for name in ("forget", "test_forget")
        if run.value("unlearned", f"{name}_score") is not None and run.images.get(name)
    ]
    found = {name: run.models["unlearned"][f"{name}_score"] for name in sets}
    evidence = " and ".join(_right(run, name, "unlearned") for name in sets) + " are predicted right."
    if run.ideal is None or any(f"{name}_score" not in run.ideal for name in sets):
        return _whole_without_ideal(run, value, found, evidence)
    aims = {name: run.ideal[f"{name}_score"] for name in sets}
    uppers = {name: exact_interval(aims[name], run.images[name])[1] for name in sets}
    of_ideal = " and ".join(_right(run, name, "ideal", short=True) for name in sets)
    evidence += f" The ideal model, never shown them: {of_ideal}."
    within = all(found[name] <= uppers[name] for name in sets)
    if within and _never_known(run, uppers) and not _attack_sees_initial(run):
        claim = f"predicts {run.what} as the ideal model does, and so does the initial model"
        why = f"So did the initial model, before anything was forgotten, and {_unseen(run)}"
        return Finding("open", claim, f"{evidence} {why}: these tests can't show forgetting.")
    if all(found[name] <= aims[name] for name in sets):
        if attack and all(finding.mark == "good" for finding in attack):
            claim = f"forgets {run.what} completely, as far as predictions show"
            return Finding("good", claim, f"{evidence} Every attack that is evidence agrees, below.")
        claim = f"predicts {run.what} no more often than the ideal model"
        why = "The attacks tell it from the ideal model, say nothing here, are undecided, or were not run"
        return Finding("open", claim, f"{evidence} {why}: see below.")
    if within:
        limits = " and ".join(f"{upper:.2f} %" for upper in uppers.values())
        why = f"Within its 95 % interval, which ends at {limits}."
        return Finding("good", f"forgets {run.what} nearly completely", f"{evidence} {why}")
    return Finding("bad", _how_far(run, value, max(found.values())), evidence)


def _whole_without_ideal(run: Measurements, value: float, found: Numbers, evidence: str) -> Finding:
    """found: the unlearned model's score by image set, percent."""
    evidence += " Without an ideal model there is nothing to compare this with."
    make = run.command("ideal")
    if any(score > exact_interval(0.0, run.images[name])[1] for name, score in found.items()):
        return Finding("bad", _how_far(run, value, max(found.values())), evidence, make)
    if any(found.values()):
        claim = f"hardly predicts {run.what} any more; whether that is complete is not known"
        why = "The scores are within the 95 % intervals of 0 %."
        return Finding("open", claim, f"{evidence} {why}", make)
    if all(run.value("initial", f"{name}_score") == 0 for name in found):
        claim = f"never predicts {run.what}, nor does the initial model"
        why = (
            "Nor did the initial model predict it, before anything was forgotten: this can't show forgetting."
        )
        return Finding("open", claim, f"{evidence} {why}", make)
    claim = f"no longer predicts {run.what}; whether that is complete is not known"
    return Finding("open", claim, evidence, make)


def _never_known(run: Measurements, uppers: Numbers) -> bool:
    """Whether the initial model too is within the upper ends of the ideal model's intervals, by image set."""
    before = {name: run.value("initial", f"{name}_score") for name in uppers}
    return all(score is not None and score <= uppers[name] for name, score in before.items())


def _how_far(run: Measurements, value: float, worst: float) -> str:
    """value: the forget score; worst: the largest of the forget and the test_forget score, percent."""
    before = run.value("initial", "forget_score")
    if before is not None and value >= exact_interval(before, run.images["forget"])[0]:
        return f"does not forget {run.what}"
    if worst <= 100 / run.classes:
        return f"forgets {run.what} only to the level of chance"
    return f"forgets {run.what} only in part"


def _part(run: Measurements, value: float, attack: Sequence[Finding]) -> Finding:
    """Some images of a class: the ideal model still predicts most of them right, so its score is the aim."""
    what, evidence = run.what, _right(run, "forget", "unlearned") + " are predicted right."
    if run.ideal is None or "forget_score" not in run.ideal:
        why = "A model that never saw them predicts most of them right too"
        evidence = f"{evidence} {why}: without an ideal model this says nothing."
        return Finding("open", f"whether {what} are forgotten is not known", evidence, run.command("ideal"))
    low, high = exact_interval(run.ideal["forget_score"], run.images["forget"])
    of_ideal = _right(run, "forget", "ideal", short=True)
    evidence += f" The ideal model, never shown them: {of_ideal}, 95 % interval {low:.1f} to {high:.1f} %."
    before = run.value("initial", "forget_score")
    alike = f"predicts {what} as the ideal model does"
    if value > high:
        return Finding("bad", f"still knows {what} better than the ideal model", evidence)
    if value < low:
        why = "Being worse than a model that never saw them reveals them as well."
        return Finding("bad", f"is worse on {what} than the ideal model", f"{evidence} {why}")
    if any(finding.mark != "good" for finding in attack):
        why = "An attack tells them apart, or none was run: see below."
        return Finding("open", alike, f"{evidence} {why}")
    if before is not None and low <= before <= high and not _attack_sees_initial(run):
        claim = f"can't be told from the ideal model on {what}, nor can the initial model"
        why = f"But so does the initial model, before anything was forgotten, and {_unseen(run)}"
        return Finding("open", claim, f"{evidence} {why}: these tests are too weak here.")
    if not attack:
        return Finding("open", alike, f"{evidence} No attack that was run is evidence here: see below.")
    claim = f"can't be told from the ideal model on {what}"
    return Finding("good", claim, f"{evidence} An interval, not a proof.")


def _attack_sees_initial(run: Measurements) -> bool:
    return any(finding.mark == "bad" for finding in _attack(run, of="initial"))


def _unseen(run: Measurements) -> str:
    """Return why no attack tells the initial model from the ideal one."""
    measured = any(run.value("initial", name) is not None for name in ("mia", "mia_auc"))
    if measured or "initial" in run.undecided:
        return "no attack that is decided tells that apart"
    return "no attack was run"


def _right(run: Measurements, name: str, model: str, *, short: bool = False) -> str:
    """Return "3 of 128 forgotten training images (2.34 %)"."""
    share, images = run.models[model][f"{name}_score"], run.images[name]
    words = f"{round(share * images / 100):,} of {images:,}"
    if not short:
        words += " test images of it" if name == "test_forget" else " forgotten training images"
    return f"{words} ({share:.2f} %)" if share else words


# Utility


def _utility(run: Measurements) -> Iterator[Finding]:
    """Good is not below the 95 % interval of the ideal model, or without one, of the initial model."""
    details, claims, below = [], [], []
    sets = {"retain": "retain accuracy"}
    if run.whole:
        sets["test_retain"] = "accuracy on test images of the other classes"
    else:
        sets["test"] = "accuracy on test images"
    for name, words in sets.items():
        before, after = run.value("initial", f"{name}_score"), run.value("unlearned", f"{name}_score")
        if before is None or after is None or not run.images.get(name):
            continue
        ideal = run.value("ideal", f"{name}_score")
        low = exact_interval(before if ideal is None else ideal, run.images[name])[0]
        change = f"{words} {_moved(before, after)}"
        claims.append(change)
        if after < low:
            below.append(change + _still_below(before, after, ideal, low))
        beside = "" if ideal is None else f"; ideal {ideal:.2f} %"
        details.append(f"{change}: {before:.2f} to {after:.2f} %{beside}")
    if not claims:
        why = "retain_score was not asked for."
        yield Finding("open", "what it cost was not measured", why, run.command("all"))
        return
    limit = f"the {'ideal' if run.ideal else 'initial'} model's 95 % interval"
    evidence = f"{_sentence('; '.join(details))} {'Below' if below else 'Not below'} {limit}."
    yield Finding("bad" if below else "good", " and ".join(below) or claims[0], evidence)


def _still_below(before: float, after: float, ideal: float | None, low: float) -> str:
    """Name the difference to the ideal model if the initial model was below its interval already."""
    if ideal is None or before >= low:
        return ""
    return f"{' and' if after < before else ' but'} is {ideal - after:.1f} points below the ideal model's"


def _moved(before: float, after: float) -> str:
    points = abs(after - before)
    if after == before:
        return "is what it was"
    amount = f"{points:.1f} points" if points >= 0.05 else "less than 0.1 points"
    return f"{'fell' if after < before else 'rose'} {amount}"


# Attacks


def _attack(run: Measurements, of: str = "unlearned") -> Iterator[Finding]:
    """Good is inside the 95 % interval of the same attack on the ideal model, the initial model outside."""
    share, area = run.value(of, "mia"), run.value(of, "mia_auc")
    undecided = [model for model in (of, "ideal") if model in run.undecided]
    if share is None and area is None and not undecided:
        why = "Neither mia nor mia_auc was measured."
        yield Finding("open", "no attack was run", why, run.command("all"))
    if undecided:
        yield _undecided(run, undecided[0])
    elif share is not None:
        yield _per_example(run, 100 - share)
    if area is not None:
        yield _threshold(run, area)


def _undecided(run: Measurements, model: str) -> Finding:
    """An attack whose answer depends on the images that it was trained on is no evidence."""
    evidence = f"The attack on the confidence of the {model} model: {run.undecided[model]}."
    return Finding("open", "a per-example attack is undecided", evidence, telling=False)


def _per_example(run: Measurements, found: float) -> Finding:
    """found: percent of the forget images that the attack takes for training images."""
    amount, images = _percent(found), run.images["forget"]
    claim = f"a per-example attack {f'still finds {amount}' if found else 'finds none'} of the forget images"
    evidence = f"An attack on the confidence takes {found:.2f} % of the {images:,} forget images"
    evidence += " for training images (100 - mia)."
    other = run.value("ideal", "mia")
    if other is None:
        evidence += " How many of them are false alarms only an ideal model can tell."
        return Finding("open", claim, evidence, run.command("ideal"))
    alarms = 100 - other
    low, high = exact_interval(alarms, images)
    evidence += f" Of the ideal model, which saw none of them: {alarms:.2f} %, "
    evidence += f"95 % interval {low:.1f} to {high:.1f} %."
    if found > high:
        return Finding("bad", f"{claim} ({_percent(alarms)} with the ideal model)", evidence)
    if found < low:
        claim = f"a per-example attack finds fewer of the forget images ({amount}) than with the ideal model"
        return Finding("bad", claim, evidence)
    before = run.value("initial", "mia")
    if before is not None and low <= 100 - before <= high:
        shares = [_percent(100 - before), amount, _percent(alarms)]
        what = "takes {} of the forget images for training images"
        return _no_evidence("a per-example attack", what, shares, evidence)
    if "initial" in run.undecided:  # nothing shows that the attack can tell a model that saw the images
        return _undecided(run, "initial")
    if found:
        claim = f"a per-example attack finds no more than with the ideal model ({amount})"
    return Finding("good", claim, evidence)


def _threshold(run: Measurements, area: float) -> Finding:
    evidence = f"A threshold on the loss, forget images against all test images: AUC {area:.3f}"
    other = run.value("ideal", "mia_auc")
    if other is None:
        evidence += "; 0.5 is chance, and what an ideal model has is not known."
        return Finding("open", f"a loss attack has an AUC of {area:.2f}", evidence)
    low, high = auc_interval(other, run.images["forget"], run.images["test"])
    evidence += f", of the ideal model {other:.3f}, 95 % interval {low:.3f} to {high:.3f}."
    if area > high:
        claim = "a loss attack tells the forget images better than with the ideal model"
        return Finding("bad", f"{claim} (AUC {area:.2f}, not {other:.2f})", evidence)
    if area < low:
        areas = f"AUC {area:.2f}, with the ideal model {other:.2f}"
        claim = f"the forget images have unusually large losses ({areas})"
        evidence += " Losses larger than those of a model that never saw the images reveal them as well."
        return Finding("bad", claim, evidence)
    before = run.value("initial", "mia_auc")
    if before is not None and low <= before <= high:
        numbers = [f"{each:.2f}" for each in (before, area, other)]
        return _no_evidence("a loss attack", "has an AUC of {}", numbers, evidence)
    return Finding("good", f"a loss attack does as it does with the ideal model (AUC {area:.2f})", evidence)


def _no_evidence(test: str, what: str, numbers: Sequence[str], evidence: str) -> Finding:
    """The finding of a test on which the initial model does as the ideal one.

    what: "takes {} of". numbers: the initial's, unlearned's, ideal's.
    """
    before, found, other = numbers
    each = f"the initial, {found} with the unlearned and {other} with the ideal model"
    if before == found == other:
        each = "the initial, the unlearned and the ideal model alike"
    claim = f"{test} says nothing here: it {what.format(before)} with {each}"
    evidence += " Not even the initial model, before anything was forgotten, is told from the ideal one:"
    return Finding("open", claim, f"{evidence} this test is no evidence here.", telling=False)


# Inside


def _inside(run: Measurements) -> Iterator[Finding]:
    """Knowledge left in the features, whatever the predictions are."""
    probe, steps = run.value("unlearned", "probe_score"), run.value("unlearned", "relearn_steps")
    if probe is not None:
        yield _probe(run, probe)
    if steps is not None:
        yield _relearning(run, steps)
    if probe is None and steps is None:
        why = "Predictions may hide what the features keep. Neither a linear probe nor relearning was tried."
        yield Finding("open", "what is left inside was not measured", why, run.command("all"))


def _probe(run: Measurements, found: float) -> Finding:
    amount = _percent(found)
    evidence = f"A linear probe on the features tells {found:.2f} % of held-out forget images"
    other = run.value("ideal", "probe_score")
    if other is None:
        evidence += "; what it finds in an ideal model is not known."
        return Finding("open", f"a probe finds {amount} inside", evidence)
    low, high = exact_interval(other, max(1, run.images["forget"] // 2))  # half is held out
    evidence += f"; in the ideal model {other:.2f} %, 95 % interval {low:.1f} to {high:.1f} %."
    if found > high:
        claim = f"inside it still knows: a probe finds {amount} ({_percent(other)} in the ideal model)"
        return Finding("bad", claim, evidence)
    before = run.value("initial", "probe_score")
    if before is not None and before <= high:
        return _no_evidence("a probe", "finds {}", [_percent(before), amount, _percent(other)], evidence)
    return Finding("good", f"a probe finds no more inside than in the ideal model ({amount})", evidence)


def _relearning(run: Measurements, steps: float) -> Finding:
    other, capped = run.value("ideal", "relearn_steps"), run.value("unlearned", "relearn_censored")
    own = f"{'more than ' if capped else ''}{steps:.0f}"
    evidence = f"It knows the forget set again after {own} steps of training on it"
    if other is None:
        evidence += "; what an ideal model needs is not known."
        return Finding("open", f"relearns in {own} steps", evidence)
    ideal_capped = run.value("ideal", "relearn_censored")
    ideal = f"{'more than ' if ideal_capped else ''}{other:.0f}"
    evidence += f"; the ideal model needs {ideal}."
    if not other:
        evidence += " It knows as much of the forget set without ever having seen it."
        return Finding("open", "relearning says nothing here", evidence)
    if steps < RELEARNED_SOON * other:
        return Finding("bad", f"relearns in {steps:.0f} steps what takes the ideal model {ideal}", evidence)
    if ideal_capped and not capped:
        evidence += " How many more, and so whether half of them, is not known."
        return Finding("open", f"relearns in {own} steps, the ideal model in {ideal}", evidence)
    claim = f"relearns no sooner than half of the ideal model's steps ({own} of {ideal})"
    return Finding("good", claim, evidence)


def _limits(run: Measurements) -> Iterator[Finding]:
    if run.masked:
        why = "They are hidden, not erased: the initial checkpoint has them. The layers before are unchanged."
        yield Finding("open", run.masked, why)
    why = "The intervals are those of the number of images. Another seed may differ by more."
    yield Finding("open", "one run, one seed", why, run.command("seeds"))


def _percent(share: float) -> str:
    """Write a percentage with enough digits that it is not 0 or 100 unless it is."""
    if share in (0, 100) or 1 <= share <= 99:
        return f"{share:.0f} %"
    return f"{share:.1f} %" if 0.05 <= share <= 99.95 else f"{share:.2g} %"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
