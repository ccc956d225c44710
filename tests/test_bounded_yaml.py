"""Somebody else's YAML: bounded in size and depth once aliases are followed; every mistake names its line."""

import pytest

from lethe.system import bounded_yaml
from lethe.system.bounded_yaml import NotYaml, read_yaml


def test_what_it_says():
    assert read_yaml("a: [1, 2.5, yes, null, x]\nb: {c: '1'}\n") == {
        "a": [1, 2.5, True, None, "x"],
        "b": {"c": "1"},
    }


def test_aliases_and_merges_are_followed():
    text = "a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}\n"

    assert read_yaml(text) == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}], "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("empty", ["", "# nothing\n", "---\n"])
def test_an_empty_text_says_nothing(empty):
    assert read_yaml(empty) is None


def laughs(levels, start="[1,1,1,1,1,1,1,1,1,1]", join="[{}]"):
    """Each line ten times the line before."""
    lines = [f"a0: &a0 {start}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {join.format(','.join([f'*a{level - 1}'] * 10))}")
    return "\n".join(lines)


@pytest.mark.parametrize("text", [laughs(9), laughs(9, "{k: v}", "{{<<: [{}]}}")], ids=["aliases", "merges"])
def test_aliases_that_grow_are_refused_at_the_line_where_they_are_too_many(text):
    reason = r"line [4-6]: expected at most 100000 values, aliases followed, got more"
    with pytest.raises(NotYaml, match=reason):
        read_yaml(text)


def test_the_bound_counts_every_value_that_aliases_make(monkeypatch):
    text = "[&a [1, 2], *a, *a]"  # a list of three lists, each of which is a value with two in it

    monkeypatch.setattr(bounded_yaml, "MOST_VALUES", 10)
    assert read_yaml(text) == [[1, 2]] * 3

    monkeypatch.setattr(bounded_yaml, "MOST_VALUES", 9)
    with pytest.raises(NotYaml, match="at most 9 values"):
        read_yaml(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: &a [*a]\n", 1),
        ("x: 1\na: &a\n  b: {c: *a}\n", 3),
        ("&a [1, [*a]]\n", 1),
        ("a: &a\n  <<: *a\n", 2),
    ],
)
def test_what_is_inside_of_itself_is_refused(text, line):
    reason = rf"line {line}: expected values, got \*a inside of &a, which has no end"
    with pytest.raises(NotYaml, match=reason):
        read_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 101 + "]" * 101,
        "[" * 5000 + "1" + "]" * 5000,
        "[" * 5000,
        "- " * 200 + "1",
        "{a: " * 200 + "}" * 200,
        "? " * 200,
    ],
    ids=["one too many", "lists", "never closed", "dashes", "mappings", "keys"],
)
def test_what_is_too_deep_is_refused(text):
    reason = "expected at most 100 nested lists and mappings, got more|exceeded maximum nesting depth"
    with pytest.raises(NotYaml, match=f"line 1: ({reason})"):
        read_yaml(text)


def test_a_hundred_lists_in_each_other_are_read():
    content = read_yaml("[" * 100 + "]" * 100)

    for _ in range(99):
        (content,) = content
    assert content == []


def test_depth_is_counted_through_aliases():
    sixty = "[" * 59 + "1" + "]" * 59
    with pytest.raises(NotYaml, match="line 2: expected at most 100 nested lists and mappings"):
        read_yaml(f"a: &a {sixty}\nb: {'[' * 59}*a{']' * 59}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"a: 1\nb: [1, {'9' * 5000}]\n", r"line 2: expected an int, got 9{40}\.\.\. of 5000 characters"),
        (f"? {'9' * 5000}\n: 1\n", "line 1: expected an int"),
        (
            "a: 1\nb: 2026-13-45\n",
            r"line 2: expected a timestamp, got 2026-13-45 \(ValueError\)\. Correct it, or put it in quotes",
        ),
        ("a: !!int x\n", "line 1: expected an int, got x"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "line 1: could not determine a constructor for the tag",
        ),
        ("a: 1\nb: *none\n", "line 2: found undefined alias"),
        ("a: [1\nb: 2\n", "line 2: did not find|line 2: expected"),
        ("--- 1\n--- 2\n", "line 2: but found another document"),
        ("a: \x00\n", "control characters are not allowed|special characters are not allowed"),
        (b"a: \xff\n", "utf-8|UTF-8"),
    ],
)
def test_a_mistake_is_told_with_its_line(text, says):
    with pytest.raises(NotYaml, match=says):
        read_yaml(text)
