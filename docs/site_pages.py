"""Pages of the site that are made when it is built, as a hook of mkdocs: README and its like, the notebooks.

Also refuses a built site that loads anything from another server.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Files outside docs/ that are pages of the site, and files that are only linked to.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
LINKED = ("LICENSE", "CITATION.cff")
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
# The lines below the headings of printed tables; how many characters fit between both sidebars, beside one.
RULE = re.compile(r" {4}[- ]*---[- ]*$")
BETWEEN_BOTH, BESIDE_ONE = 112, 146
# What a browser loads by itself: an attribute of a tag other than <a>, and url() and @import of a style.
LOADED = (
    re.compile(
        r"<(?!a\b)\w+\b[^>]*?\s(?:src|href|srcset|data|poster)=[\"']?(?:https?:)?//[^>]*>", re.IGNORECASE
    ),
    re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"';]*", re.IGNORECASE),
)


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages and their pictures to the site."""
    from mkdocs.structure.files import File

    made = {page: site_text(name, (ROOT / name).read_text(encoding="utf-8")) for name, page in PAGES.items()}
    made["index.md"] = "---\nhide: [navigation]\n---\n" + made["index.md"]
    made |= {name: (ROOT / name).read_bytes() for name in LINKED}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        made |= pages_of_notebook(f"notebooks/{path.stem}", json.loads(path.read_text(encoding="utf-8")))
        files.remove(files.get_file_from_path(f"notebooks/{path.name}"))
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page of docs/ with its links to files outside of docs/ as links to their pages.

    Wide tables take the room of the sidebars.
    """
    page.meta.setdefault("hide", sidebars_in_the_way(markdown))
    if page.file.generated_by is not None:
        return markdown
    return site_text(f"docs/{page.file.src_uri}", markdown)


def sidebars_in_the_way(markdown: str) -> list[str]:
    """Return the sidebars that would cut the widest printed table of a page."""
    widest = max((len(line) for line in markdown.splitlines() if RULE.match(line)), default=0)
    if widest <= BETWEEN_BOTH:
        return []
    return ["navigation"] if widest <= BESIDE_ONE else ["navigation", "toc"]


def on_post_build(config: Any) -> None:
    """Raise Abort if a page of the built site would load something from another server."""
    from mkdocs.exceptions import Abort

    site = Path(config.site_dir)
    texts = [path for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css")]
    found = [f"{path.relative_to(site)}: {load}" for path in texts for load in loads_of(path.read_text())]
    if found:
        raise Abort("expected pages that load nothing from elsewhere, got\n" + "\n".join(found))


def loads_of(text: str) -> Iterator[str]:
    """Yield what a browser would load from another server for this HTML or CSS."""
    for pattern in LOADED:
        for match in pattern.finditer(text):
            yield match[0]


def site_text(name: str, markdown: str) -> str:
    """Return a file of the repository with its links as they are on the site.

    name: the file's place below the repository's root, which its links start from.
    """
    folder = (ROOT / name).parent

    def on_site(match: re.Match[str]) -> str:
        target = _place_of(folder / match[2])
        return match[0] if target is None else match[1] + _from_page(name, target) + match[3]

    return LINK.sub(on_site, markdown)


def _place_of(path: Path) -> str | None:
    """Return where the site has a file of the repository; None for one that it has not."""
    path = path.resolve()
    if not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES or name in LINKED:
        return PAGES.get(name, name)
    if name.startswith("docs/"):
        return name.removeprefix("docs/").replace(".ipynb", ".md")
    return None


def _from_page(name: str, target: str) -> str:
    """Return a place of the site as a link from the page of a file."""
    depth = name.removeprefix("docs/").count("/")
    return "../" * depth + target


def pages_of_notebook(place: str, notebook: Mapping[str, Any]) -> dict[str, str | bytes]:
    """Return a notebook with its stored outputs as a Markdown page, and its pictures as files.

    place: of the page, without its ending.
    """
    parts: list[str] = []
    pictures: dict[str, str | bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(site_text(f"docs/{place}.md", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            picture = output.get("data", {}).get("image/png")
            if picture is None:
                parts.append(f"```text\n{text_of(output).rstrip()}\n```")
                continue
            name = f"{place}_{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode("".join(picture))
            parts.append(f"![What the cell above draws]({Path(name).name})")
    return {f"{place}.md": "\n\n".join(parts) + "\n", **pictures}


def text_of(output: Mapping[str, Any]) -> str:
    """Return what an output of a notebook's cell says as text."""
    text: Iterable[str] = output.get("text") or output.get("data", {}).get("text/plain") or ()
    return "".join(text)
