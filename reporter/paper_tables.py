"""Tables for a paper, in LaTeX: MIMU's four beside its baselines, and every method's UA, RA, TA and MIA with their gaps to retraining."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from evaluation.gap import mean_gap
from evaluation.over_seeds import OverSeeds, over_seeds
from reporter.comparison import (
    KAPPA,
    KAPPA_COUNT,
    WHOLE_CLASS,
    Part,
    label_among,
    measured,
    of_base_model,
    request_kind,
    safe,
    slugs_of,
    unit_of,
    unlike,
)
from reporter.latex_table import PACKAGES, latex_table
from reporter.markdown import capital
from reporter.method_names import latex_name, latex_text
from reporter.seeds_summary import OF_REQUEST, RANKED_BY, REFERENCE, Group, SeedRun, Settings, Task, labels_of, seed_order
from reporter.seeds_tables import SECONDS
from reporter.seeds_text import spread

FOUR: tuple[tuple[Part, str, str], ...] = (
    ("forget", "loss", "nats"),
    ("forget", "score", "percent"),
    ("retain", "loss", "nats"),
    ("retain", "score", "percent"),
)
COLUMNS_ABREAST = 4
IDEAL_SECONDS = "ideal_seconds"
NOT_RUN = "--"
PREVIEW = "preview.tex"
MAKE_MIMU = "python -u mlflow_forget.py --unlearn MIMU --topk 50 --kappa 0.1"
MEASURE_ALL = "python -u mlflow_forget.py, with the flags of the runs and --metrics all"
MAKE_IDEAL = "python -u main_ideal.py, with the flags of the runs, before they are run again"


def paper_tables(tasks: Sequence[Task]) -> tuple[dict[str, str], list[str]]:
    """The files by name, preview.tex among them, which shows them all; and in a line each, what could not be made and how it can."""
    files: dict[str, str] = {}
    lacking = []
    for task, slug in zip(tasks, slugs_of(tasks), strict=True):
        table = gap_table(task)
        if table is None:
            request = dict(task.settings).get("request", "its request")
            lacking.append(f"no table of gaps for {request}: {lacking_of_ideal(task)}")
        else:
            files[f"gaps_{slug}.tex"] = table
    several = [(same, setting) for same in families_of(tasks) for setting in mimu_settings(same)]
    for (same, setting), slug in zip(several, unlike([mimu_slug(same[0], setting) for same, setting in several]), strict=True):
        files[f"mimu_{slug}.tex"] = mimu_tables(same, setting)
    if not any(name.startswith("mimu_") for name in files):
        lacking.append(f"no tables of MIMU: it was not run. Run it: {MAKE_MIMU}")
    return files | ({PREVIEW: preview(files)} if files else {}), lacking


def mimu_slug(task: Task, setting: Settings) -> str:
    own, chosen = dict(task.settings), dict(setting)
    named = f"K{chosen.get('topk', 'unknown')}_kappa{chosen.get(KAPPA, 'unknown')}"
    return safe("_".join([own.get("dataset", "data"), own.get("arch", "model"), named]))


def preview(files: Iterable[str]) -> str:
    """A document with every table, each on a page of its own."""
    inputs = [rf"\input{{{name}}}\clearpage" for name in files]
    head = [r"\documentclass{article}", r"\usepackage{booktabs, graphicx}", r"\begin{document}"]
    return "\n".join([*head, *inputs, r"\end{document}", ""])


# UA, RA, TA and MIA with the gaps in brackets, as of Fan et al. 2024 (SalUn, arXiv:2310.12508)


def gap_table(task: Task) -> str | None:
    """The four scores of each method with their mean absolute gap to the ideal model, avg_gap and run time; None without an ideal model.

        gap = sum over seeds |v_s - i_s| / seeds        i_s: the ideal model of the same seed

    The mean of the four gaps in brackets is avg_gap where a run has all four.
    """
    ideals = ideal_scores(task)
    if not ideals:
        return None
    labels = labels_of(task)
    first = [over_seeds([scores[name] for scores in ideals.values() if name in scores], "percent") for name in ("UA", "RA", "TA", "MIA")]
    retrain = [*(f"{spread(over)} (0.00)" for over in first), "0.00", spread(seconds_of_ideal(task)) or NOT_RUN]
    rows = [row_of("Retrain", retrain), r"\midrule"]
    for ranked in task.ranking:
        if ranked.group.method != REFERENCE and ranked.group.done:
            label = labels[id(ranked.group)]
            name = latex_name(ranked.group.method) + (f" {{\\small {latex_text(label)}}}" if label else "")
            rows.append(row_of(name, cells_of(ranked.group, ideals)))
    header = ["Method", "UA", "RA", "TA", "MIA", r"Avg.\ gap $\downarrow$", r"RTE (s) $\downarrow$"]
    what = "test images of the retained classes" if request_kind(task) == WHOLE_CLASS else "test images"
    caption = (
        f"{latex_text(about(task))}. UA, RA, TA and MIA in percent, mean $\\pm$ standard deviation over {seeds_text(task)}; in brackets "
        "the mean absolute gap to the model retrained with the same seed, of whose four averages the average gap is made. "
        "UA: 100 $-$ accuracy on the forget images, RA: accuracy on the retain images, TA: accuracy on the "
        f"{what}, MIA: forget images that an attack on the confidence takes for never seen. RTE: run time, seconds. Numbers of seeds "
        "such as ``1 x 0, 2 x 100'' stand where each is at an end of the scale."
    )
    return f"{PACKAGES}\n{latex_table('lrrrrrr', [(header, rows)], caption)}"


def ideal_scores(task: Task) -> dict[str, dict[str, float]]:
    """UA, RA, TA and MIA of the ideal model by seed, those that any run of that seed has, in percent."""
    found: dict[str, dict[str, float]] = {}
    for ranked in task.ranking:
        for seed, run in ranked.group.done.items():
            scores = ideal_scores_beside(run)
            if len(scores) == 4:
                found.setdefault(seed, scores)
    return dict(sorted(found.items(), key=lambda it: seed_order(it[0])))


def lacking_of_ideal(task: Task) -> str:
    """Why there are no `ideal_scores`, and what makes them."""
    found = max((ideal_scores_beside(run) for ranked in task.ranking for run in ranked.group.done.values()), key=len, default={})
    if not found:
        return f"no run has an ideal model beside it. Make it: {MAKE_IDEAL}"
    missing = ", ".join(name for name in ("UA", "RA", "TA", "MIA") if name not in found)
    return f"its ideal model's {missing} is lacking. Measure it: {MEASURE_ALL}"


def ideal_scores_beside(run: SeedRun) -> dict[str, float]:
    test = "ideal_test_retain_score" if "test_retain_score" in run.metrics else "ideal_test_score"
    sources = {"UA": "ideal_forget_score", "RA": "ideal_retain_score", "TA": test, "MIA": "ideal_mia"}
    found = {name: run.metrics[source] for name, source in sources.items() if source in run.metrics}
    return found | ({"UA": 100 - found["UA"]} if "UA" in found else {})


def cells_of(group: Group, ideals: Mapping[str, Mapping[str, float]]) -> list[str]:
    cells = []
    for name in ("UA", "RA", "TA", "MIA"):
        own = {seed: run.metrics[name] for seed, run in group.done.items() if name in run.metrics}
        both = [seed for seed in own if seed in ideals]
        gap = f" ({mean_gap([own[seed] for seed in both], [ideals[seed][name] for seed in both]):.2f})" if both else ""
        cells.append((spread(group.over(name, "percent")) or NOT_RUN) + gap)
    others = (group.over(RANKED_BY, "points"), group.over(SECONDS, "seconds"))
    return [*cells, *(spread(over) or NOT_RUN for over in others)]


def seconds_of_ideal(task: Task) -> OverSeeds | None:
    found = {
        seed: run.metrics["ideal_seconds"] for r in task.ranking for seed, run in r.group.done.items() if "ideal_seconds" in run.metrics
    }
    return over_seeds([found[seed] for seed in sorted(found, key=seed_order)], "seconds") if found else None


def row_of(name: str, cells: Iterable[str]) -> str:
    return " & ".join([name, *map(latex_text, cells)]) + r" \\"


def about(task: Task) -> str:
    own = dict(task.settings)
    return f"{capital(request_text(task))} of {own.get('dataset', 'data')} forgotten, {own.get('arch', 'model')}"


def request_text(task: Task) -> str:
    request = dict(task.settings).get("request", "request")
    return f"class {request.removeprefix('class')}" if re.fullmatch(r"class\d+", request) else request


def seeds_text(task: Task) -> str:
    return f"seed{'' if len(task.seeds) == 1 else 's'} {latex_text(', '.join(task.seeds))}"


# MIMU beside SFT, a random mask of the same size, and the initial model


def families_of(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks that differ in the forget request alone, together."""
    found: dict[tuple[str, Settings], list[Task]] = {}
    for task in tasks:
        found.setdefault((task.experiment, tuple(it for it in task.settings if it[0] not in OF_REQUEST | {"request"})), []).append(task)
    return list(found.values())


def mimu_settings(tasks: Iterable[Task]) -> list[Settings]:
    """Every choice of MIMU's settings that was run to the end."""
    return sorted(settings_run(tasks, "MIMU"))


def mimu_tables(tasks: Sequence[Task], setting: Settings) -> str:
    """Four tables, forget and retain images by loss and score; a column for each request that MIMU was run on with this setting."""
    columns = [task for task in tasks if group_of(task, "MIMU", setting) is not None]
    tables = [four_table(columns, setting, part, what, unit, mimu_settings(tasks)) for part, what, unit in FOUR]
    return "\n".join([PACKAGES, *tables])


def four_table(columns: Sequence[Task], setting: Settings, part: Part, what: str, unit: str, others: Sequence[Settings]) -> str:
    blocks, missing = [], False
    width = min(COLUMNS_ABREAST, len(columns))
    for start in range(0, len(columns), COLUMNS_ABREAST):
        abreast = columns[start : start + COLUMNS_ABREAST]
        empty = [""] * (width - len(abreast))
        rows = [(name, [cell_of(over, what) for over in overs]) for name, overs in rows_of(abreast, columns, setting, part, what)]
        missing = missing or any(NOT_RUN in cells for _, cells in rows)
        header = ["", *(latex_text(request_text(task)) for task in abreast), *empty]
        blocks.append((header, [row_of(name, [*cells, *empty]) for name, cells in rows]))
    own = dict(columns[0].settings)
    model = latex_text(f"{own.get('arch', 'model')} on {own.get('dataset', 'data')}")
    said = [f"{what.capitalize()} ({unit}) on {images_text(columns, part)}, {model}; {amounts_text(columns, setting, others)}"]
    several = any(len(task.seeds) > 1 for task in columns)
    said += [f"Mean $\\pm$ standard deviation over {shared_seeds(columns)}"] if several else []
    said += [f"{NOT_RUN}: not run"] if missing else []
    return latex_table("l" + "r" * width, blocks, ". ".join(said) + ".")


def rows_of(
    abreast: Sequence[Task], columns: Sequence[Task], setting: Settings, part: Part, what: str
) -> list[tuple[str, list[OverSeeds | None]]]:
    """A row's name in LaTeX and its numbers, one for each task abreast."""
    own = dict(setting)
    layer = ("mask_layer",)
    masks = {it for it in settings_run(columns, "random_mask") if same(it, own, (KAPPA, *layer))}
    tuned = {it for it in settings_run(columns, "SFT") if same(it, own, layer)}
    rows: list[tuple[str, list[OverSeeds | None]]] = []
    for method, found in (("MIMU", {setting}), ("SFT", tuned), ("random_mask", masks)):
        rows += [(row_name(method, it, found), [over_of(task, method, it, part, what) for task in abreast]) for it in sorted(found)]
        rows += [] if found else [(latex_name(method), [None] * len(abreast))]
    return [*rows, (latex_name("default"), [of_base_model(task, "initial", measured(task, part, what)) for task in abreast])]


def row_name(method: str, setting: Settings, siblings: Iterable[Settings]) -> str:
    several = {(method, it): None for it in siblings}
    label = label_among((method, setting), several).removeprefix(method).strip() if several else ""
    return latex_name(method) + (f" {{\\small {latex_text(label)}}}" if label else "")


def settings_run(tasks: Iterable[Task], method: str) -> set[Settings]:
    return {ranked.group.own for task in tasks for ranked in task.ranking if ranked.group.method == method and ranked.group.done}


def same(setting: Settings, other: Mapping[str, str], names: Iterable[str]) -> bool:
    return all(dict(setting).get(name) == other.get(name) for name in names)


def group_of(task: Task, method: str, setting: Settings) -> Group | None:
    found = (ranked.group for ranked in task.ranking if ranked.group.method == method and ranked.group.own == setting and ranked.group.done)
    return next(found, None)


def over_of(task: Task, method: str, setting: Settings, part: Part, what: str) -> OverSeeds | None:
    group, metric = group_of(task, method, setting), measured(task, part, what)
    return None if group is None else group.over(metric, unit_of(metric))


def cell_of(over: OverSeeds | None, what: str) -> str:
    return spread(over, 3 if what == "loss" else 2) or NOT_RUN


def images_text(columns: Sequence[Task], part: Part) -> str:
    kinds = {request_kind(task) for task in columns}
    if kinds == {WHOLE_CLASS}:
        return f"the test images of the {'forgotten' if part == 'forget' else 'other'} classes"
    training = f"the {part} images"
    return training if WHOLE_CLASS not in kinds else f"{training} (of whole classes: on their test images)"


def amounts_text(columns: Sequence[Task], setting: Settings, others: Sequence[Settings]) -> str:
    """K and kappa, and what else other choices of MIMU's settings differ in."""
    own = dict(setting)
    groups = [group for task in columns if (group := group_of(task, "MIMU", setting)) is not None]
    masked = {run.metrics[KAPPA_COUNT] for group in groups for run in group.done.values() if KAPPA_COUNT in run.metrics}
    count = f" ({min(masked):,.0f}{f' to {max(masked):,.0f}' if len(masked) > 1 else ''} weights switched off)" if masked else ""
    differing = [name for name in own if name not in ("topk", KAPPA) and any(dict(other).get(name) != own[name] for other in others)]
    more = "".join(f", {latex_text(f'{name}={own[name]}')}" for name in differing)
    return f"$K = {latex_text(own.get('topk', '?'))}$, $\\kappa = {latex_text(own.get(KAPPA, '?'))}${count}{more}"


def shared_seeds(columns: Sequence[Task]) -> str:
    return seeds_text(columns[0]) if len({task.seeds for task in columns}) == 1 else "the seeds of each request"
