"""The description of a run in MLflow's own page: the verdict, the numbers, and the command, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from lethe.evaluation import names_in
from lethe.report.html_report import MODELS, headline, rows_of
from lethe.report.markdown import escaped, prose, table
from lethe.report.run_facts import RunFacts
from lethe.report.text_table import number
from lethe.report.verdict import Verdict

MOST_ROWS = 40


def run_note(facts: RunFacts, verdict: Verdict) -> str:
    """Return the description of a run: its verdict, its main numbers, its command."""
    models = [model for model in MODELS if model in facts.outputs]
    rows = [[f"`{row.name}`", *row.values, row.better] for row in rows_of(facts, headline(facts), models)]
    numbers = [table(["metric", *models, "good"], rows)] if rows else []
    parts = [
        f"**{escaped(verdict.headline)}**",
        escaped(facts.asked),
        f"**{escaped(facts.method)}**: {prose(facts.about)}",
        *numbers,
        f"```\n{facts.command}\n```",
        "The whole report: `report.html` among the artifacts.",
    ]
    return "\n\n".join(parts)


def sweep_note(runs: Mapping[str, Mapping[str, float]], varying: str) -> str:
    """Return the description of several runs' parent: what varies, and the main numbers of the first 40."""
    names = [name for name in names_in("summary") if any(name in metrics for metrics in runs.values())]
    rows = [
        [escaped(run), *(number(metrics.get(name)) for name in names)]
        for run, metrics in list(runs.items())[:MOST_ROWS]
    ]
    more = f"\n\n{len(runs) - MOST_ROWS} more are not shown." if len(runs) > MOST_ROWS else ""
    head = f"**{len(runs)} runs, in which these vary: {escaped(varying)}**"
    return f"{head}\n\n{table(['run', *names], rows)}{more}"
