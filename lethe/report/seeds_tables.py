"""The summary over seeds as tables: everything as CSV, the main columns as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lethe.evaluation import METRICS
from lethe.evaluation.over_seeds import OverSeeds
from lethe.report.latex_table import PACKAGES, latex_table
from lethe.report.markdown import prose
from lethe.report.markdown import table as markdown_table
from lethe.report.method_names import latex_name, latex_text
from lethe.report.seeds_summary import (
    COLUMNS,
    RANKED_BY,
    Ranked,
    Task,
    column_scores,
    facts_of,
    heading_of,
    labels_of,
    seed_order,
)
from lethe.report.seeds_text import interval, spread

if TYPE_CHECKING:
    import pandas as pd

SECONDS = "unlearn_seconds"
ARROWS = {"higher": "↑", "lower": "↓", "": ""}  # everything else: as near as can be to some value
TURNED = {"↑": "↓", "↓": "↑"}
PARTS = ("mean", "sd", "low", "high", "n")
LEGEND = (
    "mean ± standard deviation over the seeds (n); avg_gap with the 95 % t-interval of its mean, by which "
    "the lines are ranked. Bold: the smallest. †: a mean inside the best's interval. (n=2): the other "
    "seeds have no value, as where an attack is undecided. 'all 100', '1 x 0, 2 x 100': every seed is at "
    "an end of the scale. ↑ ↓: better so; without an arrow: near the ideal model's. UA = 100 - "
    "forget_score, RA = retain_score, MIA = mia, TA = test_score or, where a whole class was forgotten, "
    "test_retain_score"
)


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return a run's numbers by the names of the tables: the literature's columns, and its own metrics."""
    own = {name: value for name, value in metrics.items() if name in METRICS or name == SECONDS}
    return column_scores(metrics) | own


def header_of(name: str) -> str:
    """Return a column's name with an arrow: the good direction."""
    facts = facts_of(name)
    arrow = ARROWS.get(facts.better, "")
    return f"{name} {TURNED.get(arrow, '') if facts.complement else arrow}".strip()


def summary_of(tasks: Sequence[Task]) -> pd.DataFrame:
    """Return a line for each group: its task, its settings, and each metric's statistics (PARTS)."""
    import pandas as pd

    settings = sorted({name for task in tasks for name, _ in task.settings})
    runs = [run for task in tasks for ranked in task.ranking for run in ranked.group.runs]
    found = {name for run in runs for name in run.metrics}
    first = [name for name in (*COLUMNS, RANKED_BY) if name in found]
    metrics = [*first, *sorted(found.difference(first))]
    lines = [summary_line(task, ranked, settings, metrics) for task in tasks for ranked in task.ranking]
    return pd.DataFrame(lines, dtype=object)


def summary_line(
    task: Task, ranked: Ranked, settings: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    group, of_task = ranked.group, dict(task.settings)
    line: dict[str, Any] = {
        "experiment": task.experiment,
        **{f"task_{name}": of_task.get(name) for name in settings},
        "method": group.method,
        "settings": " ".join(f"{name}={value}" for name, value in group.own),
        "rank": ranked.rank,
        "mark": ranked.mark,
        "n": len(group.done),
        "seeds": ", ".join(sorted(group.done, key=seed_order)),
        "missing_seeds": ", ".join(group.missing(task.seeds)),
        "not_finished": ", ".join(group.not_done),
        "repeated_seeds": ", ".join(group.repeated),
        "seeds_with_a_warning": ", ".join(group.warned),
    }
    for name in metrics:
        numbers = numbers_of(group.over(name))
        line |= {f"{name}_{part}": value for part, value in zip(PARTS, numbers, strict=True)}
    return line


def numbers_of(over: OverSeeds | None) -> tuple[float | int | None, ...]:
    if over is None:
        return None, None, None, None, 0
    return over.mean, over.sd, *(over.interval or (None, None)), over.n


def table_of(task: Task) -> pd.DataFrame:
    """Return a paper's table as plain cells: rank, method, settings, scores, avg_gap, seconds, n, notes."""
    import pandas as pd

    labels = labels_of(task)
    return pd.DataFrame([cells_of(ranked, labels[id(ranked.group)], task) for ranked in task.ranking])


def cells_of(ranked: Ranked, label: str, task: Task) -> dict[str, str]:
    group, n = ranked.group, len(ranked.group.done)
    return {
        "rank": "ideal" if ranked.mark == "reference" else str(ranked.rank or ""),
        "method": group.method,
        "settings": label,
        **{header_of(name): cell_of(group.over(name), n) for name in (*COLUMNS, RANKED_BY)},
        "95 % interval": interval(group.gap),
        "seconds": cell_of(group.over(SECONDS), n),
        "n": str(n),
        "notes": notes_of(ranked, task),
    }


def cell_of(over: OverSeeds | None, n: int) -> str:
    """Return mean and standard deviation, with the number of seeds if it is not n."""
    if over is None:
        return "none" if n else ""
    return spread(over) + (f" (n={over.n})" if over.n != n else "")


def notes_of(ranked: Ranked, task: Task) -> str:
    """Return notes about seeds that are missing or need a look."""
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
    """Return a section for each task; the best in bold, methods within its interval with a dagger."""
    parts = []
    for task in tasks:
        table = marked(task, table_of(task).map(lambda cell: prose(cell, cell=True)), "**{}**", "{} †")
        parts += [f"## {prose(heading_of(task, tasks))}", markdown_table(list(table), table.values.tolist())]
    return "\n\n".join([*parts, prose(LEGEND)]) + "\n"


def marked(task: Task, table: pd.DataFrame, best: str, within: str) -> pd.DataFrame:
    """Format the method and avg_gap of the best by `best`, the methods within its interval by `within`."""
    marks = [ranked.mark for ranked in task.ranking]
    formats = {"method": {"best": best, "within": within}, header_of(RANKED_BY): {"best": best}}
    for column, by_mark in formats.items():
        cells = zip(marks, table[column], strict=True)
        table[column] = [by_mark.get(mark, "{}").format(cell) for mark, cell in cells]
    return table


def latex_of(tasks: Sequence[Task]) -> str:
    """Return a table environment of booktabs for each task, with its notes below."""
    return "\n".join([PACKAGES, *(latex_table_of(task, tasks) for task in tasks)])


def latex_table_of(task: Task, tasks: Sequence[Task]) -> str:
    plain = table_of(task)
    names = [latex_name(method) for method in plain["method"]]
    table = marked(task, plain.map(latex_text).assign(method=names), r"\textbf{{{}}}", r"{}$^{{\dagger}}$")
    left_out = ["rank", "notes"] if any(plain["settings"]) else ["rank", "notes", "settings"]
    shown = table.drop(columns=left_out)
    lines = []
    for ranked, cells in zip(task.ranking, shown.values.tolist(), strict=True):
        lines += [" & ".join(cells) + r" \\", *([r"\midrule"] if ranked.mark == "reference" else [])]
    notes = []
    for name, label, note in zip(names, plain["settings"], plain["notes"], strict=True):
        if note:
            settings = latex_text(f", {label}") if label else ""
            notes.append(f"{name}{settings}: {latex_text(note)}.")
    caption = ". ".join([latex_text(heading_of(task, tasks)), latex_text(LEGEND)]) + ". " + " ".join(notes)
    columns = "".join("l" if name in ("method", "settings") else "r" for name in shown)
    return latex_table(columns, [([*map(latex_text, shown)], lines)], caption.strip())
