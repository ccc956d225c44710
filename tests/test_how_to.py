"""The how-to pages: every command and every Python example in them is run, in its order, in one folder."""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from lethe.__main__ import main

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("own_data", "own_model", "deletion_request")
QUICKER = {
    "forget": ("--epochs", "2", "--report", "skip", "--metrics", "forget_score,test_score"),
    "ideal": ("--epochs", "2"),
    "audit ulira": ("--epochs", "2"),
}
BLOCK = re.compile(r'^```(python|sh)(?: title="(.+?)")?\n(.*?)^```$', flags=re.MULTILINE | re.DOTALL)


class Page:
    """What a page's blocks have made so far: the names of its Python examples, and the last run's id."""

    def __init__(self, name: str) -> None:
        self.blocks = BLOCK.findall((DOCS / f"{name}.md").read_text(encoding="utf-8"))
        self.names: dict = {}
        self.run_id = ""

    def run(self) -> None:
        for kind, file, text in self.blocks:
            if file:
                Path(file).write_text(text)
            elif kind == "python":
                exec(compile(text, "example", "exec"), self.names)
            else:
                for line in text.splitlines():
                    self.command(line)

    def command(self, line: str) -> None:
        name, *words = shlex.split(line)
        assert name == "lethe"
        words = [self.run_id if word == "RUN_ID" else word for word in words]
        extra = QUICKER.get(words[0], QUICKER.get(" ".join(words[:2]), ()))
        if "--epochs" not in words:
            words += extra
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as errors,
        ):
            status = main(words)
        assert status == 0, f"{line}: {errors.getvalue()}"
        if words[0] == "forget":
            (self.run_id,) = re.findall(r"^run in \S+ (\w{32})$", out.getvalue(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder, with one store, for all pages."""
    return tmp_path_factory.mktemp("how_to")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:weights.pt:UserWarning")  # as the page says
@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_as_it_stands(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "argv", ["lethe"])
    Page(name).run()
