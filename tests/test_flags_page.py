"""docs/flags.md: made from the commands' parsers, with all of their flags."""

import re

import pytest

from lethe.__main__ import COMMANDS as NAMES
from lethe.cli.flags_page import COMMAND, COMMANDS, PAGE, parser_of, written

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_parsers_say():
    assert written() == TEXT, f"docs/flags.md is not up to date: {COMMAND}"


def test_every_command_with_flags_has_a_section():
    assert {name for name, _ in COMMANDS} == set(NAMES) - {"list"}
    assert len(re.findall("^## `lethe ", TEXT, flags=re.MULTILINE)) == len(COMMANDS)


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=lambda value: "".join(value))
def test_every_flag_is_on_the_page(name, words):
    flags = {flag for flag in parser_of(name, words)._option_string_actions if flag.startswith("--")}
    assert {flag for flag in flags - {"--help"} if f"`{flag}`" not in TEXT} == set()
