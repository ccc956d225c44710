"""The summary over seeds as tables: everything as CSV, what a paper shows as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation import METRICS
from evaluation.over_seeds import OverSeeds
from reporter.latex_table import PACKAGES
from reporter.latex_table import latex_table as latex_table_of
from reporter.markdown import prose
from reporter.markdown import table as markdown_table
from reporter.method_names import latex_name, latex_text
from reporter.seeds_summary import COLUMNS, RANKED_BY, Ranked, Task, heading_of, labels_of, seed_order
from reporter.seeds_text import interval, spread

SECONDS = "unlearn_seconds"
ARROWS = {"higher": "↑", "lower": "↓", "": ""}  # everything else: as near as can be to some value
TURNED = {"↑": "↓", "↓": "↑"}
PARTS = ("mean", "sd", "low", "high", "n")
OF_ITSELF = ("rank", "mark", "n", "seeds", "missing_seeds", "not_finished", "repeated_seeds", "seeds_with_a_warning")
LEGEND = (
    "mean ± standard deviation over the seeds (n); avg_gap with the 95 % t-interval of its mean, by which the lines are ranked. "
    "Bold: the smallest. †: a mean inside the best's interval. (n=2): the other seeds have no value, as "
    "where an attack is undecided. 'all 100', '1 x 0, 2 x 100': every seed is at an end of the scale. "
    "↑ ↓: better so; without an arrow: near the ideal model's. UA = 100 - forget_score, RA = retain_score, MIA = mia, TA = test_score or, "
    "where a whole class was forgotten, test_retain_score"
)


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """A run's numbers by the names of the tables: UA, RA, TA and MIA as the literature has them, and its metrics."""
    test = "test_retain_score" if "test_retain_score" in metrics else "test_score"
    names = {"RA": "retain_score", "TA": test, "MIA": "mia"}
    short = {name: metrics[source] for name, source in names.items() if source in metrics}
    forget = {"UA": 100 - metrics["forget_score"]} if "forget_score" in metrics else {}
    own = {name: value for name, value in metrics.items() if name in METRICS or name == SECONDS}
    return forget | short | own


def header_of(name: str) -> str:
    """A column's name with the direction that is good, which the registry of metrics knows."""
    arrow = ARROWS.get(METRICS[COLUMNS.get(name, name)].facts.better, "")
    return f"{name} {TURNED.get(arrow, '') if name == 'UA' else arrow}".strip()


def summary_columns(tasks: Sequence[Task]) -> tuple[dict[str, str], list[str], list[str]]:
    """The CSV's columns with their kinds, the names of the tasks' settings, and those of the metrics."""
    settings = sorted({name for task in tasks for name, _ in task.settings})
    found = {name for task in tasks for ranked in task.ranking for run in ranked.group.runs for name in run.metrics}
    metrics = [*(name for name in (*COLUMNS, RANKED_BY) if name in found), *sorted(found - {*COLUMNS, RANKED_BY})]
    of_metrics = {f"{name}_{part}": "integer" if part == "n" else "number" for name in metrics for part in PARTS}
    first = {"experiment": "text", **{f"task_{name}": "text" for name in settings}, "method": "text", "settings": "text"}
    itself = {name: "integer" if name in ("rank", "n") else "text" for name in OF_ITSELF}
    return first | itself | of_metrics, settings, metrics


def summary_rows(tasks: Sequence[Task]) -> list[list[Any]]:
    """A line for each group: its task, itself, and for every metric mean, sd, ends of the 95 % t-interval and number of seeds."""
    _, settings, metrics = summary_columns(tasks)
    rows = []
    for task in tasks:
        of_task = dict(task.settings)
        for ranked in task.ranking:
            group = ranked.group
            own = " ".join(f"{name}={value}" for name, value in group.own)
            lists = [sorted_text(group.done), *map(", ".join, (group.missing(task.seeds), group.not_done, group.repeated, group.warned))]
            first = [task.experiment, *(of_task.get(name) for name in settings), group.method, own]
            numbers = [cell for name in metrics for cell in numbers_of(group.over(name))]
            rows.append([*first, ranked.rank, ranked.mark, len(group.done), *lists, *numbers])
    return rows


def numbers_of(over: OverSeeds | None) -> tuple[float | int | None, ...]:
    if over is None:
        return None, None, None, None, 0
    low, high = over.interval or (None, None)
    return over.mean, over.sd, low, high, over.n


def sorted_text(seeds: Iterable[str]) -> str:
    return ", ".join(sorted(seeds, key=seed_order))


def table_of(task: Task) -> tuple[list[str], list[list[str]]]:
    """A paper's table as plain cells: rank, method, settings, the four scores, avg_gap and its interval, seconds, n, notes."""
    labels = labels_of(task)
    header = ["rank", "method", "settings", *map(header_of, (*COLUMNS, RANKED_BY)), "95 % interval", "seconds", "n", "notes"]
    return header, [cells_of(ranked, labels[id(ranked.group)], task) for ranked in task.ranking]


def cells_of(ranked: Ranked, label: str, task: Task) -> list[str]:
    group, n = ranked.group, len(ranked.group.done)
    overs = [group.over(name) for name in (*COLUMNS, RANKED_BY, SECONDS)]
    scores = [cell_of(over, n) for over in overs]
    between = interval(overs[-2]) if overs[-2] is not None else ""
    rank = "ideal" if ranked.mark == "reference" else str(ranked.rank or "")
    return [rank, group.method, label, *scores[:-1], between, scores[-1], str(n), notes_of(ranked, task)]


def cell_of(over: OverSeeds | None, n: int) -> str:
    """Mean and standard deviation, and of how many seeds where that is not all of them."""
    if over is None:
        return "none" if n else ""
    return spread(over) + (f" (n={over.n})" if over.n != n else "")


def notes_of(ranked: Ranked, task: Task) -> str:
    """The seeds that are not in the numbers or should be looked at."""
    group = ranked.group
    notes = {
        "no run of seed": group.missing(task.seeds),
        "not finished: seed": group.not_done,
        "latest of several: seed": group.repeated,
        "one of several initial models: seed": group.several_initials,
        "with a warning: seed": group.warned,
    }
    return "; ".join(f"{what} {', '.join(seeds)}" for what, seeds in notes.items() if seeds)


def markdown_of(tasks: Sequence[Task]) -> str:
    """A section for each task; the best in bold, those within its interval with a dagger."""
    parts = []
    for task in tasks:
        header, rows = table_of(task)
        marked = [
            [marked_name(ranked.mark, cell, at) for at, cell in enumerate(row)] for ranked, row in zip(task.ranking, rows, strict=True)
        ]
        parts += [f"## {prose(heading_of(task, tasks))}", markdown_table(header, marked)]
    return "\n\n".join([*parts, prose(LEGEND)]) + "\n"


def marked_name(mark: str, cell: str, column: int) -> str:
    """A cell of Markdown: the method's and avg_gap's show the mark."""
    text = prose(cell, cell=True)
    if column not in (1, 7):
        return text
    return f"**{text}**" if mark == "best" else f"{text} †" if mark == "within" and column == 1 else text


def latex_of(tasks: Sequence[Task]) -> str:
    """A table environment of booktabs for each task; notes below it."""
    return "\n".join([PACKAGES, *(latex_table(task, tasks) for task in tasks)])


def latex_table(task: Task, tasks: Sequence[Task]) -> str:
    header, rows = table_of(task)
    with_settings = any(row[2] for row in rows)
    kept = [at for at in range(1, len(header) - 1) if at != 2 or with_settings]
    lines = []
    for ranked, row in zip(task.ranking, rows, strict=True):
        cells = [latex_cell(ranked, at, row[at]) for at in kept]
        lines += [" & ".join(cells) + r" \\", *([r"\midrule"] if ranked.mark == "reference" else [])]
    notes = [f"{latex_name(row[1])}{latex_text(f', {row[2]}' if row[2] else '')}: {latex_text(row[-1])}." for row in rows if row[-1]]
    columns = "".join("l" if at in (1, 2) else "r" for at in kept)
    caption = ". ".join([latex_text(heading_of(task, tasks)), latex_text(LEGEND)]) + ". " + " ".join(notes)
    return latex_table_of(columns, [([latex_text(header[at]) for at in kept], lines)], caption.strip())


def latex_cell(ranked: Ranked, column: int, cell: str) -> str:
    text = latex_name(cell) if column == 1 else latex_text(cell)
    if column == 1 and ranked.mark == "within":
        return f"{text}$^{{\\dagger}}$"
    return rf"\textbf{{{text}}}" if column in (1, 7) and ranked.mark == "best" else text
