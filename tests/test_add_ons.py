"""Add-ons: what they keep of a step, by hand and by definition; OPT and FocusOPT never climb either
objective.
"""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import METHODS, ForgetData, resolved, unlearn
from lethe.unlearn.add_ons import ADD_ONS, Agreement, Step, add_on_of, kept
from lethe.unlearn.srl import other_labels
from lethe.unlearn.streams import endless
from tests.by_hand import adam, slope
from tests.numbered_images import noise_data


def step(unlearn, retain, beta=0.5, true=None, retain_loss=0.0):
    g_u, g_c = torch.tensor(unlearn, dtype=torch.float64), torch.tensor(retain, dtype=torch.float64)
    true_labels = lambda: [torch.tensor(true, dtype=torch.float64)]  # noqa: E731
    return Step([g_u], [g_c], beta, true_labels, torch.tensor(retain_loss))


def values(gradients):
    return gradients[0].tolist()


def test_without_an_add_on_it_is_the_weighted_sum():
    assert values(step([1.0, -2.0], [4.0, 8.0], beta=0.75).direction) == [0.25 + 3.0, -0.5 + 6.0]


def agreement_by_scipy(pairs, memory, start=None):
    """v after each step, from the formula."""
    moments, new = [0.0, 0.0], 1 - memory if start is None else start
    out = []
    for pair in pairs:
        moments = [memory * m + new * g**2 for m, g in zip(moments, pair, strict=True)]
        new = 1 - memory
        p_u, p_c = (norm.cdf(g / math.sqrt(m + 1e-8)) for m, g in zip(moments, pair, strict=True))
        out.append(p_u * p_c + (1 - p_u) * (1 - p_c))
    return out


MEMORY = {"memory", "memory_start"}
PAIRS = [(0.3, -0.2), (-1.0, -2.0), (0.0, 5.0), (1e-6, 1e-6)]


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("start", [None, 0.0, 0.1, 1.0])
def test_agreement_is_the_chance_of_one_sign(memory, start):
    agreement = Agreement(memory, start)
    found = [agreement(step([u], [c]))[0].item() for u, c in PAIRS]
    assert found == pytest.approx(agreement_by_scipy(PAIRS, memory, start), abs=1e-12)


@pytest.mark.parametrize("name", ["GradMask", "ANDMask", "VarGrad", "GradFocus", "FocusOPT"])
def test_the_public_codes_first_steps_can_be_had(name):
    """V_1 = .1 g_1^2, V_2 = .9 g_2^2 + .1 V_1: it keeps a tenth of the moments, and starts as if it kept
    nine.
    """
    rule = ADD_ONS[name](memory=0.1, memory_start=0.1)
    pairs = [(0.3, -0.4), (0.2, -0.3)]
    moments = [(0.1 * 0.09, 0.1 * 0.16)]
    moments.append((0.9 * 0.04 + 0.1 * moments[0][0], 0.9 * 0.09 + 0.1 * moments[0][1]))
    for pair, of_both in zip(pairs, moments, strict=True):
        p_u, p_c = (norm.cdf(g / math.sqrt(m + 1e-8)) for g, m in zip(pair, of_both, strict=True))
        v = p_u * p_c + (1 - p_u) * (1 - p_c)
        u, c = pair
        weight = {
            "GradMask": v >= 0.3,
            "ANDMask": v >= 0.5,
            "VarGrad": v >= 0.3,
            "GradFocus": v,
            "FocusOPT": 0.0,
        }[name]
        assert values(rule(step([u], [c])))[0] == pytest.approx(weight * (0.5 * u + 0.5 * c))


@pytest.mark.parametrize("name", ["SRL", "NGPlus", "SCRUB"])
def test_every_method_hands_the_memory_and_its_start_to_the_add_on(name):
    def weights(**flags):
        found = unlearn(
            name, tiny_model(), tiny([0, 4, 5]), addon="GradFocus", unlearn_epochs=3, **flags
        ).model
        return torch.cat([p.detach().flatten() for p in found.parameters()])

    assert torch.equal(weights(memory=0.75, memory_start=0.25), weights(memory=0.75))
    assert not torch.equal(weights(memory=0.75, memory_start=4.0), weights(memory=0.75))


def test_agreement_keeps_the_two_moments_apart():
    first, second = Agreement(0.9), Agreement(0.9)
    assert first(step([1.0], [3.0]))[0].item() == pytest.approx(second(step([3.0], [1.0]))[0].item())


def direction_and_v(memory=0.9, start=None):
    u, c = [0.5, -0.5, 0.5, 1e-5], [1.0, 1.0, -1e-4, 1e-5]
    v = [agreement_by_scipy([pair], memory, start)[0] for pair in zip(u, c, strict=True)]
    return u, c, [0.5 * a + 0.5 * b for a, b in zip(u, c, strict=True)], v


@pytest.mark.parametrize(
    ("name", "least", "start"), [("GradMask", 0.3, None), ("ANDMask", 0.5, None), ("VarGrad", 0.3, 1.0)]
)
def test_masks_keep_what_agrees(name, least, start):
    u, c, d, v = direction_and_v(start=start)
    expected = [a * (b >= least) for a, b in zip(d, v, strict=True)]
    assert 0 < sum(b >= least for b in v) < 4
    assert values(ADD_ONS[name]()(step(u, c))) == pytest.approx(expected)


def test_focus_weighs_by_agreement():
    u, c, d, v = direction_and_v()
    assert values(ADD_ONS["GradFocus"]()(step(u, c))) == pytest.approx(
        [a * b for a, b in zip(d, v, strict=True)]
    )


@pytest.mark.parametrize(
    ("quantile", "expected"),
    [(0.0, [1, 1, 1, 1, 1]), (0.5, [0, 1, 0, 1, 1]), (0.9, [0, 0, 0, 0, 1]), (0.6, [0, 0, 0, 1, 1])],
)
def test_salun_keeps_the_largest_gradients_of_true_labels(quantile, expected):
    rule = ADD_ONS["SalUn"](quantile=quantile)
    true = [0.1, -0.3, 0.0, 0.4, -0.9]
    assert values(rule(step([2.0] * 5, [2.0] * 5, true=true))) == [2.0 * e for e in expected]


def feasible(g_u, g_c, d):
    """<d, g_u> >= 0 and <d, g_c> >= 0, up to rounding of the sums."""
    for g in (g_u, g_c):
        inner, size = (d * g).sum().item(), (d * g).abs().sum().item()
        if inner < -1e-12 * size:
            return False
    return True


numbers = st.floats(-1e3, 1e3).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12)


@settings(max_examples=300)
@given(pairs, st.floats(0.01, 0.99))
def test_opt_climbs_neither_objective(entries, beta):
    one = step(*map(list, zip(*entries, strict=True)), beta=beta)
    assert feasible(one.unlearn[0], one.retain[0], ADD_ONS["OPT"]()(one)[0])


@settings(max_examples=300)
@given(pairs, pairs, st.floats(0.01, 0.99), st.floats(0.0, 0.99))
def test_focus_opt_climbs_neither_objective_at_any_step(first, second, beta, memory):
    size = min(len(first), len(second))
    rule = ADD_ONS["FocusOPT"](memory=memory)
    for entries in (first[:size], second[:size]):
        one = step(*map(list, zip(*entries, strict=True)), beta=beta)
        assert feasible(one.unlearn[0], one.retain[0], rule(one)[0])


@settings(max_examples=200)
@given(pairs, st.floats(0.05, 0.95))
def test_opt_drops_no_more_than_it_must(entries, beta):
    """Against a loop that takes the most negative product away until the condition holds."""
    u, c = (torch.tensor(side, dtype=torch.float64) for side in zip(*entries, strict=True))
    left = sorted(range(len(entries)), key=lambda i: (u[i] * c[i]).item())
    alpha = 1 - beta
    while left:
        norms = sum(u[i] ** 2 for i in left) * alpha / beta, sum(c[i] ** 2 for i in left) * beta / alpha
        if min(norms) + sum(u[i] * c[i] for i in left) >= 1e-9 * max(*norms, 1e-9):
            break
        left = left[1:]
    assert kept(u, c, beta).sum() >= len(left)


@pytest.mark.parametrize(
    "entries", [[(1.0, -1.0)], [(1.0, -100.0), (0.1, 0.1)], [(1e-3, -1.0)] * 5, [(3.0, -1.0), (-1.0, 3.0)]]
)
@pytest.mark.parametrize("name", ["OPT", "FocusOPT"])
def test_adversarial_pairs_are_feasible(name, entries):
    one = step(*map(list, zip(*entries, strict=True)), beta=0.95)
    assert not feasible(one.unlearn[0], one.retain[0], one.direction[0])
    assert feasible(one.unlearn[0], one.retain[0], ADD_ONS[name]()(one)[0])


@pytest.mark.parametrize(
    ("g_u", "g_c", "beta", "v", "stay"),
    [
        ([1.0, 2.0], [-1.0, -2.0], 0.5, None, [1, 1]),  # min(5, 5) - 5 = 0: feasible, just
        ([1.0, 2.0], [-1.0, -2.5], 0.5, None, [1, 0]),  # min(5, 7.25) - 6 < 0, then min(1, 1) - 1 = 0
        ([1.0, 2.0, 3.0], [-1.0, -8.5, 1.0], 0.5, None, [1, 0, 1]),  # min(14, 74.25) - 15 < 0
        ([1.0, 1.0], [-2.0, -3.0], 0.5, None, [0, 0]),  # min(2, 13) - 5 < 0, min(1, 4) - 2 < 0
        ([1.0, 1.0], [-2.0, 1.0], 0.8, None, [0, 1]),  # min(2 / 4, 5 * 4) - 1 < 0
        ([-2.0, 1.0], [1.0, 1.0], 0.8, None, [1, 1]),  # the other way round: min(5 / 4, 2 * 4) - 1 > 0
        (
            [1.0, 2.0],
            [-3.0, -2.0],
            0.5,
            [1.0, 0.5],
            [0, 1],
        ),  # min(3, 11) - 5 < 0, then min(2, 2) - 2 = 0; 4 > 3 but for v
    ],
)
def test_the_smallest_products_are_dropped_until_the_step_is_feasible(g_u, g_c, beta, v, stay):
    sides = [torch.tensor(side, dtype=torch.float64) for side in (g_u, g_c)]
    assert kept(*sides, beta, v if v is None else torch.tensor(v, dtype=torch.float64)).tolist() == stay


@pytest.mark.parametrize("g_c", [[1.0, 2.0], [-1.0, -2.0]], ids=["feasible", "just feasible"])
def test_a_feasible_step_is_left_alone_and_not_sorted(g_c, monkeypatch):
    one = step([1.0, 2.0], g_c)
    monkeypatch.setattr(torch.Tensor, "argsort", lambda *_, **__: pytest.fail("it was sorted"))
    assert values(ADD_ONS["OPT"]()(one)) == values(one.direction)
    assert kept(one.unlearn[0], one.retain[0], 0.5).tolist() == [1, 1]


# The methods


def tiny(forget_rows, size=12, classes=3):
    return noise_data(forget_rows, size, classes)


def tiny_model(classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, classes)).double().float()


ONE_STEP = {"unlearn_epochs": 1, "unlearn_lr": 0.01, "batch_size": 100}
FOUR_STEPS = {
    "unlearn_epochs": 2,
    "unlearn_lr": 0.05,
    "batch_size": 3,
}  # on 5 forget images: batches of 3 and 2


def pairs_of_batches(data, name):
    """The batches of FOUR_STEPS, a forget and a retain one each."""
    order, retain = data.generator(name, "forget"), endless(data, data.retain, 3, name, "retain")
    forget = [batch for _ in range(2) for batch in data.forget.batches(3, generator=order)]
    assert [len(y) for _, y in forget] == [3, 2, 3, 2]
    return list(zip(forget, retain, strict=False))


@pytest.mark.parametrize(("name", "sign", "shift"), [("NGPlus", -1, 0), ("SRL", 1, 1)])
def test_four_steps_on_both_gradients_by_hand(name, sign, shift, monkeypatch):
    data, model = tiny([0, 1, 4, 5, 9], size=14), tiny_model()
    monkeypatch.setattr("lethe.unlearn.srl.other_labels", lambda labels, *_: (labels + 1) % 3)
    found = unlearn(name, model, data, **FOUR_STEPS, beta=0.8).model

    def both(x_f, y_f, x_r, y_r):
        return slope(
            lambda m: (
                0.8 * F.cross_entropy(m(x_r), y_r) + sign * 0.2 * F.cross_entropy(m(x_f), (y_f + shift) % 3)
            )
        )

    adam(model, [both(*forget, *retain) for forget, retain in pairs_of_batches(data, name)], 0.05)
    torch.testing.assert_close(list(found.parameters()), list(model.parameters()), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "sign", "shift"), [("NGSalUn", -1, 0), ("SRSalUn", 1, 1)])
def test_one_step_on_the_entries_that_matter_for_the_true_labels_of_the_forget_batch(
    name, sign, shift, monkeypatch
):
    data, model = tiny([0, 4, 5]), tiny_model()
    monkeypatch.setattr("lethe.unlearn.srl.other_labels", lambda labels, *_: (labels + 1) % 3)
    (x_f, y_f), (x_r, y_r) = next(data.forget.batches(100)), next(data.retain.batches(100))
    of_forget, of_retain, learned = (
        slope(lambda m, x=x, y=y: F.cross_entropy(m(x), y))(model)
        for x, y in ((x_f, y_f), (x_r, y_r), (x_f, (y_f + shift) % 3))
    )
    moves = [g.abs() >= g.abs().flatten().sort().values[math.ceil(0.6 * (g.numel() - 1))] for g in of_forget]
    direction = [
        keep * (0.5 * r + sign * 0.5 * f) for keep, r, f in zip(moves, of_retain, learned, strict=True)
    ]
    found = unlearn(name, model, data, **ONE_STEP, beta=0.5, quantile=0.6).model
    assert [p.ne(q).tolist() for p, q in zip(found.parameters(), model.parameters(), strict=True)] == [
        keep.tolist() for keep in moves
    ]
    adam(model, [lambda _: direction], 0.01)
    torch.testing.assert_close(list(found.parameters()), list(model.parameters()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("classes", [2, 3, 100])
def test_wrong_labels_are_wrong_and_every_other_class_is_drawn(classes):
    labels = torch.arange(classes).repeat_interleave(2000 if classes < 100 else 1000)
    drawn = other_labels(labels, classes, torch.Generator().manual_seed(0))
    assert (drawn != labels).all()
    assert drawn.min() == 0
    assert drawn.max() == classes - 1
    assert len(drawn[labels == 0].unique()) == classes - 1


def test_wrong_labels_are_drawn_anew_each_step(monkeypatch):
    drawn = []

    def spy(labels, *given):
        wrong = other_labels(labels, *given)
        drawn.append(((wrong - labels) % 100).tolist())  # the images come in another order each time
        return wrong

    monkeypatch.setattr("lethe.unlearn.srl.other_labels", spy)
    unlearn("SRL", tiny_model(100), tiny([0, 4, 5], classes=100), unlearn_epochs=3, batch_size=100)
    assert len(drawn) == len({tuple(shifts) for shifts in drawn}) == 3


def counting(monkeypatch):
    """How many images of each kind the loop saw, epoch by epoch, without changing what it does."""
    seen = []
    original = F.cross_entropy
    monkeypatch.setattr(
        F,
        "cross_entropy",
        lambda logits, labels, **kw: seen.append(len(labels)) or original(logits, labels, **kw),
    )
    return seen


@pytest.mark.parametrize(
    "forget_rows", [[0], list(range(10))], ids=["forget is shorter", "retain is shorter"]
)
def test_an_epoch_is_a_pass_over_forget_whichever_is_shorter(forget_rows, monkeypatch):
    data = tiny(forget_rows)
    seen = counting(monkeypatch)
    unlearn("NGPlus", tiny_model(), data, unlearn_epochs=2, batch_size=3)
    assert sum(seen[::2]) == 2 * len(forget_rows)
    assert len(seen[1::2]) == len(seen[::2])


JOINT = {
    "NGradMask": ("NGPlus", "GradMask"),
    "VarGrad": ("NGPlus", "VarGrad"),
    "NGradFocus": ("NGPlus", "GradFocus"),
    "NGPlus_OPT": ("NGPlus", "OPT"),
    "NGradFocusOPT": ("NGPlus", "FocusOPT"),
    "NGSalUn": ("NGPlus", "SalUn"),
    "SRGradMask": ("SRL", "GradMask"),
    "SRGradFocus": ("SRL", "GradFocus"),
    "SRL_OPT": ("SRL", "OPT"),
    "SRGradFocusOPT": ("SRL", "FocusOPT"),
    "SRSalUn": ("SRL", "SalUn"),
    "SCRUBGradMask": ("SCRUB", "GradMask"),
    "SCRUBFocus": ("SCRUB", "GradFocus"),
    "SCRUBSalUn": ("SCRUB", "SalUn"),
}


@cache
def weights(name, **flags):
    data, model = tiny([0, 1, 4, 5, 9], size=14), tiny_model()
    unlearned = unlearn(name, model, data, **{**FOUR_STEPS, "unlearn_epochs": 6}, **flags).model
    return nn.utils.parameters_to_vector(unlearned.parameters())


@pytest.mark.parametrize(("name", "method", "addon"), [(name, *pair) for name, pair in JOINT.items()])
def test_a_joint_name_is_its_method_with_the_add_on_and_with_no_other(name, method, addon):
    same = [
        other for other in (None, *ADD_ONS.names) if torch.equal(weights(name), weights(method, addon=other))
    ]
    assert same == [addon]


@pytest.mark.parametrize(
    "name",
    ["NGradMask", "VarGrad", "NGradFocus", "NGPlus_OPT", "NGradFocusOPT", "NGSalUn", "SRGradMask", "SRL_OPT"],
)
def test_a_joint_name_has_the_flags_of_its_method_but_the_add_on(name):
    assert "addon" not in METHODS[name].hyperparameters
    assert {"beta", "unlearn_epochs"} <= METHODS[name].hyperparameters.keys()
    assert all(parameter.help for parameter in METHODS[name].hyperparameters.values())


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("NGradMask", {"quantile", *MEMORY}),
        ("SRGradFocus", MEMORY),
        ("NGPlus_OPT", set()),
        ("SRSalUn", {"quantile"}),
    ],
)
def test_a_joint_name_has_the_flags_of_its_add_on(name, flags):
    own = METHODS[name].hyperparameters.keys()
    assert {"quantile", *MEMORY} & own == flags
    settings = METHODS[name].settings(dict.fromkeys(flags, 0.5))
    assert resolved(name, tiny_model(), tiny([0]), settings) == {}
    unlearn(name, tiny_model(), tiny([0]), **ONE_STEP, **dict.fromkeys(flags, 0.5))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"beta": 1.0}, "--beta: expected a number between 0 and 1, got 1.0"),
        ({"unlearn_lr": 0.0}, "--unlearn_lr: expected a number > 0"),
        ({"unlearn_epochs": 0}, "--unlearn_epochs: expected an integer >= 1"),
        ({"addon": "GradMusk"}, "--addon: unknown add-on 'GradMusk'. Did you mean 'GradMask'"),
        ({"quantile": 0.5}, "--quantile: expected an --addon that has it, got none"),
        ({"addon": "ANDMask", "quantile": 0.5}, "--quantile: expected an --addon that has it, got ANDMask"),
        ({"addon": "OPT", "memory": 0.5}, "--memory: expected an --addon that has it, got OPT"),
        ({"addon": "OPT", "memory_start": 0.5}, "--memory_start: expected an --addon that has it, got OPT"),
        ({"addon": "GradMask", "memory_start": -0.1}, "--memory_start: expected a number >= 0"),
        ({"memory_start": 0.1}, "--memory_start: expected an --addon that has it, got none"),
        ({"addon": "GradMask", "quantile": 1.0}, "--quantile: expected a number from 0 to below 1"),
    ],
)
@pytest.mark.parametrize("method", ["NGPlus", "SRL"])
def test_flags_that_make_no_sense_are_refused(method, flags, message):
    with pytest.raises(ValueError, match=message):
        unlearn(method, tiny_model(), tiny([0]), **flags)


def test_every_add_on_is_found_in_any_case():
    assert all(add_on_of(name.upper(), {}).rule for name in ADD_ONS.names)


def test_a_run_that_diverges_says_so():
    reason = r"NGPlus diverged in epoch \d+: .* Choose a smaller --unlearn_lr"
    with pytest.raises(FloatingPointError, match=reason):
        unlearn("NGPlus", tiny_model(), tiny([0, 1]), unlearn_lr=3e37, unlearn_epochs=9, batch_size=1)


def test_whole_classes_are_forgotten_and_the_others_kept():
    labels = torch.arange(300) % 3
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    x[torch.arange(300), labels] += 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3, 6))
        model.bias.zero_()
    data = ForgetData.of_tensors(x, labels, labels == 1)
    for name in ("NGPlus", "SRL", "VarGrad", "NGPlus_OPT", "SRGradFocusOPT"):
        right = unlearn(name, model, data, unlearn_lr=0.02, beta=0.6).model(x).argmax(1) == labels
        assert right[labels == 1].float().mean() < 0.5 < 0.9 < right[labels != 1].float().mean(), name
