"""A condition on a column of the training images: `source == "B"`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lethe.nearest_name import did_you_mean

# A word in quotes, or one without that has neither quotes nor signs of a comparison.
_WORD = r"""\s*("[^"]*"|'[^']*'|[^=!<>'"]*[^=!<>'"\s])\s*"""
_CONDITION = re.compile(f"{_WORD}(==|!=){_WORD}")
LISTED = 20  # values in a message


@dataclass(frozen=True)
class Condition:
    """Whether the text of a column equals a value, or differs from it."""

    column: str
    equal: bool
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read `column == value` or `column != value`; both words may be in quotes. Raises ValueError."""
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ValueError(
                f"""expected a condition such as 'source == "B"' or 'source != "B"', got {text!r:.80}. Put """
                "values with signs in quotes"
            )
        column, sign, value = found.groups()
        return cls(_unquoted(column), sign == "==", _unquoted(value))

    def __str__(self) -> str:
        return f"{self.column} {'==' if self.equal else '!='} {self.value or repr(self.value)}"

    def holds(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether the condition holds. Raises ValueError for a value that none has."""
        value = named_text(self.value, texts, f"value of {self.column!r}", "values")
        return [(text == value) == self.equal for text in texts]


def named_text(word: str, texts: Sequence[str], kind: str, plural: str) -> str:
    """Return the text that a word names: that one, or the only one that differs by its case alone.

    Raises ValueError, with the nearest one, if there is none.
    """
    known = set(texts)
    if word in known:
        return word
    alike = [text for text in known if text.casefold() == word.casefold()]
    if len(alike) == 1:
        return alike[0]
    shown = sorted(known - {""}, key=str.casefold)
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    raise ValueError(did_you_mean(kind, word, known - {""}, plural, listed=shown[:LISTED]) + more)


def _unquoted(word: str) -> str:
    return word[1:-1] if word[:1] in ("'", '"') else word
