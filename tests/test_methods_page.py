"""docs/methods.md and --list: made from the registry, with all of it."""

import re
from dataclasses import dataclass

import pytest

import mlflow_forget
from lethe.registry import Registry
from lethe.report.markdown import paragraphs_of
from lethe.report.methods_page import COMMAND, PAGE, listing, page, written
from lethe.report.text_table import WIDTH
from lethe.unlearn import METHODS
from lethe.unlearn.add_ons import ADD_ONS

OWN = [entry for entry in METHODS if entry.file is None]
ALONE = [entry for entry in OWN if not entry.facts.add_on]  # without the joint names
TEXT = PAGE.read_text()


@dataclass(frozen=True)
class Facts:
    source: str = ""
    whole_class: bool = False
    needs: tuple[str, ...] = ()
    augments: tuple[str, ...] = ()
    source_augments: str = ""
    add_on: str = ""
    parallel: bool = False


def sample(model, data, *, slope_of_it: float = 0.5, level: int | None = None):
    """Do a|b to some_weights.

        w <- w * a|b

    Prose with <tags>, M * W, *stars*, some_name and `code_here`.

    Flags:
        slope_of_it: a|b
        level: how high

    Departures: the source does c|d * e_f.

    Raises nothing.
    """


@pytest.fixture
def methods():
    """A registry of one method."""
    registry = Registry("method", Facts)
    registry.register("Sample", "other", source="Some_body 2000", whole_class=True, needs=("ideal", "luck"))(
        sample
    )
    return registry


def section_of(name: str, level: str = "###") -> str:
    (found,) = re.findall(
        rf"^{level} {re.escape(name)}\n(.*?)(?=^##|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL
    )
    return found


# docs/methods.md


def test_the_page_is_what_the_registry_says():
    assert written() == TEXT, f"docs/methods.md is stale. Write it anew: {COMMAND}"


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_every_name_and_alias_is_on_the_page(entry):
    assert [name for name in (entry.name, *entry.aliases) if f"`{name}`" not in TEXT] == []


@pytest.mark.parametrize("entry", ALONE, ids=lambda entry: entry.name)
def test_every_flag_of_a_method_stands_in_its_section_with_its_default(entry):
    rows = dict(
        re.findall(
            r"^\| `--(\w+)` \| .*? \| `([^`]*)` \| .*\|$", section_of(f"`{entry.name}`"), flags=re.MULTILINE
        )
    )
    shown = {
        name: "none" if p.default is None else str(p.default) for name, p in entry.hyperparameters.items()
    }
    assert rows == shown


@pytest.mark.parametrize("entry", list(ADD_ONS), ids=lambda entry: entry.name)
def test_every_flag_of_an_add_on_stands_in_its_section_with_its_default(entry):
    rows = dict(
        re.findall(
            r"^\| `--(\w+)` \| .*? \| `([^`]*)` \| .*\|$",
            section_of(f"Add-on `{entry.name}`"),
            flags=re.MULTILINE,
        )
    )
    assert rows == {
        name: "none" if p.default is None else str(p.default) for name, p in entry.hyperparameters.items()
    }
    assert all(p.help for p in entry.hyperparameters.values())


@pytest.mark.parametrize("entry", [*ALONE, *ADD_ONS], ids=lambda entry: entry.name)
def test_every_method_and_add_on_has_a_formula(entry):
    assert any(text.startswith("    ") for text in paragraphs_of(entry.function)[0])


@pytest.mark.parametrize("entry", [*OWN, *ADD_ONS], ids=lambda entry: entry.name)
def test_departures_are_a_paragraph_of_their_own(entry):
    text, _ = paragraphs_of(entry.function)
    assert not [
        paragraph
        for paragraph in text
        if re.search(r"\bDepartures?\b|\b[Tt]he source('s|\b)(?! calls)", paragraph)
    ]


def test_a_joint_name_is_a_row_and_no_section():
    assert "### `NGradMask`" not in TEXT
    assert "| `NGradMask` |  | `NGPlus` | [`GradMask`](#add-on-gradmask) |" in TEXT


def test_every_link_of_the_page_has_its_place():
    slugs = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, flags=re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert [
        link
        for link in links
        if not (link[1:] in slugs if link.startswith("#") else (PAGE.parent / link).is_file())
    ] == []


def test_mimu_links_to_its_own_page():
    assert "(mimu.md)" in section_of("`MIMU`")


def test_every_row_of_a_table_has_the_cells_of_its_header():
    for table in re.findall(r"(?:^\|.*\|\n)+", TEXT, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_a_method_is_written_as_markdown(methods):
    text = page(methods, ADD_ONS)
    assert "```text\nw <- w * a|b\n```" in text
    assert r"Prose with &lt;tags>, M \* W, \*stars\*, `some_name` and `code_here`." in text
    assert r"| `--slope_of_it` | a finite number | `0.5` | a\|b |" in text
    assert r"**Departures.** The source does c|d \* `e_f`." in text
    assert (
        "- Forgets: whole classes only\n- Needs: the ideal model, luck\n- Source: `Some_body` 2000\n" in text
    )
    assert text.count("Flags:") == 0


def test_the_page_says_what_each_method_augments():
    rows = dict(
        re.findall(r"^\| \[`([^`]+)`\]\([^)]*\) \| ([a-z ]+) \| [^|`]* \|$", TEXT, flags=re.MULTILINE)
    )
    assert rows == {e.name: " and ".join(e.facts.augments) or "nothing" for e in ALONE}


# --list


def test_list_prints_every_name_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mlflow_forget.main(["--list"]) == 0
    out = capsys.readouterr().out
    names = [name for entry in (*METHODS, *ADD_ONS) for name in (entry.name, *entry.aliases)]
    assert [name for name in names if not re.search(rf"(?<![\w+-]){re.escape(name)}(?![\w+-])", out)] == []
    assert max(map(len, out.splitlines())) <= WIDTH
    assert list(tmp_path.iterdir()) == []


def test_list_says_what_each_does_whole():
    words = " ".join(listing(OWN, ADD_ONS).split())
    assert [e.name for e in (*ALONE, *ADD_ONS) if " ".join(e.summary.split()) not in words] == []


@pytest.mark.parametrize(
    "flags", [["--unlearn", "no such method"], ["--no_such_flag", "3"], ["--seed", "1", "2"]], ids=" ".join
)
def test_list_looks_at_no_other_flag(flags, capsys):
    assert mlflow_forget.main([*flags, "--list"]) == 0
    assert "logit_attribution" in capsys.readouterr().out


def test_a_line_says_what_a_method_is_limited_to_and_needs(methods):
    assert (
        "Sample  other           Do a|b to some_weights. (whole classes only; needs the ideal model; needs "
        "luck)" in listing(methods, [])
    )


def test_a_joint_name_is_listed_as_its_parts():
    (line,) = [line for line in listing(OWN, ADD_ONS).splitlines() if line.startswith("NGradMask ")]
    assert line.endswith("  NGPlus + GradMask")


def test_the_methods_that_take_add_ons_say_so():
    lines = [line.split() for line in listing(OWN, []).splitlines()]
    assert {line[0] for line in lines if "all" in line[1:3]} == {
        e.name for e in OWN if "addon" in e.hyperparameters
    }
