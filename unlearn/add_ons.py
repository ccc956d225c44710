"""Add-ons: rules that combine the forget and the retain gradient of one step.

An add-on is a function that registers itself here. Where it is chosen by `addon`, its keyword-only parameters
are flags of the method.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from lethe.registry import Registry
from lethe.signature import Help, OneOf, Range, Search

Gradients = list[Tensor]
SOURCE = "Dine, Furon, Faure 2025, arXiv:2511.02435"
EPSILON = 1e-8
RULE = "a rule, a function of (step)"


@dataclass(frozen=True)
class Step:
    """The two gradients of one step, a tensor per parameter, and the retain gradient's weight, 0 < beta < 1.

    `unlearn` (g_u) is the descent gradient of the forget objective, `retain` (g_c) that of the retain
    objective. `of_true_labels` computes the gradient of the forget batch's cross-entropy with its true
    labels, for an add-on registered with `true_labels`. `retain_loss` is the retain objective on the batch, a
    scalar without a gradient.
    """

    unlearn: Gradients
    retain: Gradients
    beta: float
    of_true_labels: Callable[[], Gradients]
    retain_loss: Tensor

    @property
    def direction(self) -> Gradients:
        """d = beta g_c + (1 - beta) g_u, the plain step."""
        pairs = zip(self.unlearn, self.retain, strict=True)
        return [self.beta * g_c + (1 - self.beta) * g_u for g_u, g_c in pairs]


Rule = Callable[[Step], Gradients]


@dataclass(frozen=True)
class AddOnFacts:
    """The facts of an add-on: its source, and whether it uses `Step.of_true_labels`, and the step's beta."""

    source: str = ""
    true_labels: bool = False
    uses_beta: bool = True


ADD_ONS = Registry("add-on", AddOnFacts, takes=(), returns=RULE, plugins="lethe.add_ons")
"""The add-ons by name: rules that combine the forget and the retain gradient of a step."""
register = ADD_ONS.register
"""Decorator: register an add-on, a function of settings alone that returns a rule, a function of `Step`.

    @lethe.register_add_on("Mean")
    def mean() -> Rule:
        return lambda step: [(g_u + g_c) / 2 for g_u, g_c in zip(step.unlearn, step.retain)]

Its keyword-only parameters are flags of the methods that take add-ons. Further keyword arguments are the
fields of `AddOnFacts`. Raises ValueError for a name that is registered already.
"""

# Flags that every method with add-ons once had: config_hash and the params of earlier runs have them as None.
FIRST_FLAGS = frozenset({"quantile", "memory", "memory_start"})
AddOnName = Annotated[str, OneOf(ADD_ONS), Help("rule that combines the two gradients of a step instead")]
Quantile = Annotated[float, Range(0, 1, "[)"), Search("linear", 0, 0.9)]
Memory = Annotated[
    float,
    Range(0, 1, "[)"),
    Search("linear", 0, 0.99),
    Help("share of the second moments that is kept from step to step"),
]
MemoryStart = Annotated[
    float,
    Range(0),
    Search("log", 1e-3, 1),
    Help("second moments at the first step, over the squared gradient; none is 1 - memory"),
]


class AddOn(NamedTuple):
    """A rule for one run, the add-on's name, and whether the rule calls `Step.of_true_labels`."""

    name: str
    rule: Rule
    true_labels: bool

    def direction(self, step: Step) -> Gradients:
        """Return the rule's tensors. Raises ValueError unless they fit the gradients one by one."""
        forms = [_form(g) for g in step.unlearn]
        found: Any = self.rule(step)
        several = isinstance(found, Iterable) and not isinstance(found, Tensor)
        tensors = list(found) if several else [found]
        for expected, got in itertools.zip_longest(forms, map(_form, tensors), fillvalue="nothing"):
            if got != expected:
                raise ValueError(
                    f"{self.name}: expected a rule that returns {len(forms)} tensors, like those of "
                    f"step.direction, got {len(tensors)}, with {got} in place of {expected}. Correct the rule"
                )
        return tensors

    def check_true_labels(self) -> None:
        """Raise ValueError unless the add-on is registered with `true_labels`."""
        if not self.true_labels:
            raise ValueError(
                f"{self.name}: expected an add-on registered with true_labels=True, since its rule calls "
                "step.of_true_labels, got one without. Register it so"
            )


def add_on_of(addon: str | None, flags: Mapping[str, Any]) -> AddOn:
    """Return the add-on of a name with these flags; without a name, the plain step.

    Raises ValueError for an add-on that returns no rule.
    """
    if addon is None:
        return AddOn("none", lambda step: step.direction, true_labels=False)
    entry = ADD_ONS[addon]
    rule = entry(**flags)
    try:
        inspect.signature(rule).bind("step")
    except TypeError as error:
        got = f"a function of {inspect.signature(rule)}" if callable(rule) else type(rule).__name__
        raise ValueError(
            f"{entry.name}: expected an add-on that returns {RULE}, got one that returns {got}. Return a rule"
        ) from error
    except ValueError:  # a builtin has no signature to read; what it returns is checked at the first step
        pass
    return AddOn(entry.name, rule, entry.facts.true_labels)


def _form(value: Any) -> str:
    """Describe a tensor by its shape, type and device, another value by its type."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {value.dtype} on {value.device}"


@register("GradMask", source=SOURCE)
def grad_mask(
    *, quantile: Quantile = 0.3, memory: Memory = 0.9, memory_start: MemoryStart | None = None
) -> Rule:
    """Keep the entries whose two gradients are likely enough to agree in sign.

        d * 1[v >= quantile]        v: the probability that they agree

    Flags:
        quantile: least v of an entry that is kept
    """
    return _masked_by(Agreement(memory, memory_start), quantile)


@register("ANDMask", source=SOURCE)
def and_mask(*, memory: Memory = 0.9, memory_start: MemoryStart | None = None) -> Rule:
    """Keep the entries whose two gradients agree in sign: GradMask at .5.

        d * 1[v >= .5]

    v: see `Agreement`.
    """
    return _masked_by(Agreement(memory, memory_start), 0.5)


@register("VarGrad", source=SOURCE)
def var_grad(*, quantile: Quantile = 0.3, memory: Memory = 0.9, memory_start: MemoryStart = 1.0) -> Rule:
    """Keep entries as GradMask does, with second moments that start at the first squared gradients.

        d * 1[v >= quantile]        V = g^2 at the first step

    Flags:
        quantile: least v of an entry that is kept
    """
    return _masked_by(Agreement(memory, memory_start), quantile)


@register("GradFocus", source=SOURCE)
def grad_focus(*, memory: Memory = 0.9, memory_start: MemoryStart | None = None) -> Rule:
    """Weigh every entry by the probability that its two gradients agree in sign.

        d * v

    v: see `Agreement`.
    """
    agreement = Agreement(memory, memory_start)
    return lambda step: [d * v for d, v in zip(step.direction, agreement(step), strict=True)]


@register("OPT", source=SOURCE)
def opt() -> Rule:
    """Drop the entries with the most opposed gradients, as few per tensor as make the step feasible.

        d * 1[kept]        dropped: the most negative g_u g_c

    Feasible: see `kept`.
    """

    def rule(step: Step) -> Gradients:
        entries = zip(step.direction, step.unlearn, step.retain, strict=True)
        return [d * kept(g_u, g_c, step.beta) for d, g_u, g_c in entries]

    return rule


@register("FocusOPT", source=SOURCE)
def focus_opt(*, memory: Memory = 0.9, memory_start: MemoryStart | None = None) -> Rule:
    """Weigh as GradFocus does, then drop entries as OPT does, until the step is feasible.

        d * v * 1[kept]        dropped: the smallest v g_u g_c

    Feasible: see `kept`.

    Departure: the source tests (v g_u)(v g_c), which guarantees nothing for the gradients themselves.
    """
    agreement = Agreement(memory, memory_start)

    def rule(step: Step) -> Gradients:
        entries = zip(step.direction, agreement(step), step.unlearn, step.retain, strict=True)
        return [d * v * kept(g_u, g_c, step.beta, v) for d, v, g_u, g_c in entries]

    return rule


@register("SalUn", source=SOURCE, true_labels=True)
def saliency(*, quantile: Quantile = 0.3) -> Rule:
    """Keep the entries that are most salient for the forget batch, per tensor, anew for each batch.

        d * 1[|g| >= quantile of |g|]        g: gradient of the forget batch's cross-entropy, true labels

    Flags:
        quantile: share of a tensor's entries that are dropped
    """

    def rule(step: Step) -> Gradients:
        pairs = zip(step.direction, step.of_true_labels(), strict=True)
        return [d * (g.abs() >= _quantile(g.abs(), quantile)) for d, g in pairs]

    return rule


class Agreement:
    """v, the probability that the two gradients agree in sign, entry by entry.

        v = Phi(z_u) Phi(z_c) + (1 - Phi(z_u)) (1 - Phi(z_c))
        z = g / sqrt(V + 1e-8),  V <- memory V + (1 - memory) g^2,  at the first step V = memory_start g^2

    V is kept for each of the two gradients over all steps, without bias correction; Phi is the normal
    distribution's cdf. The default `memory_start` is 1 - memory, as if V was 0 before the first step. Dine et
    al.'s public code keeps .1 of V and starts at .1 g^2: --memory .1 --memory_start .1.
    """

    def __init__(self, memory: float, memory_start: float | None = None) -> None:
        self.memory = memory
        self.memory_start = 1 - memory if memory_start is None else memory_start
        self._moments: dict[str, Gradients] = {}

    def __call__(self, step: Step) -> Gradients:
        pairs = zip(self._chance("unlearn", step.unlearn), self._chance("retain", step.retain), strict=True)
        return [p_u * p_c + (1 - p_u) * (1 - p_c) for p_u, p_c in pairs]

    def _chance(self, which: str, gradients: Gradients) -> Gradients:
        """Return Phi(z) of one of the two gradients, whose V is updated."""
        new = 1 - self.memory
        if which not in self._moments:
            self._moments[which] = [torch.zeros_like(g) for g in gradients]
            new = self.memory_start
        pairs = list(zip(gradients, self._moments[which], strict=True))
        for g, moment in pairs:
            moment.mul_(self.memory).addcmul_(g, g, value=new)
        return [torch.special.ndtr(g / (moment + EPSILON).sqrt()) for g, moment in pairs]


def kept(g_u: Tensor, g_c: Tensor, beta: float, v: Tensor | None = None) -> Tensor:
    """Return 1 for the entries of a tensor that are kept and 0 for those dropped to make the step feasible.

        min(alpha / beta sum v g_u^2, beta / alpha sum v g_c^2) + sum v g_u g_c >= 0

    over the entries kept, alpha = 1 - beta, by default v = 1. Then <v d, g_u> >= 0 and <v d, g_c> >= 0 for d
    = beta g_c + alpha g_u. As few entries as possible are dropped, the smallest products v g_u g_c first.
    This holds for d: the optimiser (momentum, Adam's scaling, weight decay) can break it afterwards.
    """
    a, b = g_u.flatten().double(), g_c.flatten().double()
    weight = torch.ones_like(a) if v is None else v.flatten().double()
    terms = torch.stack([weight * a.square(), weight * b.square(), weight * a * b])
    # On a CPU it pays to look first whether anything is to be dropped: most often nothing, and no sort.
    if a.is_cpu and _slack(terms.sum(1), beta) >= 0:
        return torch.ones_like(g_u)
    order = terms[2].argsort()
    feasible = _slack(_rest_sums(terms[:, order]), beta) >= 0
    # The fewest entries to drop; all N always are feasible. Not an int, for which a GPU would have to wait.
    dropped = feasible.int().argmax()
    stays = torch.empty_like(a)
    stays[order] = (torch.arange(len(a), device=a.device) >= dropped).to(stays)
    return stays.view_as(g_u).to(g_u.dtype)


def _slack(sums: Tensor, beta: float) -> Tensor:
    """Return the left side of `kept`'s inequality, from the sums of v g_u^2, v g_c^2 and v g_u g_c."""
    alpha = 1 - beta
    return torch.minimum(alpha / beta * sums[0], beta / alpha * sums[1]) + sums[2]


def _rest_sums(values: Tensor) -> Tensor:
    """Return each row's sums without its first 0, 1, ..., N values, (rows, N + 1); the last is exactly 0."""
    sums = values.flip(1).cumsum(1).flip(1)
    return torch.cat([sums, values.new_zeros(len(values), 1)], 1)


def _masked_by(agreement: Agreement, least: float) -> Rule:
    return lambda step: [d * (v >= least) for d, v in zip(step.direction, agreement(step), strict=True)]


def _quantile(values: Tensor, share: float) -> Tensor:
    """Return the value above `share` of the entries: torch.quantile's `higher`, for tensors of any size."""
    rank = min(int(-(-share * (values.numel() - 1) // 1)), values.numel() - 1)
    return values.flatten().kthvalue(rank + 1).values
