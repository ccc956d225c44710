"""Take the pictures of docs/ anew, in a Chromium: of the store in a folder where README's commands have run.

    python docs/take_pictures.py FOLDER

The pictures show the first run of MIMU there, and all runs. Look at them before you commit them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from tests.browser import chromium, mlflow_ui, resized, screenshot, shows, wait_for, without_assistant

DOCS = Path(__file__).resolve().parent
WIDTH = 1400
TRAINING = "?workflowType=machine_learning"  # MLflow's pages for models, and not those for GenAI
WIDTH_OF_PAGE, HEIGHT_OF_PAGE = 960, 1500  # of a report without MLflow around it


def main() -> None:
    """Take the three pictures."""
    from mlflow import MlflowClient

    folder = Path(sys.argv[1]).resolve()
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    runs = client.search_runs(
        [experiment.experiment_id], "params.unlearn = 'MIMU'", order_by=["attributes.start_time"]
    )
    run = runs[0].info
    number = experiment.experiment_id
    (view,) = re.findall(rf"\(#/experiments/{number}/(.*?)\)", experiment.tags["mlflow.note.content"])
    (page,) = folder.glob(f"mlruns/*/{run.run_id}/artifacts/report.html")

    with chromium() as browser, mlflow_ui(folder) as address:
        shown = f"{address}/#/experiments/{number}"
        without_assistant(browser, address)
        resized(browser, WIDTH, 700)
        browser.get(f"{shown}/{view}")
        shows(browser, str(run.run_name), "avg_gap", "forget_loss")
        take(browser, "mlflow_runs.png")
        resized(browser, WIDTH, 900)
        browser.get(f"{shown}/runs/{run.run_id}/artifacts/report.html{TRAINING}")
        frame = wait_for(lambda: browser.find_elements("css selector", "iframe"), "the report's frame")[0]
        browser.switch_to.frame(frame)
        shows(browser, "Unlearning report", "Findings")
        browser.switch_to.default_content()
        take(browser, "mlflow_report.png")
        resized(browser, WIDTH_OF_PAGE)
        browser.get(page.as_uri())
        take(browser, "report.png", HEIGHT_OF_PAGE)


def take(browser: Any, name: str, height: int | None = None) -> None:
    """Write a picture of the window, or of so much of the page, in few colours."""
    path = DOCS / name
    screenshot(browser, path, height)
    with Image.open(path) as shot:
        picture = shot.convert("RGB").quantize(256)
    picture.save(path, optimize=True)
    print(f"wrote {path.name}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
