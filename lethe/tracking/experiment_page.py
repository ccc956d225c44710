"""The default view of an experiment in MLflow's page."""

from __future__ import annotations

import json
from collections.abc import Sequence

VIEW = "lethe"
# The end of the page's address. MLflow 3 opens what a browser last chose, at first its pages for GenAI,
# whatever the experiment's kind; older servers leave the second part unread.
SHOWN = f"?viewStateShareKey={VIEW}&workflowType=machine_learning"
WHERE = "there: Model training, at the top left"


def tags_of_new(columns: Sequence[str]) -> dict[str, str]:
    """Return the tags of a new experiment: its kind (models, not prompts), and a view with these metrics."""
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": [*(f"metrics.`{name}`" for name in columns), "tags.`verdict`"],
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(state),
    }


def description_of(experiment_id: str) -> str:
    """Return Markdown with a link to the view."""
    columns = f"[the runs with their numbers](#/experiments/{experiment_id}/runs{SHOWN})"
    return (
        f"Machine unlearning by Lethe: {columns}. Each has a verdict in its description, and `report.html` "
        "among its artifacts."
    )
