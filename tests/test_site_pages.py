"""docs/site_pages.py, the hook that makes pages of the site: links, notebooks, and nothing from elsewhere."""

import base64
import importlib.util
from pathlib import Path

import pytest
import yaml

import lethe

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
site_pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site_pages)


@pytest.mark.parametrize(
    ("name", "link", "on_site"),
    [
        ("README.md", "docs/tutorial.md", "tutorial.md"),
        ("README.md", "docs/methods.md#mimu", "methods.md#mimu"),
        ("README.md", "docs/report.png", "report.png"),
        ("README.md", "CONTRIBUTING.md", "contributing.md"),
        ("README.md", "LICENSE", "LICENSE"),
        ("docs/design.md", "../CONTRIBUTING.md", "contributing.md"),
        ("docs/own_model.md", "notebooks/your_own_model.ipynb", "notebooks/your_own_model.md"),
        ("docs/notebooks/forget_a_class.md", "../results.md", "../results.md"),
        ("docs/notebooks/forget_a_class.md", "../../CONTRIBUTING.md", "../contributing.md"),
    ],
)
def test_links_lead_to_the_same_place_on_the_site(name, link, on_site):
    assert site_pages.site_text(name, f"[text]({link})") == f"[text]({on_site})"


@pytest.mark.parametrize("link", ["https://example.org/a", "#below", "../nowhere.md", "../../outside.md"])
def test_other_links_stay(link):
    assert site_pages.site_text("docs/design.md", f"[text]({link})") == f"[text]({link})"


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel=preconnect href=//fonts.example>",
        '<img alt="a" src="http://example/x.png">',
        "@import 'https://fonts.example/css'",
        "a { background: url(https://example/x.png) }",
    ],
)
def test_what_a_browser_would_load_from_elsewhere_is_found(text):
    assert list(site_pages.loads_of(text))


@pytest.mark.parametrize(
    "text", ['<a href="https://arxiv.org">paper</a>', '<script src="assets/x.js"></script>', "see http://x.y"]
)
def test_links_and_own_files_may_stay(text):
    assert list(site_pages.loads_of(text)) == []


def test_a_notebook_becomes_a_page_with_its_pictures():
    picture = {"data": {"image/png": base64.b64encode(b"png").decode()}}
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "[b](../results.md)"]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": [{"text": ["1\n"]}, picture]},
    ]

    made = site_pages.pages_of_notebook("notebooks/a", {"cells": cells})

    assert made.keys() == {"notebooks/a.md", "notebooks/a_1.png"} and made["notebooks/a_1.png"] == b"png"
    assert "```python\nprint(1)\n```\n\n```text\n1\n```\n\n![" in made["notebooks/a.md"]


@pytest.mark.parametrize(
    ("columns", "hidden"), [(100, []), (120, ["navigation"]), (180, ["navigation", "toc"])]
)
def test_wide_tables_take_the_room_of_the_sidebars(columns, hidden):
    table = f"    name\n    {'-' * 10}  {'-' * (columns - 16)}\n    a long line of words\n"
    assert site_pages.sidebars_in_the_way(table) == hidden


def test_every_page_is_in_the_navigation():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    pages |= {f"notebooks/{path.stem}.md" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    nav = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])

    assert {page for page in pages if f"'{page}'" not in nav} == set()


def test_every_public_name_is_on_the_page_of_the_api():
    text = (ROOT / "docs" / "api.md").read_text()

    assert [
        name for name in lethe.__all__ if f"::: lethe.{name}\n" not in text and f"`{name}`" not in text
    ] == ["__version__"]
