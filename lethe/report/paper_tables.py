"""Tables for a paper, in LaTeX: MIMU beside its baselines, and each method's gaps to the ideal model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lethe.commands import started
from lethe.evaluation.gap import mean_gap
from lethe.evaluation.over_seeds import OverSeeds, over_seeds
from lethe.evaluation.units import unit_facts
from lethe.report.comparison import (
    KAPPA,
    KAPPA_COUNT,
    WHOLE_CLASS,
    about,
    by_seed,
    groups_of,
    measured,
    of_base_model,
    request_kind,
    safe,
    seconds_of_ideal,
    slugs_of,
    unlike,
)
from lethe.report.latex_table import PACKAGES, latex_table
from lethe.report.method_names import latex_name, latex_text
from lethe.report.seeds_summary import (
    COLUMNS,
    OF_REQUEST,
    RANKED_BY,
    REFERENCE,
    Group,
    SeedRun,
    Settings,
    Task,
    column_scores,
    differing,
    facts_of,
    label_among,
    labels_of,
    seed_order,
    unit_of,
)
from lethe.report.seeds_tables import SECONDS
from lethe.report.seeds_text import spread

FOUR = ("forget_loss", "forget_score", "retain_loss", "retain_score")  # as MIMU's paper compares
COLUMNS_ABREAST = 4
SCORES = tuple(COLUMNS)
ALWAYS = [name for name in SCORES if "attack" not in facts_of(name).groups]  # an attack may be undecided
NOT_RUN = "--"
PREVIEW = "preview.tex"
MAKE_MIMU = "--unlearn MIMU --topk 50 --kappa 0.1"
MEASURE_ALL = ", with the flags of the runs and --metrics all"
MAKE_IDEAL = ", with the flags of the runs, before they are run again"


def paper_tables(tasks: Sequence[Task]) -> tuple[dict[str, str], list[str]]:
    """Return the files by name, with preview.tex, which shows them all; and messages about missing tables."""
    files: dict[str, str] = {}
    lacking = []
    for task, slug in zip(tasks, slugs_of(tasks), strict=True):
        table = gap_table(task)
        if table is None:
            lacking.append(f"no table of gaps for {task.forgotten}: {lacking_of_ideal(task)}")
        else:
            files[f"gaps_{slug}.tex"] = table
    several = [(same, setting) for same in families_of(tasks) for setting in mimu_settings(same)]
    for (same, setting), slug in zip(
        several, unlike([mimu_slug(same[0], setting) for same, setting in several]), strict=True
    ):
        files[f"mimu_{slug}.tex"] = mimu_tables(same, setting)
    if not any(name.startswith("mimu_") for name in files):
        lacking.append(f"no tables of MIMU: it was not run. Run it: {started('forget')} {MAKE_MIMU}")
    return files | ({PREVIEW: preview(files)} if files else {}), lacking


def mimu_slug(task: Task, setting: Settings) -> str:
    own, chosen = dict(task.settings), dict(setting)
    named = f"K{chosen.get('topk', 'unknown')}_kappa{chosen.get(KAPPA, 'unknown')}"
    return safe("_".join([own.get("dataset", "data"), own.get("arch", "model"), named]))


def preview(files: Iterable[str]) -> str:
    """Return a document with each table on a page of its own."""
    inputs = [rf"\input{{{name}}}\clearpage" for name in files]
    head = [r"\documentclass{article}", r"\usepackage{booktabs, graphicx}", r"\begin{document}"]
    return "\n".join([*head, *inputs, r"\end{document}", ""])


# UA, RA, TA and MIA with the gaps in brackets, as of Fan et al. 2024 (SalUn, arXiv:2310.12508)


def gap_table(task: Task) -> str | None:
    """Return the four scores of each method with their gaps to the ideal model, avg_gap and run time.

        gap = sum over seeds |v_s - i_s| / seeds        i_s: the ideal model beside the run of seed s

    None without an ideal model. The mean of the four gaps is avg_gap for a run that has all four.
    """
    ideals = by_seed(groups_of(task), scores_of_ideal)
    if not ideals:
        return None
    labels = labels_of(task)
    groups = [group for group in groups_of(task) if group.method != REFERENCE and group.done]
    seeds = seeds_of([ideals, *(group.done for group in groups)])
    retrain = []
    for name in SCORES:
        values = [scores[name] for scores in ideals.values() if name in scores]
        retrain.append(ideal_cell(values, len(ideals)))
    retrain += ["0.00", with_n(seconds_of_ideal(task), len(ideals))]
    rows = [row_of("Retrain" + of_fewer(len(ideals), len(seeds)), retrain), r"\midrule"]
    for group in groups:
        name = named(group.method, labels[id(group)]) + of_fewer(len(group.done), len(seeds))
        rows.append(row_of(name, cells_of(group)))
    header = ["Method", *SCORES, r"Avg.\ gap $\downarrow$", r"RTE (s) $\downarrow$"]
    what = "test images of the retained classes" if request_kind(task) == WHOLE_CLASS else "test images"
    caption = (
        f"{latex_text(about(task))}. UA, RA, TA and MIA in percent, mean $\\pm$ standard deviation over "
        f"{seeds_text(seeds)}{fewer_text(rows)}; in brackets the mean absolute gap to the model retrained "
        "with the same seed, of whose four averages, over the same seeds, the average gap is made. UA: 100 "
        f"$-$ accuracy on the forget images, RA: accuracy on the retain images, TA: accuracy on the {what}, "
        "MIA: forget images that an attack on the confidence takes for never seen. RTE: run time, seconds. "
        "Numbers of seeds such as ``1 x 0, 2 x 100'' stand where each is at an end of the "
        f"scale.{several_ideals(task)}"
    )
    return f"{PACKAGES}\n{latex_table('lrrrrrr', [(header, rows)], caption)}"


def scores_of_ideal(run: SeedRun) -> dict[str, float] | None:
    """Return the scores of the ideal model beside a run, percent; None if one but MIA is missing."""
    scores = column_scores(run.metrics, "ideal_")
    return scores if set(ALWAYS) <= scores.keys() else None


def ideal_cell(values: Sequence[float], n: int) -> str:
    return with_n(over_seeds(values, "percent") if values else None, n) + " (0.00)" * bool(values)


def several_ideals(task: Task) -> str:
    """Return a sentence about the seeds with several ideal models; empty if there are none."""
    found: dict[str, set[tuple[float, ...]]] = {}
    for group in groups_of(task):
        for seed, run in group.done.items():
            scores = scores_of_ideal(run)
            if scores is not None:
                found.setdefault(seed, set()).add(tuple(scores.values()))
    several = sorted((seed for seed, scores in found.items() if len(scores) > 1), key=seed_order)
    if not several:
        return ""
    which = "Retrain is the latest, a gap is to the one beside its run"
    return f" Of {seeds_text(several)} there are several retrained models: {which}."


def lacking_of_ideal(task: Task) -> str:
    """Why there are no `ideal_scores`, and what makes them."""
    found = max(
        (
            column_scores(run.metrics, "ideal_")
            for ranked in task.ranking
            for run in ranked.group.done.values()
        ),
        key=len,
        default={},
    )
    if not found:
        return f"no run has an ideal model beside it. Make it: {started('ideal')}{MAKE_IDEAL}"
    missing = ", ".join(name for name in ALWAYS if name not in found)
    return f"its ideal model's {missing} is lacking. Measure it: {started('forget')}{MEASURE_ALL}"


def cells_of(group: Group) -> list[str]:
    """Return the mean of each score with its gap, avg_gap and seconds, with the number of seeds if fewer."""
    n = len(group.done)
    both = [(run.metrics, column_scores(run.metrics, "ideal_")) for run in group.done.values()]
    cells = []
    for name in SCORES:
        pairs = [(own[name], ideal[name]) for own, ideal in both if name in own and name in ideal]
        gap = ""
        if pairs:
            fewer = "" if len(pairs) == n else f", n={len(pairs)}"
            gap = f" ({mean_gap(*zip(*pairs, strict=True)):.2f}{fewer})"
        cells.append(with_n(group.over(name), n) + gap)
    return [*cells, *(with_n(group.over(name), n) for name in (RANKED_BY, SECONDS))]


def with_n(over: OverSeeds | None, n: int, digits: int = 2) -> str:
    """Return a cell: the spread, with the number of seeds if it is not n."""
    return NOT_RUN if over is None else spread(over, digits) + of_fewer(over.n, n)


def of_fewer(own: int, n: int) -> str:
    return "" if own == n else f" (n={own})"


def fewer_text(rows: Iterable[str]) -> str:
    return " (n: of so many of them alone)" if any(re.search(r"[( ]n=\d+\)", row) for row in rows) else ""


def seeds_of(found: Iterable[Iterable[str]]) -> list[str]:
    return sorted({seed for own in found for seed in own}, key=seed_order)


def row_of(name: str, cells: Iterable[str]) -> str:
    return " & ".join([name, *map(latex_text, cells)]) + r" \\"


def seeds_text(seeds: Sequence[str]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {latex_text(', '.join(seeds))}"


# MIMU beside SFT, a random mask of the same size, and the initial model


def families_of(tasks: Sequence[Task]) -> list[list[Task]]:
    """Return the tasks that differ in the forget request alone, together."""
    found: dict[tuple[str, Settings], list[Task]] = {}
    for task in tasks:
        others = tuple(setting for setting in task.settings if setting[0] not in {*OF_REQUEST, "request"})
        found.setdefault((task.experiment, others), []).append(task)
    return list(found.values())


def mimu_settings(tasks: Iterable[Task]) -> list[Settings]:
    """Return the settings of MIMU's finished runs."""
    return sorted(settings_run(tasks, "MIMU"))


def mimu_tables(tasks: Sequence[Task], setting: Settings) -> str:
    """Return four tables, with a column for each request that MIMU was run on with this setting."""
    columns = [task for task in tasks if group_of(task, "MIMU", setting) is not None]
    tables = [four_table(columns, setting, name, mimu_settings(tasks)) for name in FOUR]
    return "\n".join([PACKAGES, *tables])


def four_table(columns: Sequence[Task], setting: Settings, metric: str, others: Sequence[Settings]) -> str:
    blocks = []
    width = min(COLUMNS_ABREAST, len(columns))
    baselines = baselines_of(columns, setting)
    seeds = [seeds_of(group.done for group in shown_groups(task, baselines)) for task in columns]
    for start in range(0, len(columns), COLUMNS_ABREAST):
        abreast = columns[start : start + COLUMNS_ABREAST]
        empty = [""] * (width - len(abreast))
        header = ["", *(latex_text(task.forgotten) for task in abreast), *empty]
        rows = rows_of(abreast, baselines, seeds[start : start + COLUMNS_ABREAST], metric)
        blocks.append((header, [row_of(name, [*cells, *empty]) for name, cells in rows]))
    every = [row for _, rows in blocks for row in rows]
    own = dict(columns[0].settings)
    part, _, what = metric.partition("_")
    model = latex_text(f"{own.get('arch', 'model')} on {own.get('dataset', 'data')}")
    said = [
        f"{what.capitalize()} ({unit_of(metric)}) on {images_text(columns, part)}, {model}; "
        f"{amounts_text(columns, setting, others)}"
    ]
    several = any(len(own) > 1 for own in seeds)
    said += (
        [f"Mean $\\pm$ standard deviation over {shared_seeds(columns, seeds)}{fewer_text(every)}"]
        if several
        else []
    )
    said += [f"{NOT_RUN}: not run"] if any(f" {NOT_RUN} " in row for row in every) else []
    return latex_table("l" + "r" * width, blocks, ". ".join(said) + ".")


def baselines_of(columns: Sequence[Task], setting: Settings) -> list[tuple[str, set[Settings]]]:
    """Return the methods of the rows with their settings: MIMU, SFT on its layer, masks of its size."""
    own = dict(setting)
    layer = ("mask_layer",)
    masks = {it for it in settings_run(columns, "random_mask") if same(it, own, (KAPPA, *layer))}
    tuned = {it for it in settings_run(columns, "SFT") if same(it, own, layer)}
    return [("MIMU", {setting}), ("SFT", tuned), ("random_mask", masks)]


def shown_groups(task: Task, baselines: Sequence[tuple[str, set[Settings]]]) -> list[Group]:
    found = (group_of(task, method, it) for method, settings in baselines for it in settings)
    return [group for group in found if group is not None]


def rows_of(
    abreast: Sequence[Task],
    baselines: Sequence[tuple[str, set[Settings]]],
    seeds: Sequence[Sequence[str]],
    metric: str,
) -> list[tuple[str, list[str]]]:
    """Return each row's name in LaTeX and its cells, one for each task abreast. seeds: of each column."""
    digits = unit_facts(unit_of(metric)).digits

    def cells(overs: Iterable[OverSeeds | None]) -> list[str]:
        return [with_n(over, len(own), digits) for over, own in zip(overs, seeds, strict=True)]

    rows = []
    for method, found in baselines:
        rows += [
            (row_name(method, it, found), cells(over_of(task, method, it, metric) for task in abreast))
            for it in sorted(found)
        ]
        rows += [] if found else [(latex_name(method), [NOT_RUN] * len(abreast))]
    initial = [
        of_base_model(task, "initial", measured(task, metric), shown_groups(task, baselines))
        for task in abreast
    ]
    return [*rows, (latex_name("default"), cells(initial))]


def row_name(method: str, setting: Settings, siblings: Iterable[Settings]) -> str:
    return named(method, label_among(setting, list(siblings)))


def named(method: str, label: str) -> str:
    """Return a method's name and its label in LaTeX."""
    return latex_name(method) + (f" {{\\small {latex_text(label)}}}" if label else "")


def settings_run(tasks: Iterable[Task], method: str) -> set[Settings]:
    groups = [group for task in tasks for group in groups_of(task)]
    return {group.own for group in groups if group.method == method and group.done}


def same(setting: Settings, other: Mapping[str, str], names: Iterable[str]) -> bool:
    return all(dict(setting).get(name) == other.get(name) for name in names)


def group_of(task: Task, method: str, setting: Settings) -> Group | None:
    done = [group for group in groups_of(task) if group.method == method and group.done]
    return next((group for group in done if group.own == setting), None)


def over_of(task: Task, method: str, setting: Settings, name: str) -> OverSeeds | None:
    group = group_of(task, method, setting)
    return None if group is None else group.over(measured(task, name))


def images_text(columns: Sequence[Task], part: str) -> str:
    kinds = {request_kind(task) for task in columns}
    if kinds == {WHOLE_CLASS}:
        return f"the test images of the {'forgotten' if part == 'forget' else 'other'} classes"
    training = f"the {part} images"
    return training if WHOLE_CLASS not in kinds else f"{training} (of whole classes: on their test images)"


def amounts_text(columns: Sequence[Task], setting: Settings, others: Sequence[Settings]) -> str:
    """Return K and kappa, and the other settings of MIMU that differ."""
    own = dict(setting)
    groups = [group for task in columns if (group := group_of(task, "MIMU", setting)) is not None]
    runs = [run.metrics for group in groups for run in group.done.values()]
    masked = sorted({metrics[KAPPA_COUNT] for metrics in runs if KAPPA_COUNT in metrics})
    count = ""
    if masked:
        ends = " to ".join(f"{end:,.0f}" for end in dict.fromkeys((masked[0], masked[-1])))
        count = f" ({ends} weights switched off)"
    names = [name for name in differing(others) if name in own and name not in ("topk", KAPPA)]
    more = "".join(f", {latex_text(f'{name}={own[name]}')}" for name in names)
    topk, kappa = latex_text(own.get("topk", "?")), latex_text(own.get(KAPPA, "?"))
    return f"$K = {topk}$, $\\kappa = {kappa}${count}{more}"


def shared_seeds(columns: Sequence[Task], seeds: Sequence[Sequence[str]]) -> str:
    if all(own == seeds[0] for own in seeds):
        return seeds_text(seeds[0])
    return "; ".join(
        f"{seeds_text(own)} of {latex_text(task.forgotten)}" for task, own in zip(columns, seeds, strict=True)
    )
