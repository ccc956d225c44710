"""docs/notebooks: run from the first cell to the last, they print what is stored in them.

LETHE_NOTEBOOKS=docs python -m pytest tests/test_notebooks.py stores the outputs anew.
"""

import json
import os
from pathlib import Path

import pytest

from tests.printed_numbers import alike

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SCORES = 6.0  # by how many points a score of some dozens of images may differ on another processor


def executed(path: Path, folder: Path) -> dict:
    """The notebook after all its cells have run, in a kernel that imports the checkout's Lethe."""
    nbclient = pytest.importorskip("nbclient", reason="requirements-dev.txt has nbclient and ipykernel")
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    places = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, record_timing=False, resources=places).execute()
    return json.loads(nbformat.writes(notebook))


def outputs_of(notebook: dict) -> list[tuple[str, list[str]]]:
    """Each output of each cell: its kind, and its lines where it is text."""
    return [
        (output["output_type"], "".join(output.get("text", ())).splitlines())
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if output.get("name") != "stderr"  # a progress bar, on a slow machine
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_stored_in_it(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    stored, again = json.loads(path.read_text(encoding="utf-8")), executed(path, tmp_path)
    if os.environ.get("LETHE_NOTEBOOKS") == "docs":
        path.write_text(
            json.dumps(again, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
        )
        return

    expected, found = outputs_of(stored), outputs_of(again)

    assert [kind for kind, _ in found] == [kind for kind, _ in expected]
    for (_, shown), (_, lines) in zip(expected, found, strict=True):
        assert all(alike(*pair, at_most=SCORES) for pair in zip(shown, lines, strict=True)), lines


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_and_has_its_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]

    assert not any("from lethe" in "".join(cell["source"]) for cell in code)
    assert all(cell["execution_count"] for cell in code)
    assert sum(output["output_type"] == "display_data" for cell in code for output in cell["outputs"]) >= 2
