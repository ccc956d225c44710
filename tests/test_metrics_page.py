"""docs/metrics.md: made from the registry, with all of it."""

import re

import pytest

from lethe.evaluation import METRICS, MetricFacts
from lethe.registry import Registry
from lethe.report.markdown import paragraphs_of
from lethe.report.metrics_page import COMMAND, NEEDS, PAGE, page, written

OWN = [entry for entry in METRICS if entry.file is None]
TEXT = PAGE.read_text()


def section_of(name):
    (found,) = re.findall(rf"^### `{re.escape(name)}`\n(.*?)(?=^##|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    return found


def test_the_page_is_what_the_registry_says():
    assert written() == TEXT, f"docs/metrics.md is stale. Write it anew: {COMMAND}"


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_every_metric_has_a_formula_and_its_facts(entry):
    section = section_of(entry.name)
    assert "```text\n" in section
    assert f"- Unit: {entry.facts.unit}" in section.replace("- Unit: a ", "- Unit: ")
    assert f"- Good: {entry.facts.better}\n" in section
    assert [name for name in (entry.name, *entry.aliases) if f"`{name}`" not in TEXT] == []


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("test_retain_score", "a whole class forgotten"),
        ("avg_gap", "the ideal model"),
        ("rf_js_divergence", "the initial model"),
        ("zrf", "an incompetent teacher"),
    ],
)
def test_a_section_says_what_the_metric_needs(name, needs):
    assert f"- Needs: {needs}\n" in section_of(name)


def test_a_metric_of_the_model_alone_says_so():
    assert "- Needs: the model alone\n" in section_of("forget_score")


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_every_section_has_unit_direction_definition_needs_and_source(entry):
    section = section_of(entry.name)
    facts = re.findall(r"^- (\w+): (.+)$", section, flags=re.MULTILINE)

    assert [name for name, _ in facts if name != "Costly"] == ["Unit", "Good", "Needs", "Source"]
    assert entry.facts.source.replace("_", "") in dict(facts)["Source"].replace("`", "").replace("_", "")
    assert section.count("```") == 2


@pytest.mark.parametrize("name", ["probe_score", "anamnesis_index"])
def test_a_costly_metric_says_how_to_have_it(name):
    assert "- Costly: measured by `--metrics all`, or by name\n" in section_of(name)


def test_ua_is_not_forget_accuracy():
    assert "**Trap.** UA is not forget accuracy. UA = 100 - `forget_score`" in section_of("forget_score")


@pytest.mark.parametrize("name", ["mia", "mia_confidence", "mia_lr"])
def test_an_attack_says_whom_it_counts(name):
    assert re.search(r"\*\*Trap\.\*\* (Counts|It counts) (non-)?members", section_of(name))


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_no_trap_is_left_in_the_text(entry):
    text, _ = paragraphs_of(entry.function, "Trap")
    assert not [paragraph for paragraph in text if "Trap" in paragraph]


def test_every_link_of_the_page_has_its_place():
    titles = {
        title.strip("`# \n").lower().replace(" ", "-")
        for title in re.findall(r"^#+ .*$", TEXT, flags=re.MULTILINE)
    }
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", TEXT) if link not in titles] == []


def test_every_row_of_a_table_has_the_cells_of_its_header():
    for rows in re.findall(r"(?:^\|.*\|\n)+", TEXT, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1


def test_a_metric_is_written_as_markdown():
    def sample(model, initial, luck):
        """Share of a|b in some_set.

            |a_b|

        In [0, 1].

        Trap: not the <share> of c.
        """

    registry = Registry("metric", MetricFacts)
    registry.register(
        "Sample", "other", unit="fraction", better="near 0", source="Some_body 2000", whole_class=True
    )(sample)
    text = page(registry)
    needs = "the initial model, luck, a whole class forgotten"
    assert rf"| [`Sample`](#sample) | Share of a\|b in `some_set`. | fraction | near 0 | {needs} |" in text
    assert (
        "### `Sample`\n\nAlso `other`. Share of a|b in `some_set`.\n\n```text\n|a_b|\n```\n\nIn \\[0, 1].\n\n"
        in text
    )
    assert r"**Trap.** Not the &lt;share> of c." in text
    assert (
        f"- Unit: a fraction, in [0, 1]\n- Good: near 0\n- Needs: {needs}\n- Source: `Some_body` 2000\n"
        in text
    )


def test_every_need_of_a_metric_has_words():
    from lethe.evaluation.impl import IN_WORDS

    assert set(IN_WORDS) == {"model", *NEEDS}
