"""The description of a run in MLflow's own page: the verdict, the numbers, and the command, as Markdown."""

from __future__ import annotations

from reporter.html_report import ATTACKS, FIVE, MODELS, ON_TEST, rows_of
from reporter.markdown import table
from reporter.run_facts import RunFacts
from reporter.verdict import Verdict


def run_note(facts: RunFacts, verdict: Verdict) -> str:
    """A few lines for who looks at the run before its artifacts."""
    models = [model for model in MODELS if model in facts.evidence]
    names = [*FIVE, *(ON_TEST if facts.measured.whole else ()), *ATTACKS]
    rows = [[f"`{row.name}`", *row.values, row.better] for row in rows_of(facts, names, models)]
    numbers = table(["metric", *models, "good"], rows) if rows else ""
    said = [f"**{verdict.headline}**", facts.asked, f"`{facts.method}`: {facts.about}", numbers, f"```\n{facts.command}\n```"]
    return "\n\n".join(part for part in [*said, "The whole report: `report.html` among the artifacts."] if part)
